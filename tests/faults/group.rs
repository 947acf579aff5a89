//! A cgroup v1 group of a row's own: a bound for what the row lets loose, so that the machine survives a product that fails,
//! or a freezer. Gone with its value, with all that is in it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{node::Node, processes, support::v1_hierarchy};

/// A group in the tree of one controller.
#[derive(Debug)]
pub(crate) struct Group(PathBuf);

impl Group {
    /// Makes one.
    pub(crate) fn new(controller: &str, name: &str) -> Self {
        let tree = v1_hierarchy(controller).expect("what the row needs");
        let group = tree.join(format!("orch-test-{name}-{}-{}", std::process::id(), rand::random::<u16>()));
        fs::create_dir(&group).expect("a cgroup");
        Self(group)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes one of its files.
    pub(crate) fn set(&self, file: &str, value: &str) {
        fs::write(self.0.join(file), value).unwrap_or_else(|error| panic!("{file}: {error}"));
    }

    /// Puts a process into it, which what it has started before does not follow.
    pub(crate) fn take(&self, pid: i32) {
        self.set("cgroup.procs", &pid.to_string());
    }

    /// Starts the node's replica in it, and in others.
    pub(crate) async fn start(groups: &[&Self], node: &mut Node) {
        let doors = groups.iter().map(|group| format!("echo $$ > {}/cgroup.procs; ", group.0.display()));
        let join: String = doors.chain(["exec \"$0\" \"$@\"".to_owned()]).collect();
        let program = node.orch.program().to_owned();
        let replica = node.orch.start_by(&["sh", "-c", &join], &program);
        node.adopt(replica);
        node.until_ready().await;
    }

    /// The groups of runs below it, which orch has made.
    pub(crate) fn runs(&self) -> Vec<PathBuf> {
        let dirs = |path: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
        };
        dirs(&self.0.join("orch")).iter().flat_map(|place| dirs(place)).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _only_a_freezer_has_it = fs::write(self.0.join("freezer.state"), "THAWED");
        end(&self.0);
    }
}

/// Kills all that is in a group and below, and removes it.
fn end(group: &Path) {
    for below in fs::read_dir(group).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        end(&below.path());
    }
    for _ in 0..200 {
        if fs::remove_dir(group).is_ok() {
            return;
        }
        let pids = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
            processes::signal_if_there(pid, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
