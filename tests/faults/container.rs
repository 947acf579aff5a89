//! A container as far as processes go: a pid namespace of its own, whose end is the end of everything in it.
//!
//! The replica is pid 1 there, as in an image without an init, and sees a `/proc` of its own. The state directory outlives
//! the namespace, as a volume does.

use std::{fs, path::PathBuf, process::Stdio};

use tokio::process::{Child, Command};

use crate::{node::Node, processes, support::eventually};

/// Starts the node's replica in a new container. With `last_pid`, the processes that it starts get the pids after it.
pub(crate) fn start(node: &mut Node, last_pid: Option<i32>) {
    let wish = last_pid.map(|pid| format!("echo {pid} > /proc/sys/kernel/ns_last_pid; ")).unwrap_or_default();
    let become_it = format!("{wish}exec \"$0\" \"$@\"");
    // The end of `unshare` is the end of its child, and that the end of the namespace.
    let words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", "sh", "-c", &become_it];
    let program = node.orch.program().to_owned();
    let replica = node.orch.start_by(&words, &program);
    node.adopt(replica);
}

/// The first process of the node's container, as this namespace numbers it.
pub(crate) async fn first_process(node: &Node) -> i32 {
    let outside = node.replica().pid();
    eventually("the container's first process", async || processes::children(outside).first().copied()).await
}

/// Ends the container as its engine would when nobody waits: everything in it is killed.
pub(crate) async fn kill(node: &mut Node) {
    let first = first_process(node).await;
    node.kill().await;
    // It is gone when all others in the namespace are, with what they had open: a process that is ending has no environment
    // by which `processes` would find it, but may still hold its locks. Its main thread may be a zombie before the others end.
    let tasks = || fs::read_dir(format!("/proc/{first}/task")).into_iter().flatten().count();
    let is_gone = || processes::stat(first).is_none_or(|stat| stat.state == 'Z' && tasks() <= 1);
    eventually("the container's processes to be gone", async || {
        (is_gone() && node.processes().is_empty()).then_some(())
    })
    .await;
}

/// A container whose first process is nobody's replica, so that replicas come and go in it.
#[derive(Debug)]
pub(crate) struct Container {
    _unshare: Child,
    first: i32,
}

impl Container {
    /// Starts one.
    pub(crate) async fn start() -> Self {
        let mut command = Command::new("unshare");
        command.args([
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child=KILL",
            "sh",
            "-c",
            "while :; do sleep 1000 & wait; done",
        ]);
        let unshare = command.kill_on_drop(true).spawn().expect("unshare");
        let outside = unshare.id().expect("a living process").cast_signed();
        let first = eventually("the container's first process", async || {
            processes::children(outside).first().copied().filter(|first| !processes::children(*first).is_empty())
        })
        .await;
        Self { _unshare: unshare, first }
    }

    /// Its first process, as this namespace numbers it.
    pub(crate) const fn first_process(&self) -> i32 {
        self.first
    }

    /// Starts the node's replica in it; the processes that it starts get the pids after this.
    pub(crate) fn start_in(&self, node: &mut Node, last_pid: i32) {
        let become_it = format!("echo {last_pid} > /proc/sys/kernel/ns_last_pid; exec \"$0\" \"$@\"");
        let target = self.first.to_string();
        let words = ["nsenter", "--target", &target, "--pid", "--mount", "sh", "-c", &become_it];
        let program = node.orch.program().to_owned();
        let replica = node.orch.start_by(&words, &program);
        node.adopt(replica);
    }
}

/// A pid of which no row has processes nearby.
const FAR_AWAY: i32 = 30_000;

/// A process in a container that no job has anything to do with, with a pid of the row's choice as the container counts.
/// Ends with the container.
#[derive(Debug)]
pub(crate) struct ContainedDecoy {
    _entered: Child,
    /// Its pid outside.
    outside: i32,
}

impl ContainedDecoy {
    /// Starts one in the container of this process, with this pid, which must be free there.
    pub(crate) async fn start(first: i32, pid: i32) -> Self {
        // What makes a decoy has pids as well, which must be none that the row wishes: they are far away.
        let far = format!("echo {FAR_AWAY} > /proc/sys/kernel/ns_last_pid");
        let enter = |script: &str| {
            let mut command = Command::new("nsenter");
            command.args(["--target", &first.to_string(), "--pid", "--mount", "sh", "-c", script]);
            command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            command
        };
        assert!(enter(&far).status().await.expect("nsenter").success());
        // The shell's own child gets the pid, unless another process there was born in between: then it tries again.
        let script = format!(
            "for i in $(seq 200); do echo {} > /proc/sys/kernel/ns_last_pid; sleep 100000 & \
             if [ $! = {pid} ]; then {far}; wait; exit; fi; kill -9 $!; done; exit 1",
            pid - 1
        );
        let entered = enter(&script).spawn().expect("nsenter");
        let namespace = namespace_of(first).expect("a pid namespace");
        let is_it = |found: i32| {
            let name = fs::read_to_string(format!("/proc/{found}/comm")).unwrap_or_default();
            name == "sleep\n" && pid_inside(found) == Some(pid) && namespace_of(found).as_ref() == Some(&namespace)
        };
        let outside = eventually("the decoy to have its pid", async || {
            processes::all().into_iter().map(|stat| stat.pid).find(|found| is_it(*found))
        })
        .await;
        Self { _entered: entered, outside }
    }

    /// Panics if somebody ended or stopped it.
    pub(crate) fn assert_untouched(&self) {
        let stat = processes::stat(self.outside).expect("somebody ended the decoy");
        assert_eq!(stat.state, 'S', "the decoy sleeps as before");
    }
}

fn namespace_of(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// The pid that a process has in its own namespace.
pub(crate) fn pid_inside(outside: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{outside}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()
}
