//! Row 19: failover to a server whose clock is two minutes ahead of the old one's, or behind. All leases look long expired
//! there, or long as they never were; nobody is reaped before its lease is over in truth, and whoever really dies is, later by
//! the difference at the most.

use std::time::{Duration, Instant};

use crate::{
    bound::{BOUND, BOUND_AFTER_OUTAGE, LEASE, REAP_GRACE, TICK},
    case::Case,
    support::{eventually, fake_time_library, say},
    witness,
};

const OFF: Duration = Duration::from_mins(2);

pub(crate) async fn two_minutes_ahead(case: &mut Case) {
    // What waits after a failover is added to what always does.
    fail_over_to(case, "+2m", LEASE + REAP_GRACE + BOUND).await;
}

pub(crate) async fn two_minutes_behind(case: &mut Case) {
    fail_over_to(case, "-2m", OFF + BOUND).await;
}

async fn fail_over_to(case: &mut Case, off: &str, recovered_within: Duration) {
    let library = fake_time_library().expect("what the row needs").to_str().unwrap().to_owned();
    let env = [("LD_PRELOAD", library.as_str()), ("FAKETIME", off), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    case.move_to_replicated_servers_with(&env.map(|(name, value)| (name.to_owned(), value.to_owned()))).await;
    let go = case.orch.path("go");
    case.agent("long", &format!("[ $ORCH_ATTEMPT -gt 1 ] || until [ -e {} ]; do sleep 0.2; done", go.display()), "");
    case.agent("quick", "exit 0", "");
    for name in ["a", "b"] {
        case.add_node(name).up().await;
    }
    // More than either has slots for.
    let mut long = Vec::new();
    for _ in 0..12 {
        long.push(case.enqueue("long").await);
    }
    for job in &long {
        case.until_alive(*job).await;
    }
    let before: f64 = case.sql.query_one(NOW, &[]).await.unwrap().get(0);
    case.fail_over().await;
    case.reconnect().await;
    let after: f64 = case.sql.query_one(NOW, &[]).await.unwrap().get(0);
    let moved = after - before;
    let right = if off.starts_with('+') { 100.0..150.0 } else { -120.0..-90.0 };
    assert!(right.contains(&moved), "the row's own doing: the database's clock has moved by {moved} s");
    let looks = case.auditor.looks();
    eventually("the auditor to look at the new primary", async || (case.auditor.looks() > looks).then_some(())).await;

    // For as long as it takes to be taken for dead, and again.
    let since = Instant::now();
    while since.elapsed() < (LEASE + REAP_GRACE + TICK) * 2 {
        let dead = "select name from orch.replicas where state <> 'live'";
        assert!(case.sql.query(dead, &[]).await.unwrap().is_empty(), "reaped early, after {:?}", since.elapsed());
        let ended = long.iter().find(|job| !witness::is_alive(&case.witness(), **job));
        assert_eq!(ended, None, "a job ended after {:?}", since.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let of_b = "select j.id from orch.jobs j join orch.replicas p using (replica_id) where p.name = 'b'";
    let of_b: Vec<i64> = case.sql.query(of_b, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(!of_b.is_empty() && of_b.len() < long.len(), "each has some: {of_b:?} of {long:?}");
    case.node("b").kill_everything().await;
    let dead = Instant::now();
    std::fs::write(&go, "").unwrap();
    for job in &of_b {
        case.until(*job, "succeeded", recovered_within).await;
        assert_eq!(case.outcomes(*job).await, [Some("lost".to_owned()), Some("succeeded".to_owned())], "job {job}");
    }
    say(&format!(
        "row 19: with a clock {off}, the jobs of a dead replica were done after {:.1} s",
        dead.elapsed().as_secs_f64()
    ));
    for job in long.iter().filter(|job| !of_b.contains(job)) {
        case.until(*job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.outcomes(*job).await, [Some("succeeded".to_owned())], "job {job} ran once");
    }
    let quick = case.enqueue("quick").await;
    case.until(quick, "succeeded", BOUND).await;
}

const NOW: &str = "select extract(epoch from clock_timestamp())::float8";
