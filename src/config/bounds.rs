//! Which settings fit together. The rules of the lease are argued in `docs/architecture/internals.md`.

use std::time::Duration;

use super::{Settings, problem::Problem};

/// What does not fit together.
pub(super) fn refusals(settings: &Settings) -> Vec<Problem> {
    let mut problems = Vec::new();
    let Settings { lease, heartbeat, kill_grace, reap_grace, reap_interval, .. } = *settings;
    let least = heartbeat * 4 + kill_grace + reap_grace;
    if lease < least {
        problems.push(Problem::general(format!(
            "lease is {}, shorter than 4 heartbeat + kill_grace + reap_grace, which are {}: \
             write a longer lease or a shorter heartbeat",
            shown(lease),
            shown(least)
        )));
    }
    if reap_interval > lease / 4 {
        problems.push(Problem::general(format!(
            "reap_interval is {}, longer than a quarter of the lease ({}): write at most {}",
            shown(reap_interval),
            shown(lease),
            shown(lease / 4)
        )));
    }
    problems
}

/// What the lease means for whoever runs this, in sentences.
pub(super) fn explanations(settings: &Settings) -> Vec<String> {
    let Settings { lease, heartbeat, kill_grace, reap_grace, .. } = *settings;
    vec![
        format!(
            "the database may be away for {} before runs are killed (lease - kill_grace - heartbeat): \
             this must be longer than a failover takes",
            shown(lease.saturating_sub(kill_grace + heartbeat))
        ),
        format!("the jobs of a dead host wait for {} (lease + reap_grace)", shown(lease + reap_grace)),
    ]
}

fn shown(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}
