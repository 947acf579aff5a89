//! A container as far as processes go: a pid namespace of its own, whose end is the end of everything in it.
//!
//! The replica is pid 1 there, as in an image without an init, and sees a `/proc` of its own. The state directory outlives
//! the namespace, as a volume does.

use std::{path::Path, process::Stdio};

use tokio::process::{Child, Command};

use crate::{
    node::Node,
    support::{Replica, eventually},
};

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

/// The replica inside, as this namespace numbers it: the first process of the container.
pub(crate) async fn first_process(node: &Node) -> i32 {
    let outside = node.replica().pid();
    let children = format!("/proc/{outside}/task/{outside}/children");
    eventually("the container's first process", async || {
        std::fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()
    })
    .await
}

/// A process in the container that no job has anything to do with, with a pid of the row's choice as the container
/// counts. Ends with the container.
#[derive(Debug)]
pub(crate) struct ContainedDecoy {
    _entered: Child,
    /// Its pid outside.
    outside: i32,
}

impl ContainedDecoy {
    /// Starts one with this pid, which must be free there.
    pub(crate) async fn start(node: &Node, pid: i32) -> Self {
        let first = first_process(node).await;
        // The shell's own child gets the pid, unless another process there was born in between: then it tries again.
        let script = format!(
            "for i in $(seq 200); do echo {} > /proc/sys/kernel/ns_last_pid; sleep 100000 & \
             if [ $! = {pid} ]; then wait; exit; fi; kill -9 $!; done; exit 1",
            pid - 1
        );
        let mut command = Command::new("nsenter");
        command.args(["--target", &first.to_string(), "--pid", "--mount", "sh", "-c", &script]);
        let entered = command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().expect("nsenter");
        let namespace = std::fs::read_link(format!("/proc/{first}/ns/pid")).expect("a pid namespace");
        let outside = eventually("the decoy to have its pid", async || outside_pid(&namespace, pid)).await;
        Self { _entered: entered, outside }
    }

    /// Panics if somebody ended or stopped it.
    pub(crate) fn assert_untouched(&self) {
        let stat = crate::processes::stat(self.outside).expect("somebody ended the decoy");
        assert_eq!(stat.state, 'S', "the decoy sleeps as before");
    }
}

/// The pid here of the `sleep` that has this pid in that namespace.
fn outside_pid(namespace: &Path, pid: i32) -> Option<i32> {
    let candidates = crate::processes::all().into_iter().map(|stat| stat.pid);
    let is_it = |outside: &i32| {
        let proc = Path::new("/proc").join(outside.to_string());
        let read = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
        let inner = read("status")
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().last().map(str::to_owned));
        read("comm") == "sleep\n"
            && inner.and_then(|inner| inner.parse().ok()) == Some(pid)
            && std::fs::read_link(proc.join("ns/pid")).is_ok_and(|found| found == namespace)
    };
    candidates.into_iter().find(is_it)
}

/// Ends the container as its engine would when nobody waits: everything in it is killed.
pub(crate) async fn kill(node: &mut Node) {
    node.kill().await;
    let place = node.state_dir().to_owned();
    eventually("the container's processes to be gone", async || {
        crate::support::processes_beneath(&place).is_empty().then_some(())
    })
    .await;
}

/// Whether this replica runs in a container.
pub(crate) fn is_contained(replica: &Replica) -> bool {
    std::fs::read_to_string(format!("/proc/{}/comm", replica.pid())).is_ok_and(|name| name == "unshare\n")
}
