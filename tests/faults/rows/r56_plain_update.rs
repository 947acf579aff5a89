//! Row 56: an operator's plain UPDATE of a running row. Ownership is nulled at once; the old process is gone before the
//! next one starts.

use crate::{
    case::{BOUND, Case},
    processes::stat,
    support::eventually_within,
    witness,
};

const DEAF_ONCE: &str = r#"[ "$ORCH_ATTEMPT" = 1 ] || exit 0; trap '' TERM; while :; do sleep 1000; done"#;

async fn running(case: &mut Case) -> (i64, i32) {
    case.agent("deaf_once", DEAF_ONCE, "");
    case.up().await;
    let job = case.enqueue("deaf_once").await;
    let pid = case.until_alive(job).await;
    (job, pid)
}

/// Right after the UPDATE, before the replica can have heard of it: in the same transaction.
async fn update(case: &mut Case, job: i64, status: &str) {
    let transaction = case.sql.transaction().await.unwrap();
    transaction.execute(&format!("update orch.jobs set status = '{status}' where id = $1"), &[&job]).await.unwrap();
    let row = transaction.query_one("select * from orch.jobs where id = $1", &[&job]).await.unwrap();
    assert_eq!(row.get::<_, Option<i32>>("pid"), None);
    let owned = "select num_nonnulls(run_id, replica_id, pid, started_at, running_gate),
        awaits_replica is not null, last_run_id is not null from orch.jobs where id = $1";
    let row = transaction.query_one(owned, &[&job]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, bool>(1), row.get::<_, bool>(2)), (0, true, true));
    let run = "select outcome, closed_by from orch.agent_runs where job_id = $1 and ended_at is not null";
    let run = transaction.query_one(run, &[&job]).await.unwrap();
    assert_eq!((run.get::<_, &str>(0), run.get::<_, &str>(1)), ("interrupted", "operator"));
    transaction.commit().await.unwrap();
}

pub(crate) async fn to_queued_waits_for_the_old_process(case: &mut Case) {
    let (job, pid) = running(case).await;
    update(case, job, "queued").await;
    case.until(job, "succeeded", BOUND).await;
    assert_eq!(case.outcomes(job).await, [Some("interrupted".to_owned()), Some("succeeded".to_owned())]);
    assert_eq!(stat(pid), None, "the old process is gone");
    // The second run got the witness's lock: nothing of the first held it any more.
    assert_eq!(witness::intervals(&case.witness(), job).len(), 2);
    assert_eq!(case.job(job).await.get::<_, i32>("failures"), 0);
}

pub(crate) async fn to_held_ends_the_process(case: &mut Case) {
    let (job, pid) = running(case).await;
    update(case, job, "held").await;
    eventually_within(BOUND, "the old process to be gone", async || stat(pid).is_none().then_some(())).await;
    eventually_within(BOUND, "the replica to say so", async || {
        let waits = "select 1 from orch.jobs where id = $1 and awaits_replica is not null";
        case.sql.query(waits, &[&job]).await.unwrap().is_empty().then_some(())
    })
    .await;
    assert_eq!(case.job(job).await.get::<_, &str>("status"), "held");
    case.sql.execute("select orch.release($1)", &[&job]).await.unwrap();
    case.until(job, "succeeded", BOUND).await;
}

pub(crate) async fn to_a_finished_status_is_refused(case: &mut Case) {
    let (job, pid) = running(case).await;
    for status in ["succeeded", "failed", "cancelled"] {
        let update = format!("update orch.jobs set status = '{status}' where id = {job}");
        let refused = case.sql.batch_execute(&update).await.unwrap_err();
        let refused = refused.as_db_error().unwrap();
        assert!(refused.code().code().starts_with("OR"), "{status}: {refused}");
        assert!(
            refused.message().contains("orch.cancel")
                || refused.hint().is_some_and(|hint| hint.contains("orch.cancel"))
        );
    }
    assert!(stat(pid).is_some(), "the run goes on");
    case.sql.execute("select orch.cancel($1)", &[&job]).await.unwrap();
    case.until(job, "cancelled", BOUND).await;
}
