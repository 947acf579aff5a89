//! Guard 3: the legal ways between statuses, and that there are no others.

use tokio_postgres::Client;

use super::{LIVE, NOBODY, RUN, STATUSES, job, live_replica, one, refused, violations};
use crate::{played::Played, support::TestDb};

/// What a claim writes.
const CLAIM: &str =
    "status = 'running', run_id = gen_random_uuid(), replica_id = '00000000-0000-7000-8000-0000000000aa',
                     started_at = now(), pid = null, running_gate = gate, attempt = attempt + 1, claimable = false";
/// What a settle writes beside the status.
const SETTLE: &str = "run_id = null, replica_id = null, pid = null, started_at = null, running_gate = null,
                      last_run_id = run_id";
/// What a retry writes beside the status.
const RETRY: &str = "failures = 0, lost_count = 0, transient_count = 0, interrupted_count = 0, last_run_id = null,
                     cancel_requested_at = null, error = null, result = null";

/// Makes a job in `from` and tries to write `set`; the SQLSTATE where it was refused. Nothing of it stays.
async fn tried(client: &Client, from: &str, set: &str) -> Option<String> {
    client.batch_execute("begin").await.unwrap();
    let id = job(client, from).await;
    let answer = client.batch_execute(&format!("update orch.jobs set {set} where id = {id}")).await;
    if answer.is_ok() {
        let now = one(client, &format!("select status from orch.jobs where id = {id}")).await;
        assert!(set.contains(&format!("'{now}'")), "{from} with {set} became {now}");
    }
    client.batch_execute("rollback").await.unwrap();
    answer.err().map(|error| error.code().expect("the server's own error").code().to_owned())
}

#[tokio::test]
async fn a_plain_update_takes_only_the_ways_of_an_operator() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    for from in STATUSES {
        for to in STATUSES {
            let legal = from == to
                || matches!((from, to), ("queued" | "held", "queued" | "held" | "cancelled"))
                || matches!((from, to), ("running", "queued" | "held"))
                // A fresh finished row has nothing to reset.
                || matches!((from, to), ("succeeded" | "failed" | "cancelled", "queued"));
            let answer = tried(&client, from, &format!("status = '{to}'")).await;
            assert_eq!(answer.as_deref(), (!legal).then_some("OR001"), "{from} to {to}");
        }
        assert!(tried(&client, from, "status = 'lost'").await.is_some(), "{from} to an unknown status");
        assert_eq!(tried(&client, from, "status = null").await.as_deref(), Some("23502"));
    }
}

#[tokio::test]
async fn only_a_claim_starts_a_job_and_only_a_queued_one() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    for from in STATUSES {
        let answer = tried(&client, from, CLAIM).await;
        assert_eq!(answer.as_deref(), (from != "queued").then_some("OR001"), "claim of {from}");
    }
    for not_quite in ["attempt = attempt", "attempt = attempt + 2", "pid = 7"] {
        let column = not_quite.split(' ').next().unwrap_or_default();
        let claim: String =
            CLAIM.split(", ").filter(|set| !set.trim().starts_with(column)).collect::<Vec<_>>().join(", ");
        assert_eq!(
            tried(&client, "queued", &format!("{claim}, {not_quite}")).await.as_deref(),
            Some("OR001"),
            "{not_quite}"
        );
    }
    let id = job(&client, "queued").await;
    client.batch_execute(&format!("update orch.jobs set awaits_replica = '{LIVE}' where id = {id}")).await.unwrap();
    let (code, message) = refused(&client, &format!("update orch.jobs set {CLAIM} where id = {id}")).await;
    assert_eq!((code.as_str(), message.contains("only a claim starts a job")), ("OR001", true), "{message}");
}

#[tokio::test]
async fn a_settle_that_shows_its_token_takes_every_way_out_of_running_and_no_other() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    for to in STATUSES.into_iter().filter(|to| *to != "running") {
        let settle = format!("status = '{to}', {SETTLE}");
        assert_eq!(tried(&client, "running", &settle).await, None, "to {to}");
        for foreign in ["gen_random_uuid()", "null"] {
            let stale = settle.replace("last_run_id = run_id", &format!("last_run_id = {foreign}"));
            let answer = tried(&client, "running", &stale).await;
            let taken = ["queued", "held"].contains(&to);
            assert_eq!(answer.as_deref(), (!taken).then_some("OR001"), "to {to} by {foreign}");
        }
    }
    let id = job(&client, "running").await;
    let (_, message) = refused(&client, &format!("update orch.jobs set status = 'succeeded' where id = {id}")).await;
    assert!(message.contains("is not set to succeeded by hand"), "{message}");
}

#[tokio::test]
async fn while_it_runs_run_id_stays_and_attempt_never_falls() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    let id = job(&client, "running").await;
    for (forbidden, says) in [
        ("run_id = gen_random_uuid()", "run_id must not change"),
        ("run_id = null", "run_id must not change"),
        ("attempt = attempt - 1", "attempt must not fall"),
    ] {
        let (code, message) = refused(&client, &format!("update orch.jobs set {forbidden} where id = {id}")).await;
        assert_eq!((code.as_str(), message.contains(says)), ("OR001", true), "{message}");
    }
    for allowed in [
        format!("replica_id = '{NOBODY}'"),
        "pid = 42".to_owned(),
        "cancel_requested_at = now()".to_owned(),
        "priority = 3".to_owned(),
    ] {
        client.batch_execute(&format!("update orch.jobs set {allowed} where id = {id}")).await.unwrap();
    }
    for status in STATUSES.into_iter().filter(|status| *status != "running") {
        assert_eq!(tried(&client, status, "attempt = 0").await.as_deref(), Some("OR001"), "{status}");
    }
}

#[tokio::test]
async fn a_finished_job_is_queued_again_only_as_new() {
    let db = TestDb::new().await;
    let client = db.client().await;
    for from in ["succeeded", "failed", "cancelled"] {
        for left in [
            "failures = 1",
            "lost_count = 1",
            "transient_count = 1",
            "interrupted_count = 1",
            "error = 'x'",
            "result = '1'",
            "cancel_requested_at = now()",
            "last_run_id = gen_random_uuid()",
        ] {
            let answer = tried(&client, from, &format!("status = 'queued', {left}")).await;
            assert_eq!(answer.as_deref(), Some("OR001"), "{from} with {left}");
        }
        assert_eq!(tried(&client, from, &format!("status = 'queued', {RETRY}")).await, None);
        assert_eq!(tried(&client, from, &format!("status = 'held', {RETRY}")).await.as_deref(), Some("OR001"));
    }
}

/// A job in `status` whose last run ended as said.
async fn ended(client: &Client, status: &str, outcome: &str, closed_by: &str) -> i64 {
    let id = job(client, status).await;
    let sql = format!(
        "insert into orch.agent_runs (run_id, job_id, attempt, replica_id, ended_at, outcome, closed_by)
         values ('{RUN}', {id}, 1, '{NOBODY}', now(), '{outcome}', '{closed_by}');
         update orch.jobs set last_run_id = '{RUN}' where id = {id}"
    );
    client.batch_execute(&sql).await.unwrap();
    id
}

#[tokio::test]
async fn a_late_result_is_taken_once_from_a_run_that_a_reap_closed_and_from_no_other() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let late_run = "update orch.agent_runs set outcome = 'succeeded', closed_by = 'owner' where outcome = 'lost'";
    for from in ["queued", "held", "failed"] {
        for to in ["succeeded", "failed", "cancelled", "queued", "held"] {
            for (outcome, closed_by) in [("lost", "reap"), ("lost", "owner"), ("interrupted", "operator")] {
                // Who brings a late result holds the run's lock; a plain UPDATE is an operator's.
                for lock in ["select from orch.agent_runs for update", "select"] {
                    let changes = from != to;
                    let operators = matches!((from, to), ("queued" | "held", "queued" | "held" | "cancelled"));
                    let late = (outcome, closed_by) == ("lost", "reap") && lock != "select";
                    let legal = !changes || operators || late;
                    client.batch_execute("begin").await.unwrap();
                    let id = ended(&client, from, outcome, closed_by).await;
                    client.batch_execute(&format!("commit; begin; {lock}")).await.unwrap();
                    let late =
                        format!("update orch.jobs set status = '{to}', result = '1', error = 'e' where id = {id}");
                    let answer = client.batch_execute(&late).await;
                    assert_eq!(answer.is_ok(), legal, "{from} to {to}, {outcome} by {closed_by}, {lock}: {answer:?}");
                    client.batch_execute("rollback; delete from orch.agent_runs").await.unwrap();
                }
            }
        }
    }
    // As one statement, whichever of the two rows it writes first; then never again.
    for both in [
        format!(
            "with r as ({late_run} returning job_id) update orch.jobs j set status = 'succeeded' from r where j.id = r.job_id"
        ),
        "with l as materialized (select run_id from orch.agent_runs for update),
         j as (update orch.jobs j set status = 'succeeded' from l where j.last_run_id = l.run_id returning j.last_run_id)
         update orch.agent_runs r set outcome = 'succeeded', closed_by = 'owner' from j where r.run_id = j.last_run_id"
            .to_owned(),
    ] {
        let id = ended(&client, "queued", "lost", "reap").await;
        client.batch_execute(&both).await.unwrap();
        assert_eq!(one(&client, &format!("select status from orch.jobs where id = {id}")).await, "succeeded");
        client.batch_execute(&format!("select orch.retry({id})")).await.unwrap();
        let again = refused(&client, &format!("update orch.jobs set status = 'succeeded' where id = {id}")).await;
        assert_eq!(again.0, "OR001", "{}", again.1);
        client.batch_execute("delete from orch.agent_runs; delete from orch.jobs").await.unwrap();
    }
}

#[tokio::test]
async fn a_plain_update_of_a_running_job_has_it_wait_for_its_live_owner() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    for to in ["queued", "held"] {
        let id = job(&client, "running").await;
        client.batch_execute(&format!("update orch.jobs set pid = 7 where id = {id}")).await.unwrap();
        client.batch_execute(&format!("update orch.jobs set status = '{to}' where id = {id}")).await.unwrap();
        let row = one(
            &client,
            &format!(
                "select concat_ws(' ', status, claimable, num_nonnulls(run_id, pid, replica_id, started_at, running_gate),
                        last_run_id, awaits_replica, attempt) from orch.jobs where id = {id}"
            ),
        )
        .await;
        assert_eq!(row, format!("{to} f 0 {RUN} {LIVE} 1"));
        let run = one(
            &client,
            "select concat_ws(' ', outcome, closed_by, ended_at is not null, error is not null) from orch.agent_runs",
        )
        .await;
        assert_eq!(run, "interrupted operator t t");
        let told =
            format!("select concat_ws(' ', kind, run_id, detail ->> 'pid') from orch.events where job_id = {id}");
        assert_eq!(one(&client, &told).await, format!("taken {RUN} 7"));
        assert_eq!(violations(&client).await, []);
        client.batch_execute("delete from orch.agent_runs").await.unwrap();
    }
    assert_eq!(one(&client, "select value from orch.counters where name = 'guard_repairs_total'").await, "0");
}

#[tokio::test]
async fn a_plain_update_of_a_dead_owners_job_waits_for_nobody() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    let id = job(&client, "running").await;
    client.batch_execute("update orch.replicas set state = 'dead'").await.unwrap();
    let clear = "run_id = null, replica_id = null, started_at = null, pid = null";
    client.batch_execute(&format!("update orch.jobs set status = 'queued', {clear} where id = {id}")).await.unwrap();
    let row = format!("select concat_ws(' ', status, claimable, last_run_id) from orch.jobs where id = {id}");
    assert_eq!(one(&client, &row).await, format!("queued t {RUN}"));
    assert_eq!(violations(&client).await, []);
}

#[tokio::test]
async fn a_plain_update_loses_no_cancel_that_was_asked_for() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    let id = job(&client, "running").await;
    client.batch_execute(&format!("select orch.cancel({id})")).await.unwrap();
    client.batch_execute(&format!("update orch.jobs set status = 'queued' where id = {id}")).await.unwrap();
    let row = format!("select concat_ws(' ', status, awaits_replica) from orch.jobs where id = {id}");
    assert_eq!(one(&client, &row).await, format!("cancelled {LIVE}"));
    assert_eq!(violations(&client).await, []);

    // Retried at once it still waits for the old process, whose run stays named until its owner has ended it.
    client.batch_execute(&format!("select orch.retry({id})")).await.unwrap();
    let row =
        format!("select concat_ws(' ', status, claimable, awaits_replica, last_run_id) from orch.jobs where id = {id}");
    assert_eq!(one(&client, &row).await, format!("queued f {LIVE} {RUN}"));

    client.batch_execute("delete from orch.agent_runs").await.unwrap();
    let id = job(&client, "running").await;
    client.batch_execute(&format!("select orch.cancel({id})")).await.unwrap();
    let wish = format!("update orch.jobs set status = 'queued', cancel_requested_at = null where id = {id}");
    client.batch_execute(&wish).await.unwrap();
    assert_eq!(one(&client, &format!("select status from orch.jobs where id = {id}")).await, "queued");
}

#[tokio::test]
async fn orchs_own_statements_fire_no_guard() {
    let db = TestDb::new().await;
    let client = db.client().await;
    for (guard, takes, returns) in [
        ("guard_owner", "new orch.jobs", "orch.jobs"),
        ("guard_transition", "old orch.jobs, new orch.jobs", "orch.jobs"),
        ("derive_helpers", "new orch.jobs", "orch.jobs"),
        ("guard_delete", "", "trigger"),
        ("guard_replica", "", "trigger"),
    ] {
        client
            .batch_execute(&format!(
                "create or replace function orch.{guard}({takes}) returns {returns} language plpgsql as
                 $$ begin raise exception 'the guard {guard} fired'; end $$"
            ))
            .await
            .unwrap();
    }
    client.batch_execute("insert into orch.projects (name, serial) values ('serial', true)").await.unwrap();
    let played = Played::on(&db, &["a"]).await;
    for outcome in orch::model::Outcome::ALL {
        let enqueue = format!(
            "select orch.enqueue('a', project => 'serial', dedupe_key => '{outcome}', max_attempts => 2);
             select * from orch.enqueue_many('[{{\"agent\": \"a\", \"project\": \"serial\"}}]')"
        );
        client.batch_execute(&enqueue).await.unwrap();
        let claimed = played.claim().await.expect("a job is due");
        played.stamp(&claimed, 1).await;
        played.settle(claimed, *outcome).await;
        client
            .batch_execute(
                "select orch.cancel(id) from orch.jobs where status in ('queued', 'held');
                 with j as (select orch.enqueue('a') as id) select orch.hold(id), orch.release(id), orch.cancel(id) from j",
            )
            .await
            .unwrap();
    }
    assert_eq!(violations(&client).await, []);
}
