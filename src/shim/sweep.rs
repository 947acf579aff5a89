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
    bounds::Hierarchies,
    cgroup::{Group, Home, boot_id},
    note::{Note, Place},
    process::{Process, each_with_environment},
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
    let note = match Note::read(lock.file()) {
        Ok(None) => return Ok(Swept::default()),
        Ok(Some(note)) => note,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => suspect_all(dir, lock)?,
        Err(error) => return Err(error),
    };
    let here = boot_id();
    if here.is_empty() {
        // Or every tree would seem to be of another boot.
        return Err(io::Error::other(
            "this boot of the machine has no name: /proc/sys/kernel/random/boot_id cannot be read",
        ));
    }
    // In another boot nothing of the tree can live; a copy of the directory knows nothing of the original's processes.
    if note.boot_id != here || note.place != Some(Place::of(lock.file())?) {
        return Ok(Swept::default());
    }
    let group = note.cgroup.clone().map(Group::at);
    let entry = format!("ORCH_RUN_ID={}", dir.run_id());
    let deadline = Instant::now() + BOUND;
    let mut seen = HashSet::new();
    loop {
        // `cgroup.kill` also reaches what is being forked.
        let populated = match &group {
            Some(group) if group.is_populated()? => {
                group.each(|process| {
                    let _ = seen.insert((process.pid, process.started));
                });
                group.kill()?;
                true
            }
            _ => false,
        };
        let mut remaining = u32::from(populated);
        kill_each(&note, &entry, |process| {
            seen.insert((process.pid, process.started));
            remaining += 1;
        })?;
        if remaining == 0 {
            if let Some(group) = &group {
                group.remove();
            }
            Hierarchies::find(dir.state_dir()).remove(dir.run_id());
            return Ok(Swept { killed: seen.len() as u32, remaining });
        }
        if Instant::now() >= deadline {
            return Ok(Swept { killed: seen.len() as u32, remaining });
        }
        sleep(PAUSE);
    }
}

/// What to look through where the note cannot be read: the group by its name, and every environment.
fn suspect_all(dir: &RunDir, lock: &RunLock) -> io::Result<Note> {
    let home = Home::find(dir.state_dir()).ok();
    let cgroup = home.map(|home| home.group(dir.run_id()).path().to_owned()).filter(|group| group.exists());
    let place = Some(Place::of(lock.file())?);
    Ok(Note { boot_id: boot_id(), containment: Containment::Sweep, cgroup, init: None, place })
}

/// KILL to what the note names beside a cgroup.
fn kill_each(note: &Note, entry: &str, mut visit: impl FnMut(&Process)) -> io::Result<()> {
    let mut kill = |process: &Process| {
        visit(process);
        process.signal(Signal::SIGKILL);
    };
    match note.containment {
        Containment::Cgroup => {}
        // The kernel ends the rest of the namespace with its init, which is not gone before they are.
        Containment::Pidns => {
            if let Some((pid, started)) = note.init
                && let Some(init) = Process::hold(pid)
                && init.started == started
            {
                kill(&init);
            }
        }
        Containment::Sweep => each_with_environment(entry, kill)?,
    }
    Ok(())
}
