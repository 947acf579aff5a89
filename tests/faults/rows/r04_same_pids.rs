//! Row 4: two hosts on which everything has the same pids. What happens on one means nothing on the other.

use crate::{
    bound::BOUND_AFTER_OUTAGE,
    case::{BOUND, Case},
    container, witness,
};

pub(crate) async fn two_containers_do_not_meet(case: &mut Case) {
    // Two names of one command, so that the row knows where each job runs.
    let go = case.orch.path("go");
    let script = format!("[ \"$ORCH_ATTEMPT\" = 1 ] || exit 0; until [ -e {} ]; do sleep 0.2; done", go.display());
    for name in ["a", "b"] {
        let own = case.agent(name, &script, "");
        let node = case.add_node(name);
        node.orch.set("ORCH_CONFIG", node.orch.path("orch.toml").to_string_lossy());
        node.orch.config(&own);
        container::start(node, Some(3000));
    }
    let mut jobs = Vec::new();
    for name in ["a", "b"] {
        case.node(name).until_ready().await;
        for _ in 0..3 {
            let job = case.enqueue(name).await;
            jobs.push((job, case.until_alive(job).await));
        }
    }
    let (on_a, on_b) = jobs.split_at(3);
    let gap = on_a.iter().flat_map(|(_, a)| on_b.iter().map(move |(_, b)| a.abs_diff(*b))).min();
    assert!(gap < Some(100), "the pids of the two are far from the same: {jobs:?}");

    // A cancel ends one, here.
    case.sql.execute("select orch.cancel($1)", &[&on_a[0].0]).await.unwrap();
    case.until(on_a[0].0, "cancelled", BOUND).await;
    // The host of the others dies. Its jobs' agent is served elsewhere from then on, by whom nothing of it concerns.
    container::kill(case.node("a")).await;
    for (job, _) in on_b {
        assert!(witness::is_alive(&case.witness(), *job), "job {job} of b ended with a's host");
    }
    case.add_node("c").up().await;
    for (job, _) in &on_a[1..] {
        case.until(*job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.outcomes(*job).await, [Some("lost".to_owned()), Some("succeeded".to_owned())]);
    }
    for (job, _) in on_b {
        assert!(witness::is_alive(&case.witness(), *job), "job {job} of b ended with a's jobs");
    }
    std::fs::write(&go, "").unwrap();
    for (job, _) in on_b {
        case.until(*job, "succeeded", BOUND).await;
        assert_eq!(case.outcomes(*job).await, [Some("succeeded".to_owned())]);
    }
}
