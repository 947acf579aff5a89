//! Containment `cgroup`: a group of the v2 tree for each run, and how it is ended.
//!
//! Owns `orch/<state directory>/<run_id>` below the group that this process is in, or below the root of the tree. Works
//! without controllers (a hybrid host); limits then cannot be had here. Never signals a pid that it has not seen in the
//! group while it held the process.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use nix::unistd::Pid;

use super::process::Process;
use crate::model::RunId;

/// Where the groups of a state directory are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Home(PathBuf);

impl Home {
    /// Finds a place where a group can be made and ended whole, or says why there is none.
    pub(super) fn find(state_dir: &Path) -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("mountinfo: {error}"))?;
        let (mount, root) = v2_mount(&mounts).ok_or("no cgroup v2 tree is mounted")?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
        let own = v2_path(&own).ok_or("this process is in no cgroup v2")?;
        // Seen from a container, the mount shows only the part of the tree below `root`.
        let own = own.strip_prefix(root.as_str()).unwrap_or(own).trim_start_matches('/');
        let name = name(state_dir).map_err(|error| format!("{}: {error}", state_dir.display()))?;
        let mut refusals = String::new();
        let mut places = vec![mount.join(own), mount.clone()];
        places.dedup();
        for place in places {
            let home = Self(place.join("orch").join(&name));
            match home.make() {
                Ok(()) => return Ok(home),
                Err(error) => drop(write!(refusals, "{}{}: {error}", separator(&refusals), place.display())),
            }
        }
        Err(refusals)
    }

    fn make(&self) -> io::Result<()> {
        make_group(self.0.parent().unwrap_or(&self.0))?;
        make_group(&self.0)?;
        if !self.0.join("cgroup.kill").try_exists()? {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel has no cgroup.kill (it comes with 5.14)",
            ));
        }
        // Limits need their controllers handed down. Where that is refused, the run says so.
        for group in self.0.ancestors().take(3).collect::<Vec<_>>().into_iter().rev() {
            for controller in ["+memory", "+pids"] {
                let _limits_cannot_be_had = fs::write(group.join("cgroup.subtree_control"), controller);
            }
        }
        Ok(())
    }

    /// The group of a run, whether it exists or not.
    pub(super) fn group(&self, run_id: RunId) -> Group {
        Group(self.0.join(run_id.to_string()))
    }

    /// Whether the groups made here have this file, which their controller brings.
    pub(super) fn hands_down(&self, file: &str) -> bool {
        self.make_group(RunId::new()).is_ok_and(|group| {
            let has = group.path().join(file).exists();
            group.remove();
            has
        })
    }

    /// Removes the groups that are of no run and hold nothing: a shim that is killed before it has a run leaves one.
    pub(super) fn tidy(&self, is_of_a_run: impl Fn(RunId) -> bool) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if name.is_some_and(|run_id| !is_of_a_run(run_id)) {
                let _something_lives_in_it = fs::remove_dir(entry.path());
            }
        }
    }

    /// Removes the place if no group is left in it.
    pub(super) fn leave(&self) {
        let _others_live_here = fs::remove_dir(&self.0).and_then(|()| self.0.parent().map_or(Ok(()), fs::remove_dir));
    }

    /// Makes the group of a run.
    pub(super) fn make_group(&self, run_id: RunId) -> io::Result<Group> {
        let group = self.group(run_id);
        match fs::create_dir(group.path()) {
            // A spawner that went away took the empty place along.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make()?;
                fs::create_dir(group.path())?;
            }
            outcome => outcome?,
        }
        Ok(group)
    }
}

const fn separator(before: &str) -> &'static str {
    if before.is_empty() { "" } else { "; " }
}

/// The state directory's name in the tree: the same wherever it is mounted, different for a copy.
pub(super) fn name(state_dir: &Path) -> io::Result<String> {
    let metadata = fs::metadata(state_dir)?;
    Ok(format!("{:x}-{:x}", metadata.dev(), metadata.ino()))
}

fn make_group(path: &Path) -> io::Result<()> {
    fs::create_dir(path).or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
}

/// Mount point of the v2 tree, and which part of the tree is mounted there.
fn v2_mount(mounts: &str) -> Option<(PathBuf, String)> {
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        if !kind.starts_with("cgroup2 ") {
            return None;
        }
        mount_of(place)
    })
}

/// Mount point, and which part of the file system is mounted there, in the first half of a line of mountinfo.
pub(super) fn mount_of(place: &str) -> Option<(PathBuf, String)> {
    let mut fields = place.split(' ').skip(3);
    let (root, mount) = (fields.next()?, fields.next()?);
    // The kernel writes a space in a name as \040.
    Some((PathBuf::from(mount.replace("\\040", " ")), root.replace("\\040", " ")))
}

fn v2_path(own: &str) -> Option<&str> {
    own.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The group of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group(PathBuf);

/// What a group has used.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    pub(super) user_seconds: Option<f64>,
    pub(super) system_seconds: Option<f64>,
    pub(super) peak_memory_bytes: Option<u64>,
    pub(super) oom_kills: Option<u64>,
}

impl Group {
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn exists(&self) -> bool {
        self.0.is_dir()
    }

    /// Sets a limit (`memory.max`, `pids.max`). `false`: its controller is not to be had here.
    fn limit(&self, file: &str, value: u64) -> bool {
        let path = self.0.join(file);
        path.exists() && fs::write(path, value.to_string()).is_ok()
    }

    /// [`Self::limit`] for memory.
    pub(super) fn limit_memory(&self, max: u64) -> bool {
        let limited = self.limit("memory.max", max);
        // Swapping instead would be a limit in name only.
        if limited {
            self.limit("memory.swap.max", 0);
        }
        limited
    }

    /// [`Self::limit`] for processes.
    pub(super) fn limit_pids(&self, max: u64) -> bool {
        self.limit("pids.max", max)
    }

    /// `cgroup.events`: readable now, and polled as priority data when it changes.
    pub(super) fn events(&self) -> io::Result<Events> {
        File::open(self.0.join("cgroup.events")).map(Events)
    }

    /// Whether a process lives in it. A group that is gone has none.
    pub(super) fn is_populated(&self) -> io::Result<bool> {
        match self.events() {
            Ok(events) => events.is_populated(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The pids in it and in the groups that the job made below it.
    pub(super) fn pids(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        self.walk(|group| {
            if let Ok(list) = fs::read_to_string(group.join("cgroup.procs")) {
                // 0 stands for a process that this namespace cannot see.
                pids.extend(list.lines().filter_map(|pid| pid.parse().ok()).filter(|pid: &i32| *pid > 0));
            }
        });
        pids
    }

    /// Visits the processes in it, each held, one after the other (there may be more of them than descriptors).
    pub(super) fn each(&self, mut visit: impl FnMut(&Process)) {
        for pid in self.pids() {
            // A pid may have passed to a stranger since it was listed; whoever is in the group while held is none.
            if let Some(process) = Process::hold(pid)
                && self.contains(Pid::from_raw(pid))
            {
                visit(&process);
            }
        }
    }

    /// Whether the process is in it now, or in a group below it.
    pub(super) fn contains(&self, pid: Pid) -> bool {
        let name = self.0.file_name();
        fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|text| v2_path(&text).is_some_and(|path| Path::new(path).iter().any(|part| Some(part) == name)))
    }

    /// KILL to all of it at once, also to what is being forked.
    pub(super) fn kill(&self) -> io::Result<()> {
        fs::write(self.0.join("cgroup.kill"), "1")
    }

    /// Removes it with what the job made below it. `false`: something still lives in it.
    pub(super) fn remove(&self) -> bool {
        if !matches!(fs::remove_dir(&self.0), Err(error) if error.kind() != io::ErrorKind::NotFound) {
            return true;
        }
        let mut groups = Vec::new();
        self.walk(|group| groups.push(group.to_owned()));
        groups.iter().rev().all(|group| fs::remove_dir(group).is_ok()) || !self.exists()
    }

    /// What the tree has used so far.
    pub(super) fn usage(&self) -> Usage {
        let read = |file: &str| fs::read_to_string(self.0.join(file)).ok();
        let cpu = read("cpu.stat").unwrap_or_default();
        let seconds = |key| value_of(&cpu, key).map(|micros| micros as f64 / 1e6);
        Usage {
            user_seconds: seconds("user_usec"),
            system_seconds: seconds("system_usec"),
            peak_memory_bytes: read("memory.peak").and_then(|text| text.trim().parse().ok()),
            oom_kills: read("memory.events").and_then(|text| value_of(&text, "oom_kill")),
        }
    }

    /// Visits it and every group below it, parents first.
    fn walk(&self, mut visit: impl FnMut(&Path)) {
        let mut left = vec![self.0.clone()];
        while let Some(group) = left.pop() {
            visit(&group);
            let Ok(entries) = fs::read_dir(&group) else { continue };
            let below = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            left.extend(below.map(|entry| entry.path()));
        }
    }
}

/// An open `cgroup.events`.
#[derive(Debug)]
pub(super) struct Events(File);

impl Events {
    pub(super) fn is_populated(&self) -> io::Result<bool> {
        use std::os::unix::fs::FileExt;
        let mut text = [0; 128];
        let length = match self.0.read_at(&mut text, 0) {
            // The group was removed.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
            length => length?,
        };
        Ok(value_of(&String::from_utf8_lossy(&text[..length]), "populated") != Some(0))
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(super) fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The kernel's name for this boot; a note of another one says nothing about living processes.
pub(super) fn boot_id() -> String {
    let mut text = String::new();
    let read = File::open("/proc/sys/kernel/random/boot_id").and_then(|mut file| file.read_to_string(&mut text));
    read.map_or_else(|_| String::new(), |_| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_tree_is_found_on_hybrid_and_unified_hosts_and_in_containers() {
        let hybrid = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(v2_mount(hybrid), Some(("/sys/fs/cgroup/unified".into(), "/".to_owned())));
        let container = "9 8 0:26 /docker/a\\040b /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(v2_mount(container), Some(("/sys/fs/cgroup".into(), "/docker/a b".to_owned())));
        assert_eq!(v2_mount("1 2 0:3 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn keys_are_matched_whole() {
        let text = "populated_not 1\npopulated 0\nfrozen 0\n";
        assert_eq!(value_of(text, "populated"), Some(0));
    }
}
