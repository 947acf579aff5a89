//! Row 53: successors at the worst moment. A renewal that comes after the handover, a successor that renews and cannot
//! adopt, one that dies half-way. Nobody's run outlives what the database granted, and nobody's is ended without need.

use orch::failpoint::Point;

use crate::{
    bound::{BOUND_AFTER_HANDOVER, HANDOVER_LEASE, HEARTBEAT, KILL_GRACE, LEASE, REAP_GRACE},
    case::{BOUND, BOUND_AFTER_OUTAGE, Case},
    failpoints::Kill,
    proxy::{Fate, Proxy, RENEWAL},
    support::{eventually, eventually_within},
    witness,
};

/// Three jobs whose first attempt is deaf to TERM and runs until the row lets them go, alive on node `a`; the second ends at once.
async fn three_on_a(case: &mut Case) -> Vec<i64> {
    let go = case.orch.path("go");
    let wait = format!("until [ -e {} ]; do sleep 0.2; done", go.display());
    let script = format!("[ \"$ORCH_ATTEMPT\" = 1 ] || exit 0; trap '' TERM; {wait}");
    case.agent("long", &script, "");
    case.add_node("a").up().await;
    let jobs = [case.enqueue("long").await, case.enqueue("long").await, case.enqueue("long").await];
    for job in jobs {
        case.until_alive(job).await;
    }
    jobs.to_vec()
}

/// The jobs are let go, and each turns out to have run once.
async fn each_ran_once(case: &mut Case, jobs: &[i64]) {
    for job in jobs {
        assert!(witness::is_alive(&case.witness(), *job), "job {job} was ended without need");
    }
    std::fs::write(case.orch.path("go"), "").unwrap();
    for job in jobs {
        case.until(*job, "succeeded", BOUND).await;
        assert_eq!(case.outcomes(*job).await, [Some("succeeded".to_owned())], "job {job}");
    }
}

/// How long the database still grants the runs of these boots, in seconds; less than nothing once it does not.
async fn granted(case: &Case, boots: &[String]) -> f64 {
    let granted = "select max(extract(epoch from lease_until - clock_timestamp()))::float8
        from orch.replicas where replica_id::text = any ($1)";
    case.sql.query_one(granted, &[&boots]).await.unwrap().get(0)
}

/// The runs end by themselves before the database lets anybody else take their jobs.
async fn end_before_the_grant_does(case: &Case, jobs: &[i64], boots: &[String]) {
    eventually_within(BOUND_AFTER_HANDOVER, "the runs to be ended by their lease", async || {
        jobs.iter().all(|job| !witness::is_alive(&case.witness(), *job)).then_some(())
    })
    .await;
    let left = granted(case, boots).await;
    assert!(left > -REAP_GRACE.as_secs_f64(), "the runs ended {:.2} s after what was granted to them", -left);
}

pub(crate) async fn a_renewal_that_comes_after_the_handover(case: &mut Case) {
    let proxy = Proxy::before(case.db.config()).await;
    case.orch.set("ORCH_DRAIN", "handover");
    case.orch.set("ORCH_RENEWAL_URL", proxy.url(&case.db.url()));
    let jobs = three_on_a(case).await;
    let boot = case.replica_id("a").await;

    // One renewal strays; the planned stop renews for longer than that one says, and is gone when it arrives.
    let stray = proxy.trap(RENEWAL, Fate::StrayRequest);
    stray.sprung().await;
    case.node("a").stop().await;
    assert!(
        granted(case, std::slice::from_ref(&boot)).await > LEASE.as_secs_f64(),
        "the planned stop renewed a longer lease"
    );
    stray.let_go();
    stray.answered().await;
    assert!(granted(case, &[boot]).await > LEASE.as_secs_f64(), "a late renewal shortened the lease");
    tokio::time::sleep(LEASE + KILL_GRACE).await;
    case.node("a").up().await;
    tokio::time::sleep(HANDOVER_LEASE.saturating_sub(LEASE)).await;
    each_ran_once(case, &jobs).await;
}

pub(crate) async fn nobody_comes_after_the_handover(case: &mut Case) {
    case.orch.set("ORCH_DRAIN", "handover");
    let jobs = three_on_a(case).await;
    let boot = case.replica_id("a").await;
    case.node("a").stop().await;
    let begin = std::time::Instant::now();
    case.add_node("b").up().await;
    end_before_the_grant_does(case, &jobs, &[boot]).await;
    assert!(begin.elapsed() + KILL_GRACE * 2 > HANDOVER_LEASE, "ended {:?} after the handover", begin.elapsed());
    for job in jobs {
        case.until(job, "succeeded", BOUND_AFTER_HANDOVER).await;
        assert_eq!(case.outcomes(job).await, [Some("lost".to_owned()), Some("succeeded".to_owned())]);
    }
}

pub(crate) async fn a_renewal_whose_reply_is_late(case: &mut Case) {
    let proxy = Proxy::before(case.db.config()).await;
    case.orch.set("ORCH_RENEWAL_URL", proxy.url(&case.db.url()));
    let jobs = three_on_a(case).await;
    let boot = case.replica_id("a").await;
    // The last renewal that the database hears of; counted from its reply, the lease would outlive the grant.
    let last = proxy.trap(RENEWAL, Fate::HoldReply);
    last.answered().await;
    let further = proxy.trap_each(RENEWAL, Fate::StrayRequest);
    tokio::time::sleep(HEARTBEAT.mul_f64(1.5)).await;
    last.let_go();
    // Who sends the next one has heard the reply.
    further.sprung().await;
    case.node("a").kill().await;
    case.orch.unset("ORCH_RENEWAL_URL");
    case.add_node("b").up().await;
    end_before_the_grant_does(case, &jobs, &[boot]).await;
    for job in jobs {
        case.until(job, "succeeded", BOUND).await;
        assert_eq!(case.outcomes(job).await, [Some("lost".to_owned()), Some("succeeded".to_owned())]);
    }
}

pub(crate) async fn a_successor_that_renews_and_cannot_adopt(case: &mut Case) {
    let jobs = three_on_a(case).await;
    let boot = case.replica_id("a").await;
    case.node("a").kill().await;
    // Whoever adopts must write these rows.
    let mut holder = case.db.client().await;
    let held = holder.transaction().await.unwrap();
    held.execute("select from orch.jobs where id = any ($1) for update", &[&jobs]).await.unwrap();
    case.node("a").start();
    eventually("the successor to register", async || (case.replica_id("a").await != boot).then_some(())).await;
    let successor = case.replica_id("a").await;
    // The successor's own lease is fresh all the time, and is not theirs.
    end_before_the_grant_does(case, &jobs, &[boot]).await;
    assert!(granted(case, &[successor]).await > 0.0, "the successor renews");
    held.rollback().await.unwrap();
    for job in jobs {
        case.until(job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.runs(job).await.len(), 2, "job {job}: ended by its lease, and run again");
    }
    case.node("a").until_ready().await;
}

pub(crate) async fn killed_before_an_adoption_and_again_followed(case: &mut Case) {
    half_way(case, Point::AdoptionBegun, true).await;
}

pub(crate) async fn killed_after_an_adoption_and_again_followed(case: &mut Case) {
    half_way(case, Point::AdoptionCommitted, true).await;
}

pub(crate) async fn killed_before_an_adoption_for_good(case: &mut Case) {
    half_way(case, Point::AdoptionBegun, false).await;
}

pub(crate) async fn killed_after_an_adoption_for_good(case: &mut Case) {
    half_way(case, Point::AdoptionCommitted, false).await;
}

async fn half_way(case: &mut Case, point: Point, is_followed: bool) {
    // Before the first lease begins to run out.
    crate::failpoints::program().await;
    let jobs = three_on_a(case).await;
    let mut boots = vec![case.replica_id("a").await];
    case.node("a").kill().await;
    let kill = Kill::at(point, case.node("a")).await;
    case.node("a").start();
    kill.done().await;
    let status = case.node("a").ended().await;
    assert!(status.code().is_none(), "{status}");
    boots.push(case.replica_id("a").await);
    assert_ne!(boots[0], boots[1], "the successor had registered");
    case.node("a").orch.unset("FAILPOINTS");
    if is_followed {
        case.node("a").up().await;
        // Longer than any lease but the new one.
        tokio::time::sleep(LEASE).await;
        each_ran_once(case, &jobs).await;
        return;
    }
    case.add_node("b").up().await;
    end_before_the_grant_does(case, &jobs, &boots).await;
    for job in jobs {
        case.until(job, "succeeded", BOUND).await;
        assert_eq!(case.outcomes(job).await, [Some("lost".to_owned()), Some("succeeded".to_owned())]);
    }
}
