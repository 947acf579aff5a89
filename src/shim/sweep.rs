//! Ends what a dead shim left behind.
//!
//! Owns the way from "the lock is free" to "the tree is empty". Works from the shim's note in the lock file: the cgroup
//! by its path, the namespace by its first process, everything else by `ORCH_RUN_ID` in its environment. Never signals a
//! pid that it does not hold, and gives up after a bound, saying what is left.

use std::{
    collections::HashSet,
    io,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    cgroup::{Group, boot_id},
    note::Note,
    process::{Process, with_environment},
    rundir::{RunDir, RunLock},
};
use crate::model::Containment;

/// A sweep that takes longer says what is left, and is repeated by the caller.
const BOUND: Duration = Duration::from_secs(1);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Processes that it ended, or told to end.
    pub killed: u32,
    /// Processes that still live: repeat it, and do not settle the run before this is 0.
    pub remaining: u32,
}

/// Ends the tree of a run whose shim is gone, which the lock proves. Takes at most about a second; blocking.
pub fn sweep(dir: &RunDir, lock: &RunLock) -> io::Result<Swept> {
    let Some(note) = Note::read(lock.file())? else { return Ok(Swept::default()) };
    if note.boot_id != boot_id() {
        return Ok(Swept::default());
    }
    let group = note.cgroup.clone().map(Group::at);
    let entry = format!("ORCH_RUN_ID={}", dir.run_id());
    let deadline = Instant::now() + BOUND;
    let mut seen = HashSet::new();
    loop {
        let living = living(&note, group.as_ref(), &entry)?;
        if living.is_empty() && !group.as_ref().map(Group::is_populated).transpose()?.unwrap_or(false) {
            if let Some(group) = &group {
                group.remove();
            }
            return Ok(Swept { killed: seen.len() as u32, remaining: 0 });
        }
        if Instant::now() >= deadline {
            return Ok(Swept { killed: seen.len() as u32, remaining: living.len().max(1) as u32 });
        }
        seen.extend(living.iter().map(|process| (process.pid, process.started)));
        if let Some(group) = &group {
            group.kill()?;
        }
        for process in &living {
            process.signal(Signal::SIGKILL);
        }
        sleep(PAUSE);
    }
}

fn living(note: &Note, group: Option<&Group>, entry: &str) -> io::Result<Vec<Process>> {
    match note.containment {
        Containment::Cgroup => Ok(group.map(Group::processes).unwrap_or_default()),
        // The kernel ends the rest of the namespace with it, and it is not gone before they are.
        Containment::Pidns => {
            let init =
                note.init.and_then(|(pid, started)| Process::hold(pid).filter(|process| process.started == started));
            Ok(init.into_iter().collect())
        }
        Containment::Sweep => with_environment(entry),
    }
}
