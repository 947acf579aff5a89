//! Limits of a whole tree by the controllers of cgroup v1, where those of v2 are not to be had: on hybrid hosts, which keep
//! memory and pids in trees of their own. Independent of what holds the run together.
//!
//! Owns `orch/<state directory>/<run_id>` in each of these trees, beside the group of the same name in the v2 tree. A group is
//! made for a run that has a limit, entered by the job before it becomes its user, and removed when the tree is empty. Never
//! ends a process: that is the containment's part.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::cgroup::{self, Usage};
use crate::model::RunId;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    /// Bytes of memory.
    Memory,
    /// Processes and threads.
    Pids,
}

impl Controller {
    const ALL: [Self; 2] = [Self::Memory, Self::Pids];

    /// As the kernel names it.
    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }

    /// Sets the limit of a fresh group.
    fn set(self, group: &Path, max: u64) -> io::Result<()> {
        match self {
            Self::Pids => fs::write(group.join("pids.max"), max.to_string()),
            Self::Memory => {
                fs::write(group.join("memory.limit_in_bytes"), max.to_string())?;
                // Swapping instead would be a limit in name only. A kernel that does not count swap has no such file.
                match fs::write(group.join("memory.memsw.limit_in_bytes"), max.to_string()) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    outcome => outcome,
                }
            }
        }
    }
}

/// Where the groups of a state directory are, in each tree that there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hierarchies(Vec<(Controller, PathBuf)>);

impl Hierarchies {
    /// Finds them. None is no error: then the limits are the kernel's for a process or a user, or are not to be had.
    pub(super) fn find(state_dir: &Path) -> Self {
        let (Ok(mounts), Ok(own)) =
            (fs::read_to_string("/proc/self/mountinfo"), fs::read_to_string("/proc/self/cgroup"))
        else {
            return Self::default();
        };
        let Ok(name) = cgroup::name(state_dir) else { return Self::default() };
        let place = |controller: Controller| {
            let place = v1_place(&mounts, &own, controller.name())?.join("orch").join(&name);
            // What cannot be made for want of rights, or of a writable mount, is as good as not there.
            fs::create_dir_all(&place).ok().map(|()| (controller, place))
        };
        Self(Controller::ALL.into_iter().filter_map(place).collect())
    }

    /// Whether there is a tree for it.
    pub(super) fn has(&self, controller: Controller) -> bool {
        self.0.iter().any(|(has, _)| *has == controller)
    }

    /// Removes what is left of a run whose processes have ended.
    pub(super) fn remove(&self, run_id: RunId) {
        for (_, place) in &self.0 {
            let _it_had_no_limit = fs::remove_dir(place.join(run_id.to_string()));
        }
    }

    /// Removes the places in which no group is left.
    pub(super) fn leave(&self) {
        for (_, place) in &self.0 {
            let _others_live_here = fs::remove_dir(place).and_then(|()| place.parent().map_or(Ok(()), fs::remove_dir));
        }
    }
}

/// The groups of one run.
#[derive(Debug, Default)]
pub(super) struct Bounds(Vec<(Controller, PathBuf)>);

impl Bounds {
    /// Makes the run's group with this limit. `false`: it cannot be had.
    pub(super) fn add(&mut self, places: &Hierarchies, run_id: RunId, controller: Controller, max: u64) -> bool {
        let Some((_, place)) = places.0.iter().find(|(has, _)| *has == controller) else { return false };
        let group = place.join(run_id.to_string());
        // A spawner that went away took the empty place along.
        if fs::create_dir_all(&group).and_then(|()| controller.set(&group, max)).is_err() {
            let _it_was_not_made = fs::remove_dir(&group);
            return false;
        }
        self.0.push((controller, group));
        true
    }

    /// What a process writes its 0 to in order to be in them, with all that it starts from then on.
    pub(super) fn doors(&self) -> Vec<PathBuf> {
        self.0.iter().map(|(_, group)| group.join("cgroup.procs")).collect()
    }

    /// What they counted, where `usage` does not know.
    pub(super) fn complete(&self, mut usage: Usage) -> Usage {
        for (_, group) in self.0.iter().filter(|(controller, _)| *controller == Controller::Memory) {
            let read = |file: &str| fs::read_to_string(group.join(file)).ok();
            let peak = || read("memory.max_usage_in_bytes").and_then(|text| text.trim().parse().ok());
            usage.peak_memory_bytes = usage.peak_memory_bytes.or_else(peak);
            let kills = || read("memory.oom_control").and_then(|text| cgroup::value_of(&text, "oom_kill"));
            usage.oom_kills = usage.oom_kills.or_else(kills);
        }
        usage
    }

    /// Takes them away when the tree is empty.
    pub(super) fn remove(&self) {
        for (_, group) in &self.0 {
            let _ = fs::remove_dir(group);
        }
    }
}

/// Where this process is in the v1 tree of a controller.
fn v1_place(mounts: &str, own: &str, controller: &str) -> Option<PathBuf> {
    let names = |list: &str| list.split(',').any(|name| name == controller);
    let (mount, root) = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let options = kind.strip_prefix("cgroup ")?.rsplit(' ').next()?;
        names(options).then(|| cgroup::mount_of(place)).flatten()
    })?;
    let own = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        parts.next().filter(|list| names(list)).and(parts.next())
    })?;
    // Seen from a container, the mount shows only the part of the tree below `root`.
    let own = own.strip_prefix(root.as_str()).unwrap_or(own).trim_start_matches('/');
    Some(mount.join(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                          41 31 0:38 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                          42 31 0:39 /docker/a /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                          43 31 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const OWN: &str = "4:memory:/docker/a/b\n3:cpu,cpuacct:/\n0::/x\n";

    #[test]
    fn a_controller_is_found_in_its_own_tree_or_in_one_that_it_shares() {
        assert_eq!(v1_place(MOUNTS, OWN, "memory"), Some("/sys/fs/cgroup/memory/b".into()));
        assert_eq!(v1_place(MOUNTS, OWN, "cpu"), Some("/sys/fs/cgroup/cpu,cpuacct/".into()));
        assert_eq!(v1_place(MOUNTS, OWN, "pids"), None, "it is v2's, or nobody's");
    }
}
