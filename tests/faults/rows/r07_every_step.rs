//! Row 7: `kill -9` between every two durable steps of a run, of the replica or of the shim, whoever passes there. With the
//! replica started again, and with another one in its stead. The steps of an adoption are row 53's.

use orch::failpoint::Point;

use crate::{
    bound::BOUND_AFTER_OUTAGE,
    case::{BOUND, Case},
    failpoints::Kill,
    support::eventually_within,
};

/// What must become of the run that was under way.
struct Step {
    point: Point,
    /// Where its replica is started again on the same state directory.
    restarted: &'static str,
    /// Where it is not, and another one takes over after its lease. Its shim's own word reaches nobody then.
    left: &'static str,
    /// Whose death it is.
    shim_dies: bool,
}

const fn replica(point: Point, restarted: &'static str, left: &'static str) -> Step {
    Step { point, restarted, left, shim_dies: false }
}

const fn shim(point: Point, outcome: &'static str) -> Step {
    Step { point, restarted: outcome, left: outcome, shim_dies: true }
}

const STEPS: [Step; 8] = [
    replica(Point::ClaimCommitted, "interrupted", "lost"),
    replica(Point::SpecWritten, "interrupted", "lost"),
    replica(Point::ShimStarted, "succeeded", "lost"),
    replica(Point::PidStamped, "succeeded", "lost"),
    shim(Point::ChildEnded, "lost"),
    shim(Point::ExitRenamed, "succeeded"),
    replica(Point::SettleCommitted, "succeeded", "succeeded"),
    replica(Point::DirectoryRemoved, "succeeded", "succeeded"),
];

pub(crate) async fn and_started_again(case: &mut Case) {
    each_is_killed_at_its_step(case, true).await;
    all_succeed(case, |step| step.restarted).await;
}

pub(crate) async fn and_replaced_by_another(case: &mut Case) {
    each_is_killed_at_its_step(case, false).await;
    case.add_node("heir").up().await;
    all_succeed(case, |step| step.left).await;
}

/// A node for each step, which alone serves the agent of that name, and a job for it. Afterwards every process that was to
/// be killed is dead, no node kills any more, and the replicas are started again if they are to be.
async fn each_is_killed_at_its_step(case: &mut Case, again: bool) {
    let mut kills = Vec::new();
    for step in &STEPS {
        let name = step.point.name();
        let settings = "backoff = { base = \"100ms\", factor = 1, max = \"100ms\" }";
        let own = case.agent(name, "sleep 2", settings);
        let node = case.add_node(name);
        node.orch.set("ORCH_CONFIG", node.orch.path("orch.toml").to_string_lossy());
        node.orch.config(&own);
        kills.push((step, Kill::at(step.point, node).await));
        node.start();
    }
    for step in &STEPS {
        case.node(step.point.name()).until_ready().await;
    }
    for step in &STEPS {
        case.enqueue(step.point.name()).await;
    }
    eventually_within(BOUND, "each to be killed at its step", async || {
        let mut waiting = Vec::new();
        for (step, kill) in kills.drain(..) {
            if !kill.is_done() {
                waiting.push((step, kill));
                continue;
            }
            let node = case.node(step.point.name());
            node.orch.unset("FAILPOINTS");
            if !step.shim_dies {
                let status = node.ended().await;
                assert!(status.code().is_none(), "{:?}: the replica is killed, not {status}", step.point);
                if again {
                    node.start();
                }
            }
        }
        kills = waiting;
        kills.is_empty().then_some(())
    })
    .await;
}

async fn all_succeed(case: &mut Case, expected: impl Fn(&Step) -> &'static str) {
    let unfinished = "select count(*) from orch.jobs where status <> 'succeeded'";
    eventually_within(BOUND_AFTER_OUTAGE + BOUND, "every job to succeed", async || {
        (case.sql.query_one(unfinished, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    for step in &STEPS {
        let job = "select id from orch.jobs where agent = $1";
        let job: i64 = case.sql.query_one(job, &[&step.point.name()]).await.unwrap().get(0);
        let first = expected(step).to_owned();
        let whole = if first == "succeeded" { vec![Some(first)] } else { vec![Some(first), Some("succeeded".into())] };
        assert_eq!(case.outcomes(job).await, whole, "{:?}: the runs of job {job}", step.point);
    }
}
