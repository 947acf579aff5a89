//! Row 5: a container is killed and another one started on its state directory, where everything gets the same pids again.
//! What ended before is settled from what its shim wrote, and the rest by its lease.

use std::time::Instant;

use nix::sys::signal::Signal;

use crate::{
    bound::BOUND_AFTER_OUTAGE,
    case::{BOUND, Case},
    container,
    processes::signal,
    support::{eventually, say},
    witness,
};

const LAST_PID: i32 = 3000;

pub(crate) async fn with_the_same_state_directory_and_the_same_pids(case: &mut Case) {
    let go = case.orch.path("go");
    case.agent("once", "[ \"$ORCH_ATTEMPT\" = 1 ] && sleep 100000; exit 0", "");
    case.agent("ends", &format!("until [ -e {} ]; do sleep 0.05; done; exit 0", go.display()), "");
    let node = case.add_node("a");
    container::start(node, Some(LAST_PID));
    node.until_ready().await;
    let mut lost = Vec::new();
    for _ in 0..4 {
        let job = case.enqueue("once").await;
        lost.push((job, case.until_alive(job).await));
    }
    let ends = case.enqueue("ends").await;
    case.until_alive(ends).await;
    // It ends while its replica cannot hear of it.
    signal(case.node("a").process(), Signal::SIGSTOP);
    std::fs::write(&go, "").unwrap();
    let run: String = case.runs(ends).await[0].get("run");
    let exit = case.node("a").state_dir().join("runs").join(run).join("exit.json");
    eventually("the end to be written", async || exit.exists().then_some(())).await;
    container::kill(case.node("a")).await;
    for (job, _) in &lost {
        assert!(!witness::is_alive(&case.witness(), *job), "job {job} outlived its container");
    }

    let begin = Instant::now();
    container::start(case.node("a"), Some(LAST_PID));
    case.until(ends, "succeeded", BOUND).await;
    say(&format!("row 5: what had ended was settled {:?} after the start of the container", begin.elapsed()));
    let run = &case.runs(ends).await[0];
    assert_eq!(run.get::<_, Option<&str>>("closed_by"), Some("successor"), "its shim's word was believed");
    assert_eq!(case.runs(ends).await.len(), 1);
    for (job, _) in lost {
        case.until(job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.outcomes(job).await, [Some("lost".to_owned()), Some("succeeded".to_owned())]);
        assert_eq!(case.runs(job).await[0].get::<_, Option<&str>>("closed_by"), Some("reap"), "by its lease alone");
    }
}
