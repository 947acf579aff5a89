//! Guards 1 and 2: a row that does not run carries no owner, whichever way it is written.

use std::pin::pin;

use futures_util::SinkExt as _;
use tokio_postgres::Client;

use super::{LIVE, RUN, STATUSES, job, live_replica, one, refused, violations};
use crate::support::TestDb;

/// The ownership columns, each with a value as SQL and as COPY reads it. The pid is a living process: this one.
fn ownership() -> [(&'static str, String); 5] {
    [
        ("run_id", RUN.to_owned()),
        ("pid", std::process::id().to_string()),
        ("replica_id", LIVE.to_owned()),
        ("started_at", "2026-01-01 00:00:00+00".to_owned()),
        ("running_gate", "a-gate".to_owned()),
    ]
}

const OWNER_OF: &str =
    "select num_nonnulls(run_id, pid, replica_id, started_at, running_gate) from orch.jobs where id =";

async fn repairs(client: &Client) -> (String, String) {
    (
        one(client, "select value from orch.counters where name = 'guard_repairs_total'").await,
        one(client, "select count(*) from orch.events where kind = 'guard_repair'").await,
    )
}

async fn copy(client: &Client, column: &str, value: &str, status: &str) {
    let sql = format!("copy orch.jobs (agent, status, {column}) from stdin");
    let sink = client.copy_in::<_, std::io::Cursor<Vec<u8>>>(&sql).await.unwrap();
    let mut sink = pin!(sink);
    sink.send(std::io::Cursor::new(format!("a\t{status}\t{value}\n").into_bytes())).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 1);
}

/// Writes an owner on a waiting row in every way there is; each is repaired and counted.
async fn every_way_is_repaired(client: &Client) {
    let mut expected: u64 = repairs(client).await.0.parse().unwrap();
    for status in ["queued", "held"] {
        for (column, value) in ownership() {
            let id = job(client, status).await;
            let ways = [
                format!("update orch.jobs set {column} = '{value}' where id = {id}"),
                format!("update orch.jobs set status = '{status}', {column} = '{value}' where id = {id}"),
                format!("insert into orch.jobs (agent, status, {column}) values ('a', '{status}', '{value}')"),
                format!(
                    "insert into orch.jobs (id, agent) overriding system value values ({id}, 'a')
                     on conflict (id) do update set {column} = '{value}'"
                ),
            ];
            for way in ways {
                client.batch_execute(&way).await.unwrap_or_else(|error| panic!("{way}: {error:?}"));
                expected += 1;
                assert_eq!(repairs(client).await, (expected.to_string(), expected.to_string()), "{way}");
            }
            copy(client, column, &value, status).await;
            expected += 1;
            assert_eq!(repairs(client).await.0, expected.to_string(), "copy of {column}");
            assert_eq!(one(client, &format!("{OWNER_OF} {id}")).await, "0");
        }
    }
    assert_eq!(one(client, "select count(*) from orch.jobs where impossible").await, "0");
    assert_eq!(violations(client).await, []);
}

#[tokio::test]
async fn an_owner_on_a_waiting_row_is_nulled_counted_and_told_whichever_way_it_came() {
    let db = TestDb::new().await;
    let client = db.client().await;
    every_way_is_repaired(&client).await;
    let told =
        one(&client, "select detail ->> 'pid' from orch.events where detail ->> 'pid' is not null limit 1").await;
    assert_eq!(told, std::process::id().to_string());
}

#[tokio::test]
async fn replication_role_replica_skips_no_guard() {
    let db = TestDb::new().await;
    let client = db.client().await;
    client.batch_execute("set session_replication_role = replica").await.unwrap();
    every_way_is_repaired(&client).await;
    let id = job(&client, "queued").await;
    let (code, _) = refused(&client, &format!("update orch.jobs set status = 'succeeded' where id = {id}")).await;
    assert_eq!(code, "OR001");
}

#[tokio::test]
async fn without_its_trigger_the_check_refuses_an_owner_on_a_row_that_does_not_run_and_none_on_one_that_does() {
    let db = TestDb::new().await;
    let client = db.client().await;
    client.batch_execute("alter table orch.jobs disable trigger user").await.unwrap();
    for (column, value) in ownership() {
        for status in ["queued", "held", "succeeded", "failed", "cancelled"] {
            let claimable = status == "queued";
            let sql = format!(
                "insert into orch.jobs (agent, lane, status, claimable) values ('a', 0, '{status}', {claimable}) returning id"
            );
            let id: i64 = client.query_one(&sql, &[]).await.unwrap().get(0);
            for way in [
                format!("update orch.jobs set {column} = '{value}' where id = {id}"),
                format!(
                    "insert into orch.jobs (agent, lane, status, claimable, {column})
                     values ('a', 0, '{status}', {claimable}, '{value}')"
                ),
            ] {
                let (code, message) = refused(&client, &way).await;
                assert_eq!(code, "23514", "{way}");
                assert!(message.contains("has_an_owner_exactly_while_running"), "{way}: {message}");
            }
        }
    }
    let owned = "('a', 0, 'running', false, gen_random_uuid(), gen_random_uuid(), now())";
    let columns = "agent, lane, status, claimable, run_id, replica_id, started_at";
    for column in ["run_id", "replica_id", "started_at"] {
        let sql = format!(
            "insert into orch.jobs ({columns}) values {owned};
             update orch.jobs set {column} = null where status = 'running'"
        );
        let (code, message) = refused(&client, &sql).await;
        let named = message.contains("has_an_owner_exactly_while_running");
        assert_eq!((code.as_str(), named), ("23514", true), "{message}");
    }
    for (wrong, check) in [
        ("status = 'scheduled' where status = 'held'", "status_is_known"),
        ("claimable = true where status = 'held'", "claimable_is_queued_and_waits_for_nobody"),
        ("awaits_replica = gen_random_uuid() where claimable", "claimable_is_queued_and_waits_for_nobody"),
        ("waits_for = '{1}' where claimable", "claimable_is_queued_and_waits_for_nobody"),
    ] {
        let (code, message) = refused(&client, &format!("update orch.jobs set {wrong}")).await;
        assert_eq!((code.as_str(), message.contains(check)), ("23514", true), "{wrong}: {message}");
    }
    assert_eq!(one(&client, "select count(*) from orch.jobs where impossible").await, "0");
}

#[tokio::test]
async fn without_trigger_and_check_an_impossible_row_is_seen_and_a_migration_brings_the_trigger_back() {
    let db = TestDb::new().await;
    let client = db.client().await;
    client
        .batch_execute(
            "alter table orch.jobs disable trigger user;
             alter table orch.jobs drop constraint has_an_owner_exactly_while_running",
        )
        .await
        .unwrap();
    let mut made = Vec::new();
    for (column, value) in ownership() {
        let sql = format!("insert into orch.jobs (agent, lane, {column}) values ('a', 0, '{value}') returning id");
        made.push(client.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0).to_string());
    }
    let seen: Vec<_> = violations(&client).await;
    let expected: Vec<_> = made.iter().map(|id| ("owner_without_running".to_owned(), id.clone())).collect();
    assert_eq!(seen, expected);
    assert_eq!(one(&client, "select count(*) from orch.jobs where impossible").await, "5");
    assert_eq!(one(&client, "select count(*) from orch.impossible_queued").await, "5");

    orch::db::schema::migrate(&db.config()).await.unwrap();
    client.batch_execute("update orch.jobs set priority = 1").await.unwrap();
    assert_eq!(violations(&client).await, []);
    assert_eq!(repairs(&client).await.0, "5");
}

#[tokio::test]
async fn a_finished_row_loses_its_owner_without_being_counted_as_a_repair() {
    let db = TestDb::new().await;
    let client = db.client().await;
    for status in ["succeeded", "failed", "cancelled"] {
        let id = job(&client, status).await;
        client.batch_execute(&format!("update orch.jobs set pid = 1, run_id = '{RUN}' where id = {id}")).await.unwrap();
        assert_eq!(one(&client, &format!("{OWNER_OF} {id}")).await, "0");
    }
    assert_eq!(repairs(&client).await, ("0".to_owned(), "0".to_owned()));
}

#[tokio::test]
async fn a_running_row_without_an_owner_is_refused() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    let id = job(&client, "running").await;
    for column in ["replica_id", "started_at"] {
        let (code, message) = refused(&client, &format!("update orch.jobs set {column} = null where id = {id}")).await;
        let named = message.contains("has_an_owner_exactly_while_running");
        assert_eq!((code.as_str(), named), ("23514", true), "{message}");
    }
    let (_, message) = refused(&client, "insert into orch.jobs (agent, status) values ('a', 'running')").await;
    assert!(message.contains("has_an_owner_exactly_while_running"), "{message}");
}

#[tokio::test]
async fn repairs_that_cross_do_not_wait_for_each_other_and_those_rolled_back_are_not_counted() {
    let db = TestDb::new().await;
    let (one_client, other) = (db.client().await, db.client().await);
    let (a, b) = (job(&one_client, "queued").await, job(&one_client, "queued").await);
    one_client.batch_execute(&format!("begin; update orch.jobs set pid = 1 where id = {a}")).await.unwrap();
    // While that transaction is open, another one repairs and commits: the counter is not locked until the end.
    other.batch_execute("set lock_timeout = '5s'").await.unwrap();
    other.batch_execute(&format!("update orch.jobs set pid = 1 where id = {b}")).await.unwrap();
    assert_eq!(repairs(&other).await.0, "1");
    one_client
        .batch_execute(&format!(
            "update orch.jobs set pid = 2 where id = {a};
             savepoint s; update orch.jobs set pid = 3 where id = {a}; rollback to s; commit"
        ))
        .await
        .unwrap();
    assert_eq!(repairs(&other).await, ("3".to_owned(), "3".to_owned()));
    one_client.batch_execute(&format!("begin; update orch.jobs set pid = 1 where id = {a}; rollback")).await.unwrap();
    assert_eq!(repairs(&other).await, ("3".to_owned(), "3".to_owned()));
}

#[tokio::test]
async fn a_plain_insert_of_any_status_gets_its_helpers() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    for status in STATUSES {
        let id = job(&client, status).await;
        client
            .batch_execute(&format!("update orch.jobs set dedupe_key = 'key of {id}' where id = {id}"))
            .await
            .unwrap();
        let finished = ["succeeded", "failed", "cancelled"].contains(&status);
        let row = client
            .query_one(
                &format!(
                    "select claimable, finished_at is not null, failed_at is not null, live_dedupe_key is not null,
                            set_aside, impossible from orch.jobs where id = {id}"
                ),
                &[],
            )
            .await
            .unwrap();
        let helpers: [bool; 6] = std::array::from_fn(|n| row.get(n));
        assert_eq!(
            helpers,
            [status == "queued", finished, status == "failed", !finished, status == "held", false],
            "{status}"
        );
    }
}

#[tokio::test]
async fn wrong_helpers_are_put_right() {
    let db = TestDb::new().await;
    let client = db.client().await;
    for (status, wrong) in [
        ("queued", "claimable = false"),
        ("queued", "claimable = null"),
        ("held", "claimable = true"),
        ("held", "set_aside = false"),
        ("queued", "set_aside = true"),
        ("queued", "set_aside = null"),
        ("queued", "lane = 7"),
        ("queued", "priority = 5"),
        ("queued", "agent = 'b'"),
        ("held", "gate = 'g', limits = '{x,y}', require = '{\"k\": 1}'"),
        ("queued", "finished_at = now()"),
        ("queued", "failed_at = now()"),
        ("succeeded", "finished_at = null"),
        ("succeeded", "failed_at = now()"),
        ("failed", "failed_at = null"),
        ("queued", "live_dedupe_key = 'x'"),
        ("succeeded", "dedupe_key = 'y', live_dedupe_key = 'y'"),
    ] {
        let id = job(&client, status).await;
        client.batch_execute(&format!("update orch.jobs set {wrong} where id = {id}")).await.unwrap();
    }
    assert_eq!(one(&client, "select count(*) from orch.violations").await, "0");
}

#[tokio::test]
async fn of_the_jobs_with_one_gate_only_one_runs_and_only_one_live_job_has_a_dedupe_key() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let claim = |id: i64| {
        format!(
            "update orch.jobs set status = 'running', run_id = gen_random_uuid(), replica_id = '{LIVE}',
                    started_at = now(), attempt = attempt + 1, running_gate = gate, claimable = false where id = {id}"
        )
    };
    let (a, b) = (job(&client, "queued").await, job(&client, "queued").await);
    client.batch_execute("update orch.jobs set gate = 'g'").await.unwrap();
    client.batch_execute(&claim(a)).await.unwrap();
    let (code, message) = refused(&client, &claim(b)).await;
    assert_eq!((code.as_str(), message.contains("jobs_running_gate")), ("23505", true), "{message}");

    client.batch_execute(&format!("update orch.jobs set dedupe_key = 'k' where id = {a}")).await.unwrap();
    let (code, message) = refused(&client, &format!("update orch.jobs set dedupe_key = 'k' where id = {b}")).await;
    assert_eq!((code.as_str(), message.contains("jobs_live_dedupe_key")), ("23505", true), "{message}");
    client
        .batch_execute("insert into orch.jobs (agent, status, dedupe_key) values ('a', 'cancelled', 'k')")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_job_has_one_open_run() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    let id = job(&client, "running").await;
    let second = format!(
        "insert into orch.agent_runs (run_id, job_id, attempt, replica_id) values (gen_random_uuid(), {id}, 2, '{LIVE}')"
    );
    let (code, message) = refused(&client, &second).await;
    assert_eq!((code.as_str(), message.contains("agent_runs_one_open_a_job")), ("23505", true), "{message}");
    for half in ["ended_at = now()", "outcome = 'lost'", "closed_by = 'reap', outcome = 'lost'"] {
        let (_, message) = refused(&client, &format!("update orch.agent_runs set {half}")).await;
        assert!(message.contains("run_is_ended_whole"), "{message}");
    }
}
