//! What the kernel says about processes, read from /proc: who holds a lock, whose child one is, who is a zombie.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// One line of `/proc/PID/stat`, as far as the suite needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The process id.
    pub(crate) pid: i32,
    /// `R`, `S`, `Z`, …
    pub(crate) state: char,
    /// The parent's process id.
    pub(crate) parent: i32,
}

/// The process, if it exists.
pub(crate) fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(proc(pid).join("stat")).ok()?;
    // The name before may hold spaces and parentheses.
    let mut words = text.rsplit_once(") ")?.1.split(' ');
    Some(Stat { pid, state: words.next()?.chars().next()?, parent: words.next()?.parse().ok()? })
}

/// All processes.
pub(crate) fn all() -> Vec<Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The processes whose parents lead to `root`, zombies among them.
pub(crate) fn descendants(root: i32) -> Vec<Stat> {
    let all = all();
    let mut found: Vec<Stat> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for child in all.iter().filter(|child| child.parent == parent) {
            parents.push(child.pid);
            found.push(*child);
        }
    }
    found
}

/// The processes whose parent this is.
pub(crate) fn children(parent: i32) -> Vec<i32> {
    all().into_iter().filter(|stat| stat.parent == parent).map(|stat| stat.pid).collect()
}

/// The process that holds a lock on a file in this directory: the shim of a run's directory.
pub(crate) fn lock_holder(dir: &Path) -> Option<i32> {
    let files = fs::read_dir(dir).ok()?.flatten();
    let inodes: Vec<String> =
        files.filter_map(|file| file.metadata().ok()).map(|meta| format!(":{}", meta.ino())).collect();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // 1: FLOCK  ADVISORY  WRITE 1234 08:01:4711 0 EOF
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let held = words.get(1) == Some(&"FLOCK") && inodes.iter().any(|inode| words[5].ends_with(inode));
        held.then(|| words[4].parse().ok()).flatten()
    })
}

/// Which of these files are locked, and by whom.
pub(crate) fn flock_holders(files: &[PathBuf]) -> Vec<(PathBuf, i32)> {
    let key = |path: &Path| fs::metadata(path).ok().map(|meta| (format!(":{}", meta.ino()), path.to_owned()));
    let inodes: BTreeMap<String, PathBuf> = files.iter().filter_map(|path| key(path)).collect();
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let held = locks.lines().filter_map(|line| {
        // 1: FLOCK  ADVISORY  WRITE 1234 08:01:4711 0 EOF; one that waits has `->` after the number.
        let words: Vec<&str> = line.split_whitespace().collect();
        let (kind, pid, place) = (words.get(1)?, words.get(4)?, words.get(5)?);
        let inode = place.rfind(':').map(|colon| &place[colon..])?;
        let path = inodes.get(inode).filter(|_| *kind == "FLOCK")?;
        Some((path.clone(), pid.parse().ok()?))
    });
    held.collect()
}

/// The living processes that carry this word in their environment.
pub(crate) fn with_environment(word: &str) -> Vec<i32> {
    let word = word.as_bytes();
    let living = all().into_iter().filter(|stat| stat.state != 'Z').map(|stat| stat.pid);
    let carries = |pid: &i32| {
        let environment = fs::read(proc(*pid).join("environ")).unwrap_or_default();
        environment.windows(word.len()).any(|window| window == word)
    };
    living.filter(carries).collect()
}

/// The spawner of a replica: its child that was started as `orch __shim`.
pub(crate) fn spawner(replica: i32) -> Option<i32> {
    all().into_iter().filter(|stat| stat.parent == replica).map(|stat| stat.pid).find(|pid| {
        let line = fs::read(proc(*pid).join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"__shim")
    })
}

/// Resident memory, bytes.
pub(crate) fn resident(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(proc(pid).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Open descriptors.
pub(crate) fn descriptors(pid: i32) -> usize {
    fs::read_dir(proc(pid).join("fd")).into_iter().flatten().count()
}

/// Sends a signal to a process that may have ended.
pub(crate) fn signal_if_there(pid: i32, signal: Signal) {
    let _it_has_ended = kill(Pid::from_raw(pid), signal);
}

/// Sends a signal to a process that must exist.
pub(crate) fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap_or_else(|error| panic!("{signal} to {pid}: {error}"));
}

fn proc(pid: i32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}
