//! Which settings fit together. The rules of the lease are argued in `docs/architecture/internals.md`.

use std::time::Duration;

use super::{Drain, Settings, problem::Problem};

/// What does not fit together.
pub(super) fn refusals(settings: &Settings) -> Vec<Problem> {
    let mut problems = Vec::new();
    let Settings { lease, heartbeat, kill_grace, reap_grace, reap_interval, handover_lease, .. } = *settings;
    let to_renew = heartbeat * 4 + kill_grace + reap_grace;
    // A run is started only while 2K of the lease are left, and an answered renewal may be 2H old.
    let to_start = (kill_grace + heartbeat) * 2;
    if lease < to_renew.max(to_start) {
        problems.push(Problem::general(if to_start > to_renew {
            format!(
                "lease is {}, shorter than 2 kill_grace + 2 heartbeat, which are {}: a run starts only while \
                 2 kill_grace of the lease are left, so that hardly one ever could, and you should write a longer lease \
                 or a shorter kill_grace",
                shown(lease),
                shown(to_start)
            )
        } else {
            format!(
                "lease is {}, shorter than 4 heartbeat + kill_grace + reap_grace, which are {}: \
                 write a longer lease or a shorter heartbeat",
                shown(lease),
                shown(to_renew)
            )
        }));
    }
    if settings.drain == Drain::Handover && handover_lease < lease {
        problems.push(Problem::general(format!(
            "handover_lease is {}, shorter than the lease ({}), which a handover must not shorten: write at least {}",
            shown(handover_lease),
            shown(lease),
            shown(lease)
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
    if !settings.listen.ip().is_loopback() && settings.http_token_file.is_none() {
        problems.push(Problem::general(format!(
            "listen is {}, which other hosts may reach, and no http_token_file says who may ask: \
             name a file with tokens, or write a loopback address such as \"127.0.0.1:{}\"",
            settings.listen,
            settings.listen.port()
        )));
    }
    problems
}

/// What the lease means for whoever runs this, in sentences.
pub(super) fn explanations(settings: &Settings) -> Vec<String> {
    let Settings { lease, heartbeat, kill_grace, reap_grace, handover_lease, .. } = *settings;
    let mut sentences = vec![
        format!(
            "the database may be away for {} before runs are killed (lease - kill_grace - heartbeat): \
             this must be longer than a failover takes",
            shown(lease.saturating_sub(kill_grace + heartbeat))
        ),
        format!("the jobs of a dead host wait for {} (lease + reap_grace)", shown(lease + reap_grace)),
    ];
    if settings.drain == Drain::Handover {
        sentences.push(format!(
            "after a SIGTERM the next start on this state directory may take {} before live runs are killed \
             (handover_lease - kill_grace); if nobody comes, their jobs wait for {} (handover_lease + reap_grace)",
            shown(handover_lease.saturating_sub(kill_grace)),
            shown(handover_lease + reap_grace)
        ));
    }
    sentences
}

fn shown(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(duration)
}
