//! This machine alone: what it can hold a run with, and where a replica keeps its state.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::{Finding, Verdict};
use crate::{
    model::Containment,
    shim::client::{Survey, best_containment, own_exe},
};

/// Less free space than this is said; results and output need some.
const LITTLE: u64 = 256 << 20;

/// Less than this and a run may not be able to say how it ended.
const TOO_LITTLE: u64 = 16 << 20;

/// Looks at this machine. Blocks for some milliseconds.
#[must_use]
pub fn examine_machine(state_dir: &Path) -> Vec<Finding> {
    let mut findings = match best_containment(&own_exe(), state_dir) {
        Ok(survey) => vec![containment(&survey), limits(survey.limits_memory, survey.limits_pids)],
        Err(error) => {
            vec![Finding::new("containment", Verdict::Wrong, format!("no run can be started here: {error}"))]
        }
    };
    findings.push(directory(state_dir));
    findings.extend(space(state_dir));
    findings
}

/// What `memory_max` and `pids_max` of an agent mean here.
fn limits(memory: bool, pids: bool) -> Finding {
    let without = |name: &str, instead: &str| format!("{name} {instead}, since no cgroup controller for it can be had");
    let missing: Vec<String> = [
        (!memory).then(|| without("memory_max", "holds for the private memory of each process")),
        (!pids).then(|| without("pids_max", "holds for all processes of the agent's user, and without one not at all")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if missing.is_empty() {
        Finding::new("limits", Verdict::Ok, "memory_max and pids_max hold for a run's whole tree")
    } else {
        Finding::new("limits", Verdict::Note, missing.join("; "))
    }
}

fn containment(survey: &Survey) -> Finding {
    let refused: Vec<String> = survey.refused.iter().map(|(which, why)| format!("no {which}: {why}")).collect();
    let refused = if refused.is_empty() { String::new() } else { format!(" ({})", refused.join("; ")) };
    match survey.best {
        Containment::Sweep => Finding::new(
            "containment",
            Verdict::Note,
            format!("sweep: a run whose shim is killed, or a fork bomb, can outlive its end{refused}"),
        ),
        better => Finding::new("containment", Verdict::Ok, format!("{better}{refused}")),
    }
}

fn directory(state_dir: &Path) -> Finding {
    match state_dir.metadata() {
        Ok(metadata) if !metadata.is_dir() => {
            Finding::new("state_dir", Verdict::Wrong, format!("{} is no directory", state_dir.display()))
        }
        Ok(_) => {
            match nix::unistd::access(state_dir, nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK) {
                Ok(()) => Finding::new("state_dir", Verdict::Ok, state_dir.display().to_string()),
                Err(error) => Finding::new(
                    "state_dir",
                    Verdict::Note,
                    format!(
                        "{} cannot be written by this user ({}): a replica needs that",
                        state_dir.display(),
                        error.desc()
                    ),
                ),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Finding::new(
            "state_dir",
            Verdict::Note,
            format!("{} does not exist: no replica has run here", state_dir.display()),
        ),
        Err(error) => {
            Finding::new("state_dir", Verdict::Wrong, format!("{} cannot be read: {error}", state_dir.display()))
        }
    }
}

fn space(state_dir: &Path) -> Option<Finding> {
    let found = statvfs(state_dir).ok()?;
    Some(judge_space(found.blocks_available() as u64 * found.fragment_size() as u64))
}

fn judge_space(free: u64) -> Finding {
    let shown = format!("{} MiB are free where the state directory lies", free >> 20);
    match free {
        ..TOO_LITTLE => Finding::new(
            "disk",
            Verdict::Wrong,
            format!("{shown}: no run can be prepared, and output is dropped; make room"),
        ),
        TOO_LITTLE..LITTLE => {
            Finding::new("disk", Verdict::Note, format!("{shown}: output may not be kept; make room"))
        }
        _ => Finding::new("disk", Verdict::Ok, shown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_do_not_hold_for_a_tree_are_said() {
        assert_eq!(limits(true, true).verdict, Verdict::Ok);
        let said = limits(true, false);
        assert!(said.verdict == Verdict::Note && said.what.starts_with("pids_max") && !said.what.contains("memory"));
    }

    #[test]
    fn little_space_is_said_and_too_little_is_wrong() {
        for (mebibytes, verdict) in
            [(15, Verdict::Wrong), (16, Verdict::Note), (255, Verdict::Note), (256, Verdict::Ok)]
        {
            assert_eq!(judge_space(mebibytes << 20).verdict, verdict, "{mebibytes} MiB");
        }
    }
}
