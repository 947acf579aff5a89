//! Row 15: two seconds to the database and back, one more or less, and each tenth packet is lost. At the default timings
//! nobody is fenced for it, and jobs flow, if slowly.
//!
//! The proxy delays and stalls as TCP on such a network would; `tc netem` is a module that kernels of containers and small
//! machines often lack.

use std::time::{Duration, Instant};

use crate::{
    bound::HEARTBEAT,
    case::{BOUND, Case},
    proxy::{LongWay, Proxy},
    support::{eventually_within, say},
    witness,
};

const WAY: LongWay = LongWay {
    takes: Duration::from_secs(1),
    spread: Duration::from_millis(500),
    loss: 0.1,
    // TCP's estimate: the mean there and back, and four times what it deviates by.
    again_after: Duration::from_secs(4),
};
const WATCHED: Duration = Duration::from_mins(8);
/// A statement's patience, for each of a claim, a settlement and whatever has to be said again.
const DONE_WITHIN: Duration = Duration::from_mins(3);

pub(crate) async fn a_connection_that_takes_longer_than_two_heartbeats_is_waited_for(case: &mut Case) {
    let (lease, one_way) = (Duration::from_secs(10), Duration::from_millis(300));
    case.orch.set("ORCH_LEASE", format!("{}s", lease.as_secs()));
    let go = case.orch.path("go");
    case.agent("long", &format!("until [ -e {} ]; do sleep 0.2; done", go.display()), "");
    let proxy = Proxy::before(case.db.config()).await;
    let url = proxy.url(&case.db.url());
    let node = case.add_node("far away");
    node.orch.set("ORCH_RENEWAL_URL", url);
    node.up().await;
    let job = case.enqueue("long").await;
    case.until_alive(job).await;
    let replica = case.replica_id("far away").await;

    // To make a connection and ask takes six ways there and back, and nothing that was made before is left.
    proxy.delay_requests(one_way);
    proxy.delay_replies(one_way);
    proxy.cut();
    assert!(one_way * 12 > HEARTBEAT * 3);
    let began = Instant::now();
    eventually_within(lease * 2, "more than a lease to pass", async || {
        assert!(
            witness::is_alive(&case.witness(), job),
            "the job was ended {:?} after the connection",
            began.elapsed()
        );
        (began.elapsed() > lease + HEARTBEAT).then_some(())
    })
    .await;
    std::fs::write(&go, "").unwrap();
    case.until(job, "succeeded", BOUND).await;
    assert_eq!(case.outcomes(job).await, [Some("succeeded".to_owned())]);
    assert_eq!(case.replica_id("far away").await, replica, "it did not have to register anew");
}

pub(crate) async fn nobody_is_fenced_at_the_default_timings(case: &mut Case) {
    for (setting, value) in [
        ("ORCH_LEASE", "60s"),
        ("ORCH_HEARTBEAT", "5s"),
        ("ORCH_KILL_GRACE", "10s"),
        ("ORCH_REAP_GRACE", "5s"),
        ("ORCH_REAP_INTERVAL", "5s"),
        ("ORCH_POLL_INTERVAL", "1s"),
    ] {
        case.orch.set(setting, value);
    }
    let go = case.orch.path("go");
    case.agent("long", &format!("until [ -e {} ]; do sleep 0.5; done", go.display()), "");
    case.agent("short", "sleep 1", "");
    let proxy = Proxy::before(case.db.config()).await;
    let url = proxy.url(&case.db.url());
    let node = case.add_node("far away");
    node.orch.set("DATABASE_URL", url);
    node.up().await;
    let mut long = Vec::new();
    for _ in 0..4 {
        long.push(case.enqueue("long").await);
    }
    for job in &long {
        case.until_alive(*job).await;
    }
    // Nearby, with no slot for any of its jobs, and the one who would declare it dead.
    let reaper = case.add_node("nearby");
    reaper.orch.config("");
    reaper.up().await;

    proxy.lead_astray(WAY);
    let began = Instant::now();
    let (mut shortest, mut short) = (f64::MAX, Vec::new());
    let left =
        "select extract(epoch from lease_until - clock_timestamp())::float8 from orch.replicas where name = 'far away'";
    eventually_within(WATCHED * 2, "the time to pass", async || {
        let left: f64 = case.sql.query_one(left, &[]).await.unwrap().get(0);
        shortest = left.min(shortest);
        for job in &long {
            assert!(
                witness::is_alive(&case.witness(), *job),
                "job {job} was ended, {left:.1} s before its lease was over"
            );
        }
        if began.elapsed() > Duration::from_secs(20) * short.len() as u32 {
            short.push(case.enqueue("short").await);
        }
        (began.elapsed() > WATCHED).then_some(())
    })
    .await;
    say(&format!(
        "row 15: {:.0} s on long ways; at the least {shortest:.1} s of the lease were left",
        WATCHED.as_secs_f64()
    ));
    for job in &short {
        eventually_within(DONE_WITHIN, "every job to be done", async || {
            (case.job(*job).await.get::<_, &str>("status") == "succeeded").then_some(())
        })
        .await;
        assert_eq!(witness::intervals(&case.witness(), *job).len(), 1, "job {job} was started once");
    }
    proxy.heal();
    std::fs::write(&go, "").unwrap();
    for job in &long {
        case.until(*job, "succeeded", DONE_WITHIN).await;
        assert_eq!(case.outcomes(*job).await, [Some("succeeded".to_owned())], "job {job} was not touched");
    }
}
