//! Row 28: zombies. Neither ten thousand short runs nor a thousand dead children in one leave any.

use std::time::Duration;

use crate::{
    case::Case,
    processes::{Stat, descendants},
    spares::SPARES,
    support::eventually,
};

const RUNS: i64 = 10_000;

pub(crate) async fn ten_thousand_runs_leave_none(case: &mut Case) {
    case.orch.set("ORCH_MAX_CONCURRENCY", "32");
    // The runs are too many for the witness, and are no two of one job.
    case.plain_agent("true", &["true"], "");
    case.up().await;
    let many = "select count(orch.enqueue('true')) from generate_series(1, $1)";
    assert_eq!(case.sql.query_one(many, &[&(RUNS as i32)]).await.unwrap().get::<_, i64>(0), RUNS);
    let done = "select count(*) from orch.jobs where status = 'succeeded'";
    crate::support::eventually_within(Duration::from_mins(4), "ten thousand runs to succeed", async || {
        (case.sql.query_one(done, &[]).await.unwrap().get::<_, i64>(0) == RUNS).then_some(())
    })
    .await;
    no_zombies(case).await;
    eventually("the replica to be idle: a spawner, what that has forked ahead, and no more", async || {
        // Each with the process that waits in it.
        (descendants(case.replica().pid()).len() <= 1 + 2 * SPARES).then_some(())
    })
    .await;
}

pub(crate) async fn a_thousand_dead_children_are_collected(case: &mut Case) {
    // Its children's parent becomes a program that never waits: they stay dead until the tree is taken down.
    let script = "i=0; while [ $i -lt 1000 ]; do true & i=$((i+1)); done; exec sleep 2";
    case.agent("careless", &script.replace("true &", "sh -c 'exit 0' &"), "");
    case.up().await;
    let job = case.enqueue("careless").await;
    case.until(job, "succeeded", Duration::from_mins(1)).await;
    no_zombies(case).await;
}

async fn no_zombies(case: &Case) {
    let zombies = || -> Vec<Stat> {
        descendants(case.replica().pid()).into_iter().filter(|process| process.state == 'Z').collect()
    };
    eventually("zombies to be back to none", async || zombies().is_empty().then_some(())).await;
}
