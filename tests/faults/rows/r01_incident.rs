//! Row 1, the incident: a queued row that carries a run and the pid of a living process, at max concurrency 1.

use crate::{
    case::{BOUND_AFTER_OUTAGE, Case, Decoy},
    support::eventually,
};

/// What job 2286 looked like: owned, and yet queued, and never started.
const IMPOSSIBLE: &str = "update orch.jobs set run_id = gen_random_uuid(), pid = $2 where id = $1";

/// Takes the triggers away, finds the CHECKs still refusing, and takes them away too.
async fn break_the_guards(case: &Case, job: i64, pid: i32) {
    case.sql.batch_execute("alter table orch.jobs disable trigger all").await.unwrap();
    let refused = case.sql.execute(IMPOSSIBLE, &[&job, &pid]).await.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "23514", "without its triggers the table still refuses: {refused}");
    let checks = "select format('alter table orch.jobs drop constraint %I', conname) from pg_constraint
        where conrelid = 'orch.jobs'::regclass and contype = 'c'";
    for check in case.sql.query(checks, &[]).await.unwrap() {
        case.sql.batch_execute(check.get(0)).await.unwrap();
    }
}

async fn make_impossible(case: &Case, job: i64, pid: i32) {
    case.auditor.exempt_until_repaired(&job.to_string());
    assert_eq!(case.sql.execute(IMPOSSIBLE, &[&job, &pid]).await.unwrap(), 1);
}

async fn repaired_and_counted(case: &Case, made: i64) {
    eventually("the repairs to be counted in GET /queue", async || {
        let queue = case.replica().get("/queue").await.json();
        (queue["reaper"]["impossible_queued_total"] == made).then_some(())
    })
    .await;
}

pub(crate) async fn repaired_at_startup(case: &mut Case) {
    case.orch.set("ORCH_MAX_CONCURRENCY", "1");
    case.agent("quick", "exit 0", "");
    let mut decoy = Decoy::start();
    let jobs = [case.enqueue("quick").await, case.enqueue("quick").await, case.enqueue("quick").await];
    break_the_guards(case, jobs[0], decoy.pid()).await;
    make_impossible(case, jobs[0], decoy.pid()).await;
    make_impossible(case, jobs[1], decoy.pid()).await;
    case.up().await;
    case.auditor.repair_begins();
    for job in jobs {
        case.until(job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(
            case.outcomes(job).await,
            [Some("succeeded".to_owned())],
            "one run, and none invented by the repair"
        );
    }
    repaired_and_counted(case, 2).await;
    decoy.assert_untouched();
}

pub(crate) async fn repaired_at_a_tick(case: &mut Case) {
    case.orch.set("ORCH_MAX_CONCURRENCY", "1");
    let go = case.orch.path("go");
    case.agent("patient", &format!("until [ -e {} ]; do sleep 0.05; done", go.display()), "");
    case.agent("quick", "exit 0", "");
    let mut decoy = Decoy::start();
    let busy = case.enqueue("patient").await;
    case.up().await;
    case.until_alive(busy).await;
    let job = case.enqueue("quick").await;
    break_the_guards(case, job, decoy.pid()).await;
    case.auditor.exempt(&job.to_string());
    make_impossible(case, job, decoy.pid()).await;
    case.auditor.repair_begins();
    repaired_and_counted(case, 1).await;
    // The one slot is free only now, so the repair was the tick's and not a claim's.
    assert_eq!(case.job(job).await.get::<_, Option<i32>>("pid"), None);
    std::fs::write(&go, "").unwrap();
    case.until(busy, "succeeded", BOUND_AFTER_OUTAGE).await;
    case.until(job, "succeeded", BOUND_AFTER_OUTAGE).await;
    decoy.assert_untouched();
}
