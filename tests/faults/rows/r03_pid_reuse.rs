//! Row 3: the pids of a dead run, and of its shim, belong to somebody else by the time that its successor starts. The
//! strangers are neither adopted nor signalled, and what the row says of pids decides nothing.

use std::path::Path;

use crate::{
    bound::BOUND_AFTER_OUTAGE,
    case::Case,
    container::{self, ContainedDecoy, Container},
    witness,
};

/// The first attempt lasts; the second ends at once.
const ONCE: &str = "[ \"$ORCH_ATTEMPT\" = 1 ] && sleep 100000; exit 0";

pub(crate) async fn after_the_container_was_replaced(case: &mut Case) {
    case.agent("once", ONCE, "");
    let node = case.add_node("a");
    container::start(node, Some(2000));
    node.until_ready().await;
    let job = case.enqueue("once").await;
    let pid = case.until_alive(job).await;
    container::kill(case.node("a")).await;

    // The new container counts from elsewhere, so that the old pid is free for the decoy.
    container::start(case.node("a"), Some(20_000));
    let decoy = ContainedDecoy::start(container::first_process(case.node("a")).await, pid).await;
    case.until(job, "succeeded", BOUND_AFTER_OUTAGE).await;
    assert_eq!(case.outcomes(job).await, [Some("lost".to_owned()), Some("succeeded".to_owned())]);
    assert_eq!(
        case.runs(job).await[0].get::<_, Option<&str>>("closed_by"),
        Some("reap"),
        "by its lease, and nothing else"
    );
    decoy.assert_untouched();
}

pub(crate) async fn in_one_pid_namespace(case: &mut Case) {
    for (containment, settings) in [("sweep", "containment = \"sweep\""), ("pidns", "containment = \"pidns\"")] {
        case.agent(containment, ONCE, settings);
    }
    let container = Container::start().await;
    container.start_in(case.add_node("a"), 2000);
    case.node("a").until_ready().await;
    let jobs = [case.enqueue("sweep").await, case.enqueue("pidns").await];
    let mut pids = Vec::new();
    for job in jobs {
        pids.push(case.until_alive(job).await);
    }
    for (run, shim) in case.node("a").shims() {
        pids.push(container::pid_inside(shim).expect("a shim in the container"));
        pids.extend(noted_init(&case.node("a").state_dir().join("runs").join(run)));
    }
    assert_eq!(pids.len(), 5);

    // Everything of the node dies at once, and strangers get the pids of its jobs, of its shims, and of the first process in
    // the one job's namespace, which its shim noted for whoever sweeps.
    case.node("a").kill_everything().await;
    let mut decoys = Vec::new();
    for pid in pids {
        decoys.push(ContainedDecoy::start(container.first_process(), pid).await);
    }
    container.start_in(case.node("a"), 20_000);
    for job in jobs {
        case.until(job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.runs(job).await.len(), 2);
        assert_eq!(witness::intervals(&case.witness(), job).len(), 2);
    }
    for decoy in &decoys {
        decoy.assert_untouched();
    }
    case.node("a").stop().await;
}

/// The pid of the first process in a run's own namespace, if it has one, as its shim noted it.
fn noted_init(run: &Path) -> Option<i32> {
    let note: serde_json::Value = serde_json::from_slice(&std::fs::read(run.join("lock")).unwrap()).unwrap();
    note["init"][0].as_i64().map(|pid| i32::try_from(pid).unwrap())
}
