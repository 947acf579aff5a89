//! Row 22: every replica is killed, and the first comes back after three leases. Nobody ticked meanwhile, so nobody's lease
//! is believed to have run out before the others had time to renew; then everything recovers.

use std::time::Duration;

use crate::{
    bound::{BOUND_AFTER_OUTAGE, HEARTBEAT, LEASE, REAP_GRACE},
    case::Case,
    witness,
};

pub(crate) async fn another_machine_comes(case: &mut Case) {
    come_back(case, None).await;
}

pub(crate) async fn one_of_them_comes_back(case: &mut Case) {
    come_back(case, Some("a")).await;
}

async fn come_back(case: &mut Case, who: Option<&'static str>) {
    case.agent("once", "[ \"$ORCH_ATTEMPT\" = 1 ] && sleep 100000; exit 0", "");
    case.agent("quick", "exit 0", "");
    case.orch.set("ORCH_MAX_CONCURRENCY", "3");
    let mut jobs = Vec::new();
    for name in ["a", "b"] {
        case.add_node(name).up().await;
        for _ in 0..3 {
            jobs.push(case.enqueue("once").await);
        }
        for job in &jobs {
            case.until_alive(*job).await;
        }
    }
    let waiting = case.enqueue("quick").await;
    for name in ["a", "b"] {
        case.node(name).kill().await;
    }
    tokio::time::sleep(LEASE * 3).await;
    for job in &jobs {
        assert!(!witness::is_alive(&case.witness(), *job), "job {job} outlived the lease of its replica");
    }
    for name in ["a", "b"] {
        assert!(case.node(name).processes().is_empty(), "processes of {name} outlived its lease");
    }

    let begin = std::time::Instant::now();
    match who {
        Some(name) => case.node(name).up().await,
        None => case.add_node("c").up().await,
    }
    for job in jobs.iter().chain([&waiting]) {
        case.until(*job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.job(*job).await.get::<_, i32>("lost_count"), 0, "an outage is nobody's fault");
    }
    crate::support::say(&format!("row 22: all is well {:?} after the start", begin.elapsed()));
    let waited = "select extract(epoch from min(r.ended_at) - min(p.started_at))::float8
        from orch.agent_runs r, orch.replicas p
        where r.closed_by = 'reap' and p.state = 'live'";
    let waited: Option<f64> = case.sql.query_one(waited, &[]).await.unwrap().get(0);
    let waited = Duration::from_secs_f64(waited.expect("runs of another directory, which only a reap can settle"));
    assert!(
        waited + HEARTBEAT > HEARTBEAT * 3 + REAP_GRACE,
        "reaped {waited:?} after the start, before others had time"
    );
}
