//! Row 18: a failover that lost commits. The standby is cut off, the primary goes on and acknowledges, then it crashes and the
//! standby is promoted. What was settled and lost runs again, under a new run id; a run whose claim was lost lives beside its
//! repetition for H + K at the most; no row is stuck.

use std::{collections::BTreeMap, path::Path, time::Duration};

use crate::{
    bound::{BOUND_AFTER_OUTAGE, HEARTBEAT, KILL_GRACE},
    case::{BOUND, Case},
    support::{eventually, eventually_within, say},
    witness,
};

/// What a loaded machine adds to H + K.
const SLACK: Duration = Duration::from_secs(2);

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
    failed_over(case).await;

    for (job, lost) in jobs.iter().zip(&before) {
        case.until(*job, "succeeded", BOUND_AFTER_OUTAGE).await;
        let runs: Vec<String> = case.runs(*job).await.iter().map(|run| run.get("run")).collect();
        assert!(runs.len() == 2 && runs[0] == *lost && runs[1] != *lost, "job {job}: {lost} was lost, then {runs:?}");
        assert_eq!(case.outcomes(*job).await[1], Some("succeeded".to_owned()), "job {job}");
        assert_eq!(witness::intervals(&case.witness(), *job).len(), 2, "job {job}");
    }
}

async fn failed_over(case: &mut Case) {
    case.fail_over().await;
    case.reconnect().await;
    let looks = case.auditor.looks();
    eventually("the auditor to look at the new primary", async || (case.auditor.looks() > looks).then_some(())).await;
}

pub(crate) async fn a_lost_claim_lives_beside_its_repetition_for_h_and_k(case: &mut Case) {
    case.move_to_replicated_servers().await;
    let (go, beats) = (case.orch.path("go"), case.orch.path("beats"));
    std::fs::create_dir(&beats).unwrap();
    // The witness would take the overlap for the error that it is elsewhere: each run writes down when it lived, and nothing
    // but KILL ends the first.
    let script = format!(
        "trap '' TERM; until [ -e {} ]; do read now _ < /proc/uptime; echo $now >> {}/$ORCH_JOB_ID.$ORCH_RUN_ID; sleep 0.05; done",
        go.display(),
        beats.display()
    );
    case.plain_agent("beats", &["sh", "-c", &script], "");
    for name in ["a", "b"] {
        case.add_node(name).up().await;
    }
    // The standby has them as queued, and is cut off before they are due.
    let due = "select orch.enqueue('beats', run_at => now() + interval '8 s') from generate_series(1, 4)";
    let jobs: Vec<i64> = case.sql.query(due, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    case.cut_off_standby().await;
    for job in &jobs {
        assert_eq!(case.job(*job).await.get::<_, &str>("status"), "queued", "the machine is too slow for this row");
    }
    let mut firsts = BTreeMap::new();
    for job in &jobs {
        let run = eventually_within(BOUND, "the run to live", async || {
            let run: String = case.runs(*job).await.first()?.get("run");
            (!lived(&beats, *job, &run).is_empty()).then_some(run)
        })
        .await;
        firsts.insert(*job, run);
    }
    failed_over(case).await;
    let mut longest = Duration::ZERO;
    for (job, first) in &firsts {
        let second = eventually_within(BOUND_AFTER_OUTAGE, "the job to run again", async || {
            let run: String = case.runs(*job).await.first()?.get("run");
            (!lived(&beats, *job, &run).is_empty()).then_some(run)
        })
        .await;
        assert_ne!(&second, first, "no run id comes twice");
        let began = lived(&beats, *job, &second)[0];
        let over = eventually_within(BOUND, "the first run to end", async || {
            let last = *lived(&beats, *job, first).last()?;
            let latest = *lived(&beats, *job, &second).last()?;
            (latest - last > 1.0).then_some(last)
        })
        .await;
        longest = longest.max(Duration::try_from_secs_f64(over - began).unwrap_or_default());
    }
    say(&format!("row 18: a lost claim lived beside its repetition for {:.2} s", longest.as_secs_f64()));
    assert!(longest < HEARTBEAT + KILL_GRACE + SLACK, "two runs of one job lived together for {longest:?}");
    std::fs::write(&go, "").unwrap();
    for job in &jobs {
        case.until(*job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.outcomes(*job).await, [Some("succeeded".to_owned())], "job {job}");
    }
}

/// When a run was seen to live, in seconds since the machine's boot.
fn lived(beats: &Path, job: i64, run: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(beats.join(format!("{job}.{run}"))).unwrap_or_default();
    // The last line may be half written.
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')?.parse().ok()).collect()
}
