//! Row 13: answers are lost, requests arrive. Whether a claim or a settlement took effect is then unknown to the replica,
//! and found out by the run's id: in time, and after others were given its jobs.

use std::time::Duration;

use crate::{
    case::{BOUND, BOUND_AFTER_OUTAGE, Case},
    hand::{open_gate, shut_gate_for, until_stands_at_gate},
    support::{eventually, eventually_within},
    witness,
};

/// What the deaf replica had in hand: jobs whose claim it never heard of, one whose end it was never told is known, and
/// one that lives.
struct InHand {
    claimed: Vec<i64>,
    settled: i64,
    alive: i64,
    /// The server's processes that executed the two statements.
    backends: Vec<i32>,
}

/// Lets the server execute a claim and a settlement of a replica that does not hear a word of it.
async fn deafen(case: &mut Case) -> InHand {
    let go = case.orch.path("go");
    case.agent("ends", &format!("until [ -e {} ]; do sleep 0.05; done", go.display()), "");
    case.agent("once", "[ \"$ORCH_ATTEMPT\" = 1 ] || exit 0; sleep 100000", "");
    case.agent("quick", "exit 0", "");
    case.add_node_apart("deaf").up().await;
    let (settled, alive) = (case.enqueue("ends").await, case.enqueue("once").await);
    for job in [settled, alive] {
        case.until_alive(job).await;
    }

    // Both statements are on the server, and wait there until nothing comes back any more.
    shut_gate_for(&case.sql, "orch").await;
    let enqueue = "select orch.enqueue('quick') from generate_series(1, 3)";
    let claimed: Vec<i64> = case.sql.query(enqueue, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    std::fs::write(&go, "").unwrap();
    let claim = until_stands_at_gate(&case.sql, "-- Claim").await;
    let settle = until_stands_at_gate(&case.sql, "-- Settle").await;
    case.node("deaf").place().drop_answers();
    open_gate(&case.sql).await;
    case.until(settled, "succeeded", BOUND).await;
    for job in &claimed {
        case.until(*job, "running", BOUND).await;
    }
    InHand { claimed, settled, alive, backends: vec![claim, settle] }
}

fn ran_once(case: &Case, jobs: &[i64]) {
    for job in jobs {
        let seen = witness::intervals(&case.witness(), *job);
        assert_eq!(seen.len(), 1, "job {job} was started once: {seen:?}");
    }
}

pub(crate) async fn and_are_asked_for_again_in_time(case: &mut Case) {
    // What must be in time here is not the lease's business.
    case.orch.set("ORCH_LEASE", "20s");
    case.move_to_network().await;
    // The replica hears of the end of a connection by the probes that TCP sends on an idle one, here after two seconds.
    let url = case.server().url();
    case.orch.set("DATABASE_URL", format!("{url}?keepalives_idle=2&keepalives_interval=1&keepalives_count=2"));
    let jobs = deafen(case).await;
    let former = case.replica_id("deaf").await;
    // The server's side of the two connections ends, with all that lies in them; the replica's side hears nothing yet.
    let place = case.node("deaf").place();
    place.refuse_answers();
    let there = "select from pg_stat_activity where pid = any($1)";
    eventually("the server to give up on the two connections", async || {
        case.sql.query(there, &[&jobs.backends]).await.unwrap().is_empty().then_some(())
    })
    .await;
    for job in &jobs.claimed {
        let row = case.job(*job).await;
        assert_eq!((row.get::<_, &str>("status"), row.get::<_, Option<i32>>("pid")), ("running", None));
        assert!(witness::intervals(&case.witness(), *job).is_empty(), "nobody has heard of this claim");
    }
    place.heal();

    for job in &jobs.claimed {
        case.until(*job, "succeeded", BOUND).await;
        assert_eq!(case.outcomes(*job).await, [Some("interrupted".to_owned()), Some("succeeded".to_owned())]);
    }
    eventually("the settlement to be sent again, and answered", async || {
        case.node("deaf").log().contains("run had been settled already").then_some(())
    })
    .await;
    assert_eq!(case.outcomes(jobs.settled).await, [Some("succeeded".to_owned())], "settled once");
    ran_once(case, &jobs.claimed);
    ran_once(case, &[jobs.settled]);
    assert!(witness::is_alive(&case.witness(), jobs.alive), "what lived was not touched");
    assert_eq!(case.replica_id("deaf").await, former, "it did not have to register anew");
    case.sql.execute("select orch.cancel($1)", &[&jobs.alive]).await.unwrap();
}

pub(crate) async fn until_others_have_its_jobs(case: &mut Case) {
    case.move_to_network().await;
    let jobs = deafen(case).await;
    let former = case.replica_id("deaf").await;
    case.add_node_apart("other").up().await;
    for job in jobs.claimed.iter().chain([&jobs.alive]) {
        case.until(*job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.outcomes(*job).await, [Some("lost".to_owned()), Some("succeeded".to_owned())]);
    }
    // What was on the way arrives now, long after it lost its meaning: the claim's answer among it.
    case.node("deaf").place().heal();
    eventually_within(BOUND + Duration::from_secs(30), "the replica to have a new name", async || {
        (case.replica_id("deaf").await != former).then_some(())
    })
    .await;
    ran_once(case, &jobs.claimed);
    ran_once(case, &[jobs.settled]);
    assert_eq!(case.outcomes(jobs.settled).await, [Some("succeeded".to_owned())], "settled once");
    for job in &jobs.claimed {
        assert_eq!(case.runs(*job).await.len(), 2, "job {job} ran again");
    }
}
