//! What lives on this machine, only looked at: who holds which lock, and which processes belong to which run.
//!
//! Never takes a lock, not even for a moment: whoever holds a run's lock decides whether it starts.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use crate::model::RunId;

/// The most of an environment that is looked at.
const ENVIRON_MAX: u64 = 1024 * 1024;

/// The locks (`flock`) that processes of this pid namespace hold.
#[derive(Debug)]
pub(super) struct Locks(HashSet<u64>);

impl Locks {
    /// Reads them all.
    pub(super) fn read() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/locks")?;
        Ok(Self(text.lines().filter_map(held).collect()))
    }

    /// Whether somebody holds this file's.
    pub(super) fn hold(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|metadata| self.0.contains(&metadata.ino()))
    }
}

/// The inode of a line such as `1: FLOCK  ADVISORY  WRITE 1234 08:01:4711 0 EOF`; one that waits has `->` first.
fn held(line: &str) -> Option<u64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let place = (words.get(1) == Some(&"FLOCK")).then(|| words.get(5)).flatten()?;
    place.rsplit(':').next()?.parse().ok()
}

/// The processes of runs on this machine, as far as this user may look: those that say so in their environment, and those
/// in the cgroup of a run.
pub(super) fn processes() -> io::Result<BTreeMap<RunId, Vec<i32>>> {
    let mut found: BTreeMap<RunId, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse().ok()) else { continue };
        if let Some(run_id) = run_of(pid) {
            found.entry(run_id).or_default().push(pid);
        }
    }
    Ok(found)
}

/// The run that a living process belongs to.
pub(super) fn run_of(pid: i32) -> Option<RunId> {
    let proc = Path::new("/proc").join(pid.to_string());
    let stat = fs::read_to_string(proc.join("stat")).ok()?;
    // A zombie is no process any more; its parent will collect it.
    if stat.rsplit(") ").next()?.starts_with(['Z', 'X']) {
        return None;
    }
    let cgroup = fs::read_to_string(proc.join("cgroup")).unwrap_or_default();
    in_cgroup(&cgroup).or_else(|| {
        let mut environment = Vec::new();
        let _what_was_read_counts =
            fs::File::open(proc.join("environ")).ok()?.take(ENVIRON_MAX).read_to_end(&mut environment);
        environment
            .split(|byte| *byte == 0)
            .find_map(|entry| std::str::from_utf8(entry.strip_prefix(b"ORCH_RUN_ID=")?).ok()?.parse().ok())
    })
}

/// Whether a KILL is on its way to the process, which has not ended all the same.
pub(super) fn is_being_killed(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| awaits_kill(&status))
}

/// The signals that wait for one thread, or for all, are two masks of `/proc/PID/status`.
fn awaits_kill(status: &str) -> bool {
    let masks = status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    masks
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask & (1 << (libc::SIGKILL - 1)) != 0)
}

/// The run whose cgroup this is: `0::/…/orch/NAME/RUN_ID`. Others name theirs by numbers that look like one.
fn in_cgroup(text: &str) -> Option<RunId> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (above, name) = path.rsplit_once('/')?;
    let run_id: RunId = name.parse().ok()?;
    (above.contains("/orch/") && run_id.to_string() == name).then_some(run_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_seen_and_a_free_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let [taken, free] = ["taken", "free"].map(|name| dir.path().join(name));
        let file = fs::File::create(&taken).unwrap();
        fs::write(&free, "").unwrap();
        file.lock().unwrap();
        let locks = Locks::read().unwrap();
        assert!(locks.hold(&taken) && !locks.hold(&free) && !locks.hold(&dir.path().join("none")));
        assert_eq!(held("2: -> FLOCK  ADVISORY  WRITE 1234 08:01:4711 0 EOF"), None);
    }

    #[test]
    fn a_kill_that_waits_is_seen_for_a_thread_and_for_all() {
        assert!(awaits_kill("Name:\tsleep\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"));
        assert!(awaits_kill("SigPnd:\t0000000000000000\nShdPnd:\t0000000000004100\n"));
        assert!(!awaits_kill("SigPnd:\t0000000000000000\nShdPnd:\t0000000000004000\nSigBlk:\t0000000000000100\n"));
    }

    #[test]
    fn a_cgroup_is_a_runs_where_orch_made_it() {
        let run_id = RunId::new();
        let plain = run_id.to_string().replace('-', "");
        assert_eq!(in_cgroup(&format!("1:cpu:/x\n0::/system.slice/orch/a/{run_id}\n")), Some(run_id));
        for other in
            [format!("4:memory:/orch/a/{run_id}\n0::/"), format!("0::/other/{run_id}"), format!("0::/orch/a/{plain}")]
        {
            assert_eq!(in_cgroup(&other), None, "{other}");
        }
    }

    #[test]
    fn a_process_is_found_by_its_environment() {
        let run_id = RunId::new();
        let mut child =
            std::process::Command::new("sleep").arg("60").env("ORCH_RUN_ID", run_id.to_string()).spawn().unwrap();
        let pid = child.id() as i32;
        // Until it has become its program its environment is the test's.
        let began = std::time::Instant::now();
        while run_of(pid) != Some(run_id) {
            assert!(began.elapsed().as_secs() < 10, "it is not found");
            std::thread::yield_now();
        }
        assert_eq!(processes().unwrap().get(&run_id), Some(&vec![pid]));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(run_of(pid), None);
    }
}
