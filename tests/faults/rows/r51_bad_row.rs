//! Row 51: one bad row stops nobody. The rest flows within one poll; the offender is held or failed with the message.

use rand::RngExt as _;

use crate::{
    case::{BOUND, Case},
    support::eventually_within,
};

async fn others_flow(case: &Case, others: &[i64]) {
    for job in others {
        case.until(*job, "succeeded", BOUND).await;
    }
}

/// An offender among others, anywhere.
async fn enqueue_around(case: &mut Case, agent: &str) -> (i64, Vec<i64>) {
    let mut others = Vec::new();
    for _ in 0..6 {
        others.push(case.enqueue(agent).await);
    }
    let offender = others.remove(case.random.random_range(0..6));
    (offender, others)
}

pub(crate) async fn a_claim_that_the_database_refuses_is_held(case: &mut Case) {
    case.agent("quick", "exit 0", "");
    let (offender, others) = enqueue_around(case, "quick").await;
    let rule =
        format!("alter table orch.jobs add constraint never_runs check (id <> {offender} or status <> 'running')");
    case.sql.batch_execute(&rule).await.unwrap();
    case.up().await;
    others_flow(case, &others).await;
    case.until(offender, "held", BOUND).await;
    let error: Option<String> = case.job(offender).await.get("error");
    assert!(error.as_deref().is_some_and(|error| error.contains("never_runs")), "held with the message: {error:?}");
    assert!(case.runs(offender).await.is_empty());

    // An operator repairs what was wrong, releases it, and it runs.
    case.sql.batch_execute("alter table orch.jobs drop constraint never_runs").await.unwrap();
    case.sql.execute("select orch.release($1)", &[&offender]).await.unwrap();
    case.until(offender, "succeeded", BOUND).await;
}

pub(crate) async fn a_stale_open_run_stops_nobody(case: &mut Case) {
    case.agent("quick", "exit 0", "");
    let (offender, others) = enqueue_around(case, "quick").await;
    let run = uuid::Uuid::new_v4().to_string();
    case.auditor.exempt_until_repaired(&run);
    case.auditor.exempt_until_repaired(&offender.to_string());
    let stale = "insert into orch.agent_runs (run_id, job_id, attempt, replica_id, host, boot_id, claimed_at, rules)
        values ($1::text::uuid, $2, 1, gen_random_uuid(), 'elsewhere', 'elsewhere', now() - interval '1 day', '{}')";
    case.sql.execute(stale, &[&run, &offender]).await.unwrap();
    case.sql.execute("update orch.jobs set attempt = 1 where id = $1", &[&offender]).await.unwrap();
    case.up().await;
    case.auditor.repair_begins();
    others_flow(case, &others).await;
    // Sanitized before it was claimed, it runs; claimed before it was sanitized, it is held with the message.
    let status = eventually_within(BOUND, "the offender to be run or held", async || {
        let status: String = case.job(offender).await.get("status");
        (status == "succeeded" || status == "held").then_some(status)
    })
    .await;
    let closed = "select closed_by, ended_at is not null from orch.agent_runs where run_id = $1::text::uuid";
    eventually_within(BOUND, "the stale run to be closed by the sanitizer", async || {
        let row = case.sql.query_one(closed, &[&run]).await.unwrap();
        (row.get::<_, Option<&str>>(0) == Some("sanitize")).then_some(())
    })
    .await;
    if status == "held" {
        let error: Option<String> = case.job(offender).await.get("error");
        assert!(error.is_some(), "held with the message");
        case.sql.execute("select orch.release($1)", &[&offender]).await.unwrap();
        case.until(offender, "succeeded", BOUND).await;
    }
}

pub(crate) async fn a_result_that_the_database_refuses_stops_nobody(case: &mut Case) {
    // All of a batch end in the same moment.
    let go = case.orch.path("go");
    let script = format!(
        r#"echo "{{\"data\": $ORCH_JOB_ID}}" >"$ORCH_RESULT_FILE"; until [ -e {} ]; do sleep 0.02; done"#,
        go.display()
    );
    case.agent("together", &script, "max_attempts = 1");
    case.up().await;
    let (offender, others) = enqueue_around(case, "together").await;
    for job in others.iter().chain([&offender]) {
        case.until_alive(*job).await;
    }
    let rule =
        format!("alter table orch.jobs add constraint no_such_result check (id <> {offender} or result is null)");
    case.sql.batch_execute(&rule).await.unwrap();
    std::fs::write(&go, "").unwrap();
    others_flow(case, &others).await;
    case.until(offender, "failed", BOUND).await;
    let row = case.job(offender).await;
    let error: Option<&str> = row.get("error");
    assert!(error.is_some_and(|error| error.contains("no_such_result")), "failed with the message: {error:?}");
    assert_eq!(row.get::<_, Option<serde_json::Value>>("result"), None, "settled without its result");
}
