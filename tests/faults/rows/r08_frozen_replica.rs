//! Row 8: a replica is stopped for longer than its lease, beside another one, and goes on. Its trees end by themselves
//! before the other starts their jobs; what it knows by then is stale and changes nothing that was decided meanwhile.

use std::time::Instant;

use nix::sys::signal::Signal;

use crate::{
    bound::{BOUND_AFTER_OUTAGE, LEASE, REAP_GRACE},
    case::{BOUND, Case},
    support::{eventually, eventually_within},
    witness,
};

/// The first attempt ignores TERM and leaves a daemon that does so as well.
const DEAF_ONCE: &str = r#"
    [ "$ORCH_ATTEMPT" = 1 ] || exit 0
    trap '' TERM
    setsid -f sh -c 'trap "" TERM; sleep 100000'
    sleep 100000; wait"#;

pub(crate) async fn its_trees_end_and_it_writes_nothing_stale(case: &mut Case) {
    case.agent("deaf", DEAF_ONCE, "");
    // Ends well while nobody watches.
    let frozen_now = case.orch.path("frozen now");
    let ends =
        format!("[ \"$ORCH_ATTEMPT\" = 1 ] || exit 0; until [ -e '{}' ]; do sleep 0.05; done", frozen_now.display());
    case.agent("ends", &ends, "");
    case.agent("ends_held", &ends, "on_lost = \"hold\"");
    case.add_node("frozen").up().await;
    let mut deaf = Vec::new();
    for _ in 0..3 {
        deaf.push(case.enqueue("deaf").await);
    }
    for job in &deaf {
        case.until_alive(*job).await;
    }
    let (ends, held) = (case.enqueue("ends").await, case.enqueue("ends_held").await);
    case.until_alive(ends).await;
    case.until_alive(held).await;
    let frozen = case.replica_id("frozen").await;
    case.add_node("other").up().await;

    case.node("frozen").replica().signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    std::fs::write(&frozen_now, "").unwrap();
    eventually_within(BOUND, "the trees to end by their lease", async || {
        deaf.iter().all(|job| !witness::is_alive(&case.witness(), *job)).then_some(())
    })
    .await;
    let took = stopped.elapsed();
    assert!(took < LEASE + REAP_GRACE, "the trees lived for {took:?}, longer than the database granted them");
    for job in deaf.iter().chain([&ends]) {
        case.until(*job, "succeeded", BOUND).await;
        assert_eq!(case.outcomes(*job).await, [Some("lost".to_owned()), Some("succeeded".to_owned())]);
    }
    case.until(held, "held", BOUND).await;

    let decided = stands(case, &deaf, ends).await;
    case.node("frozen").replica().signal(Signal::SIGCONT);
    // A name of its own once more; the old one never lives again.
    eventually_within(BOUND, "the replica to register anew", async || {
        let states = "select replica_id::text, state from orch.replicas where name = 'frozen' order by started_at";
        let states = case.sql.query(states, &[]).await.unwrap();
        let states: Vec<(String, String)> = states.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(states[0], (frozen.clone(), "dead".to_owned()), "the old name is dead and stays so");
        (states.len() == 2 && states[1].1 == "live").then_some(())
    })
    .await;
    // The one job that nothing was decided about takes the result that waited.
    case.until(held, "succeeded", BOUND_AFTER_OUTAGE).await;
    assert_eq!(case.runs(held).await.len(), 1, "the late result was taken, and nothing ran again");
    let runs = case.node("frozen").state_dir().join("runs");
    eventually("the replica to be done with its old runs", async || {
        let left = std::fs::read_dir(&runs).into_iter().flatten().flatten();
        left.filter(|run| run.path().join("exit.json").exists()).count().eq(&0).then_some(())
    })
    .await;
    assert_eq!(stands(case, &deaf, ends).await, decided, "what was decided stands");
}

/// The rows of these jobs, whole, and their second runs.
async fn stands(case: &Case, jobs: &[i64], last: i64) -> Vec<String> {
    let ids: Vec<i64> = jobs.iter().copied().chain([last]).collect();
    let rows = "select to_jsonb(j)::text from orch.jobs j where id = any ($1)
        union all select to_jsonb(r)::text from orch.agent_runs r where job_id = any ($1) and attempt > 1
        order by 1";
    case.sql.query(rows, &[&ids]).await.unwrap().iter().map(|row| row.get(0)).collect()
}
