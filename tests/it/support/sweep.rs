//! Finds and ends the processes that a replica leaves when it is killed: spawner, shims and jobs. And their empty cgroups.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use nix::{sys::signal, unistd::Pid};

/// The processes, but this one, that work beneath a directory: it stands in their environment, or their working
/// directory or an open file is beneath it.
pub(crate) fn processes_beneath(dir: &Path) -> Vec<i32> {
    let own = std::process::id() as i32;
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own && is_beneath(*pid, dir))
        .collect()
}

fn is_beneath(pid: i32, dir: &Path) -> bool {
    let proc = Path::new("/proc").join(pid.to_string());
    let text = dir.as_os_str().as_encoded_bytes();
    let environ = fs::read(proc.join("environ")).unwrap_or_default();
    environ.windows(text.len()).any(|window| window == text)
        || fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
        || fs::read_dir(proc.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.starts_with(dir)))
}

/// Kills them until there are none, at most so often: a job may fork while it is swept.
pub(crate) fn kill_beneath(dir: &Path) {
    for _ in 0..50 {
        let found = processes_beneath(dir);
        if found.is_empty() {
            return;
        }
        for pid in found {
            let _ = signal::kill(Pid::from_raw(pid), signal::Signal::SIGKILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Removes the cgroups of a state directory that is about to go, which nobody would find afterwards.
pub(crate) fn remove_cgroups_of(state_dir: &Path) {
    let Ok(metadata) = fs::metadata(state_dir) else { return };
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let Some(root) = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|words| words[2] == "cgroup2")
    else {
        return;
    };
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let group = Path::new(root[1]).join(own).join("orch").join(format!("{:x}-{:x}", metadata.dev(), metadata.ino()));
    for run in fs::read_dir(&group).into_iter().flatten().flatten() {
        let _ = fs::remove_dir(run.path());
    }
    // Somebody else's may stand beside it.
    let _ = fs::remove_dir(group);
}
