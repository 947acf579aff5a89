//! Processes as `/proc` shows them, and the one safe way to signal those that are not our children.
//!
//! Owns the reading of `/proc/PID`. A pid alone names nobody: a process is held by its pidfd (or, on old kernels, by its
//! start time) from before it was looked at until after it was signalled.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::sys;

/// The largest environment that is searched, in bytes; the kernel's own bound is a quarter of the stack.
const ENVIRON_MAX: u64 = 8 * 1024 * 1024;

/// A tree that grows while it is walked would otherwise be walked for ever.
pub(super) const DESCENDANTS_MAX: usize = 65_536;

/// One line of `/proc/PID/stat`, the fields that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: i32,
    pub(super) parent: i32,
    /// Whether only its exit status is left.
    pub(super) is_zombie: bool,
    /// Clock ticks since boot.
    pub(super) started: i64,
}

/// Reads the line of one process.
pub(super) fn stat(pid: i32) -> io::Result<Stat> {
    let mut line = [0; 1024];
    let length = File::open(format!("/proc/{pid}/stat"))?.read(&mut line)?;
    parse(&line[..length]).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/PID/stat"))
}

fn parse(line: &[u8]) -> Option<Stat> {
    // The name stands in parentheses and may itself contain spaces and parentheses.
    let open = line.iter().position(|byte| *byte == b'(')?;
    let close = line.iter().rposition(|byte| *byte == b')')?;
    let pid = str::from_utf8(&line[..open]).ok()?.trim().parse().ok()?;
    let mut fields = str::from_utf8(&line[close + 1..]).ok()?.split_ascii_whitespace();
    let is_zombie = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat { pid, parent, is_zombie, started })
}

/// The pids of all processes that `/proc` shows.
pub(super) fn all() -> io::Result<impl Iterator<Item = i32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// The children of a process, zombies included.
pub(super) fn children(parent: i32) -> io::Result<Vec<i32>> {
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{parent}/task"))? {
        match fs::read_to_string(task?.path().join("children")) {
            Ok(list) => children.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            // A kernel without these lists: everybody is asked for his parent.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !has_lists_of_children() => {
                let stats = all()?.filter_map(|pid| stat(pid).ok());
                return Ok(stats.filter(|stat| stat.parent == parent).map(|stat| stat.pid).collect());
            }
            // The thread has ended, and its children are another's now.
            Err(_) => {}
        }
    }
    Ok(children)
}

fn has_lists_of_children() -> bool {
    let own = std::process::id();
    Path::new(&format!("/proc/{own}/task/{own}/children")).exists()
}

/// The living processes below `root`, zombies left out, at most [`DESCENDANTS_MAX`]. A tree that changes meanwhile is
/// seen in part: look again.
pub(super) fn descendants(root: i32) -> Vec<Stat> {
    let (mut found, mut parents) = (Vec::new(), vec![root]);
    while let Some(parent) = parents.pop().filter(|_| found.len() < DESCENDANTS_MAX) {
        for child in children(parent).unwrap_or_default() {
            parents.push(child);
            found.extend(stat(child).ok().filter(|stat| !stat.is_zombie));
        }
    }
    found
}

/// A process that is held: it may end, but no other can be taken for it.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) started: i64,
    /// `None` on a kernel without pidfds.
    pidfd: Option<OwnedFd>,
}

impl Process {
    /// Holds the process that has this pid now. `None`: there is none, or only its exit status is left.
    pub(super) fn hold(pid: i32) -> Option<Self> {
        let pidfd = match sys::pidfd_open(pid) {
            Ok(pidfd) => Some(pidfd),
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => None,
            Err(_) => return None,
        };
        // Read after the pidfd was opened: if the process still is when it is signalled, this was about it.
        let Stat { started, is_zombie: false, .. } = stat(pid).ok()? else { return None };
        Some(Self { pid, started, pidfd })
    }

    /// Signals it. `false`: it has ended.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        match &self.pidfd {
            Some(pidfd) => sys::pidfd_signal(pidfd.as_fd(), signal).is_ok(),
            None => self.is_alive() && kill(Pid::from_raw(self.pid), signal).is_ok(),
        }
    }

    /// Whether it still runs. A zombie does not.
    pub(super) fn is_alive(&self) -> bool {
        stat(self.pid).is_ok_and(|stat| stat.started == self.started && !stat.is_zombie)
    }
}

/// Visits the processes, this one excepted, whose environment has exactly this entry (`NAME=value`), each held.
pub(super) fn each_with_environment(entry: &str, mut visit: impl FnMut(&Process)) -> io::Result<()> {
    let own = std::process::id() as i32;
    for pid in all()?.filter(|pid| *pid != own) {
        // Held first, looked at second.
        if let Some(process) = Process::hold(pid)
            && environment_has(pid, entry.as_bytes())
        {
            visit(&process);
        }
    }
    Ok(())
}

fn environment_has(pid: i32, entry: &[u8]) -> bool {
    let mut environment = Vec::new();
    let Ok(file) = File::open(format!("/proc/{pid}/environ")) else { return false };
    let _what_was_read_counts = file.take(ENVIRON_MAX).read_to_end(&mut environment);
    environment.split(|byte| *byte == 0).any(|line| line == entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line = b"42 (a) b) (c) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 0 0";
        assert_eq!(parse(line), Some(Stat { pid: 42, parent: 7, is_zombie: false, started: 123_456 }));
    }

    #[test]
    fn the_start_time_is_ours() {
        let own = std::process::id() as i32;
        let stat = stat(own).unwrap();
        assert_eq!((stat.pid, stat.is_zombie), (own, false));
        assert!(Process::hold(own).unwrap().is_alive());
    }
}
