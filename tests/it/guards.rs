//! The database's own guards: what job 2286 was cannot be written, and nobody takes a forbidden way.
//!
//! All of it by plain SQL, as an operator, a wrong binary or a restore would write it.

use tokio_postgres::Client;

use crate::support::TestDb;

mod owner;
mod replicas;
mod transitions;

/// A run, a replica that is live, and one that is nowhere.
pub(crate) const RUN: &str = "00000000-0000-7000-8000-00000000000a";
pub(crate) const LIVE: &str = "00000000-0000-7000-8000-0000000000aa";
pub(crate) const NOBODY: &str = "00000000-0000-7000-8000-0000000000ff";

/// The statuses, as the database spells them.
pub(crate) const STATUSES: [&str; 6] = ["queued", "held", "running", "succeeded", "failed", "cancelled"];

/// The statement's failure as SQLSTATE and message; panics where it worked.
pub(crate) async fn refused(client: &Client, sql: &str) -> (String, String) {
    let error = client.batch_execute(sql).await.expect_err(&format!("refused: {sql}"));
    let error = error.as_db_error().unwrap_or_else(|| panic!("the server's own error: {error}"));
    (error.code().code().to_owned(), error.message().to_owned())
}

/// One value of one row, as text.
pub(crate) async fn one(client: &Client, sql: &str) -> String {
    let sql = format!("select coalesce(({sql})::text, 'null')");
    client.query_one(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// A live replica.
pub(crate) async fn live_replica(client: &Client) {
    let sql = format!(
        "insert into orch.replicas (replica_id, name, host, lease_until)
         values ('{LIVE}', 'r', 'h', now() + interval '1 minute')"
    );
    client.batch_execute(&sql).await.unwrap();
}

/// A job in a status, made by a plain INSERT; a running one is owned by [`LIVE`] and has its open run [`RUN`].
pub(crate) async fn job(client: &Client, status: &str) -> i64 {
    let owned = status == "running";
    let sql = if owned {
        format!(
            "insert into orch.jobs (agent, status, run_id, replica_id, started_at, attempt)
             values ('a', 'running', '{RUN}', '{LIVE}', now(), 1) returning id"
        )
    } else {
        format!("insert into orch.jobs (agent, status, attempt) values ('a', '{status}', 1) returning id")
    };
    let id: i64 = client.query_one(&sql, &[]).await.unwrap().get(0);
    if owned {
        let sql = format!(
            "insert into orch.agent_runs (run_id, job_id, attempt, replica_id) values ('{RUN}', {id}, 1, '{LIVE}')"
        );
        client.batch_execute(&sql).await.unwrap();
    }
    id
}

/// The violations by both definitions: the product's view, and the auditor's file.
pub(crate) async fn violations(client: &Client) -> Vec<(String, String)> {
    let mut both = Vec::new();
    for sql in [
        "select invariant, what from orch.violations",
        include_str!("../faults/violations.sql").trim_end().trim_end_matches(';'),
    ] {
        let rows = client.query(&format!("select * from ({sql}) v order by 1, 2"), &[]).await.unwrap();
        both.push(rows.iter().map(|row| (row.get(0), row.get(1))).collect::<Vec<(String, String)>>());
    }
    // The view knows more: what follows from the helper columns, which no other judge reads.
    both[0].retain(|(invariant, _)| {
        !["claimable_mismatch", "helper_mismatch", "dedupe_key_twice"].contains(&invariant.as_str())
    });
    let auditor = both.pop().expect("two were pushed");
    assert_eq!(both.pop(), Some(auditor.clone()), "orch.violations and the auditor agree");
    auditor
}

#[tokio::test]
async fn a_healthy_queue_has_no_violation() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    for status in STATUSES {
        job(&client, status).await;
    }
    assert_eq!(violations(&client).await, []);
    assert_eq!(one(&client, "select count(*) from orch.violations").await, "0");
}

#[tokio::test]
async fn a_helper_that_a_write_without_triggers_leaves_wrong_is_a_violation() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    for (status, wrong) in [
        ("queued", "failed_at = now()"),
        ("failed", "failed_at = null"),
        ("held", "set_aside = false"),
        ("running", "set_aside = true"),
        ("running", "awaits_replica = gen_random_uuid()"),
        ("queued", "dedupe_key = 'k'"),
        ("succeeded", "live_dedupe_key = 'k'"),
        ("queued", "lane = 7"),
        ("held", "priority = 7"),
    ] {
        let id = job(&client, status).await;
        let found = "select coalesce(string_agg(concat_ws(' ', invariant, what), ', '), 'none') from orch.violations";
        assert_eq!(one(&client, found).await, "none");
        let update = format!("update orch.jobs set {wrong} where id = {id}");
        client.batch_execute(&format!("alter table orch.jobs disable trigger user; {update}")).await.unwrap();
        assert_eq!(one(&client, found).await, format!("helper_mismatch {id}"), "{status}: {wrong}");
        let away = "truncate orch.jobs, orch.job_dependencies; delete from orch.agent_runs";
        client.batch_execute(away).await.unwrap();
        orch::db::schema::migrate(&db.config()).await.unwrap();
    }
}

#[tokio::test]
async fn every_invariant_that_is_broken_is_a_violation_by_both_definitions() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    let queued = job(&client, "queued").await;
    let running = job(&client, "running").await;
    client
        .batch_execute(&format!(
            "alter table orch.jobs disable trigger user;
             alter table orch.jobs drop constraint has_an_owner_exactly_while_running;
             drop index orch.agent_runs_one_open_a_job; drop index orch.jobs_running_gate;
             update orch.jobs set pid = 1 where id = {queued};
             insert into orch.jobs (agent, lane, status, claimable, run_id, replica_id, started_at, attempt, running_gate)
             select 'a', 0, 'running', false, '{RUN}', '{LIVE}', now(), 1, 'g' from generate_series(1, 2);
             update orch.jobs set run_id = null where id = {running};
             insert into orch.agent_runs (run_id, job_id, attempt, replica_id)
             values (gen_random_uuid(), {running}, 2, '{LIVE}');
             insert into orch.jobs (agent, lane, status, claimable) values ('a', 0, 'succeeded', false)"
        ))
        .await
        .unwrap();
    let mut broken: Vec<_> = violations(&client).await.into_iter().map(|(invariant, _)| invariant).collect();
    broken.dedup();
    assert_eq!(
        broken,
        [
            "attempts_do_not_add_up",
            "finished_at_mismatch",
            "gate_twice",
            "open_run_of_idle_job",
            "owner_without_running",
            "run_id_twice",
            "running_without_open_run",
            "running_without_owner",
            "two_open_runs"
        ]
    );
}
