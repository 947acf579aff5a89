//! Row 18: a failover that lost commits. The standby is cut off, the primary goes on and acknowledges, then it crashes and the
//! standby is promoted. What was settled and lost runs again, under a new run id; no row is stuck.
//!
//! A claim that was lost can live beside its repetition for H + K, which the judges take for the error that it is; that half
//! of the row is not here.

use crate::{
    bound::BOUND_AFTER_OUTAGE,
    case::{BOUND, Case},
    support::eventually,
    witness,
};

pub(crate) async fn a_lost_settlement_runs_again_under_a_new_run(case: &mut Case) {
    case.move_to_replicated_servers().await;
    let go = case.orch.path("go");
    case.agent("waits", &format!("until [ -e {} ]; do sleep 0.1; done", go.display()), "");
    for name in ["a", "b"] {
        case.add_node(name).up().await;
    }
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(case.enqueue("waits").await);
    }
    for job in &jobs {
        case.until_alive(*job).await;
    }

    case.cut_off_standby().await;
    std::fs::write(&go, "").unwrap();
    let mut before = Vec::new();
    for job in &jobs {
        case.until(*job, "succeeded", BOUND).await;
        before.push(case.runs(*job).await[0].get::<_, String>("run"));
    }
    case.fail_over().await;
    case.reconnect().await;
    let looks = case.auditor.looks();
    eventually("the auditor to look at the new primary", async || (case.auditor.looks() > looks).then_some(())).await;

    for (job, lost) in jobs.iter().zip(&before) {
        case.until(*job, "succeeded", BOUND_AFTER_OUTAGE).await;
        let runs: Vec<String> = case.runs(*job).await.iter().map(|run| run.get("run")).collect();
        assert!(runs.len() == 2 && runs[0] == *lost && runs[1] != *lost, "job {job}: {lost} was lost, then {runs:?}");
        assert_eq!(case.outcomes(*job).await[1], Some("succeeded".to_owned()), "job {job}");
        assert_eq!(witness::intervals(&case.witness(), *job).len(), 2, "job {job}");
    }
}
