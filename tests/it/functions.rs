//! What producers and operators call from psql: `orch.enqueue`, `enqueue_many`, `cancel`, `retry`, `hold`, `release`.
//!
//! Good calls do what they say; each bad one gets one clear sentence, an SQLSTATE of its own, and changes nothing.

use tokio_postgres::Client;

use crate::{
    guards::{LIVE, RUN, STATUSES, job, live_replica, one, refused, violations},
    support::TestDb,
};

mod bad_input;
mod dedupe;

/// The number that a call returns.
async fn id(client: &Client, call: &str) -> i64 {
    client.query_one(&format!("select {call}"), &[]).await.unwrap_or_else(|error| panic!("{call}: {error:?}")).get(0)
}

async fn many(client: &Client, wishes: &str) -> Vec<i64> {
    let sql = format!("select * from orch.enqueue_many('{wishes}')");
    client
        .query(&sql, &[])
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// The job's columns by name, as text.
async fn columns(client: &Client, id: i64, columns: &str) -> String {
    one(client, &format!("select concat_ws(' ', {columns}) from orch.jobs where id = {id}")).await
}

#[tokio::test]
async fn enqueue_takes_what_is_said_and_defaults_what_is_not() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let plain = id(&client, "orch.enqueue('count-lines')").await;
    let shown = columns(
        &client,
        plain,
        "status, project, agent, priority, run_at = created_at, claimable, attempt, payload, labels, num_nonnulls(gate, limits,
         dedupe_key, live_dedupe_key, timeout, max_attempts, last_run_id, error, result)",
    )
    .await;
    assert_eq!(shown, "queued default count-lines 0 t t 0 {} {} 0");

    let full = id(
        &client,
        "orch.enqueue('a', '{\"x\": [1, null]}', project => 'p.1', priority => -32768, run_at => '2030-01-01 00:00+00',
                      gate => 'g', labels => '{\"l\": 1}', dedupe_key => 'k', on_conflict => 'refuse', max_attempts => 1,
                      timeout => '5 minutes')",
    )
    .await;
    let shown = columns(
        &client,
        full,
        "project, priority, extract(epoch from run_at)::bigint, gate, labels, dedupe_key, live_dedupe_key, max_attempts,
         timeout, payload",
    )
    .await;
    assert_eq!(shown, "p.1 -32768 1893456000 g {\"l\": 1} k k 1 00:05:00 {\"x\": [1, null]}");
    // A smallint, as the column is one, finds the function as well; and nulls are defaults.
    id(&client, "orch.enqueue('a', priority => 3::smallint)").await;
    let nulls = id(&client, "orch.enqueue('a', null, null, null, null)").await;
    assert_eq!(columns(&client, nulls, "payload, project, priority, run_at = created_at").await, "{} default 0 t");
    assert_eq!(violations(&client).await, []);
}

/// What is no more than agent, payload, project, priority and time is enqueued by a statement of its own.
#[tokio::test]
async fn the_usual_wish_and_the_long_way_make_the_same_job() {
    let db = TestDb::new().await;
    let client = db.client().await;
    client.batch_execute("insert into orch.projects (name, serial) values ('s', true), ('n', false)").await.unwrap();
    let all = "to_jsonb(j) - '{id,created_at}'::text[]";
    for wish in [
        "'a', run_at => '2030-01-01 00:00+00'",
        "'a', '{\"x\": [1, null]}', 's', -3, '1970-01-01 00:00+00'",
        "'a', project => 'n', priority => 32767, run_at => '9998-12-31 00:00+00'",
    ] {
        let usual = id(&client, &format!("orch.enqueue({wish})")).await;
        let long = id(&client, &format!("orch.enqueue({wish}, labels => '{{}}')")).await;
        let [usual, long] = [usual, long].map(|id| format!("select {all} from orch.jobs j where id = {id}"));
        assert_eq!(one(&client, &usual).await, one(&client, &long).await, "{wish}");
    }
    assert_eq!(one(&client, "select count(distinct gate) from orch.jobs").await, "1");
}

#[tokio::test]
async fn enqueue_is_part_of_the_callers_transaction() {
    let db = TestDb::new().await;
    let client = db.client().await;
    client.batch_execute("begin; select orch.enqueue('a'); rollback").await.unwrap();
    assert_eq!(one(&client, "select count(*) from orch.jobs").await, "0");
}

#[tokio::test]
async fn jobs_of_a_serial_project_get_its_gate_unless_they_name_one() {
    let db = TestDb::new().await;
    let client = db.client().await;
    client.batch_execute("insert into orch.projects (name, serial) values ('s', true), ('n', false)").await.unwrap();
    for (call, gate) in [
        ("orch.enqueue('a', project => 's')", "project:s"),
        ("orch.enqueue('a', project => 's', gate => 'own')", "own"),
        ("orch.enqueue('a', project => 'n')", ""),
        ("orch.enqueue('a', project => 'elsewhere')", ""),
    ] {
        let job = id(&client, call).await;
        assert_eq!(columns(&client, job, "gate").await, gate, "{call}");
    }
    let ids = many(
        &client,
        r#"[{"agent": "a", "project": "s"}, {"agent": "a", "project": "s", "gate": "own"}, {"agent": "a", "project": "n"},
            {"agent": "a", "project": "s", "dedupe_key": "k"}]"#,
    )
    .await;
    let mut gates = Vec::new();
    for id in ids {
        gates.push(columns(&client, id, "gate").await);
    }
    assert_eq!(gates, ["project:s", "own", "", "project:s"]);
}

#[tokio::test]
async fn a_dedupe_key_is_returned_replaced_or_refused_while_a_live_job_has_it() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    let first = id(&client, "orch.enqueue('a', '1', dedupe_key => 'k')").await;
    assert_eq!(id(&client, "orch.enqueue('a', '2', dedupe_key => 'k')").await, first);
    assert_eq!(id(&client, "orch.enqueue('a', '2', dedupe_key => 'k', on_conflict => 'return')").await, first);
    assert_eq!(columns(&client, first, "payload").await, "1");
    assert_eq!(id(&client, "orch.enqueue('b', '3', dedupe_key => 'k', on_conflict => 'replace')").await, first);
    assert_eq!(columns(&client, first, "payload, agent").await, "3 a");
    let (code, message) =
        refused(&client, "select orch.enqueue('a', dedupe_key => 'k', on_conflict => 'refuse')").await;
    assert_eq!(code, "OR002");
    assert!(message.contains(&format!("\"k\" is taken: already live as job {first}, which is queued")), "{message}");

    // The payload of a running job is not replaced: its run has the old one.
    client
        .batch_execute(&format!(
            "update orch.jobs set status = 'running', run_id = '{RUN}', replica_id = '{LIVE}', started_at = now(),
                    attempt = 1 where id = {first}"
        ))
        .await
        .unwrap();
    let (code, _) =
        refused(&client, "select orch.enqueue('a', '4', dedupe_key => 'k', on_conflict => 'replace')").await;
    assert_eq!(code, "OR002");
    assert_eq!(id(&client, "orch.enqueue('a', dedupe_key => 'k')").await, first);

    // A finished job has no key any more.
    client
        .batch_execute(&format!("update orch.jobs set status = 'failed', last_run_id = run_id where id = {first}"))
        .await
        .unwrap();
    let second = id(&client, "orch.enqueue('a', dedupe_key => 'k', on_conflict => 'refuse')").await;
    assert_ne!(second, first);
    assert_eq!(columns(&client, first, "dedupe_key, live_dedupe_key is null").await, "k t");
    let (code, message) = refused(&client, &format!("select orch.retry({first})")).await;
    assert_eq!(code, "OR002");
    assert!(message.contains(&format!("already live as job {second}")), "{message}");
    client.batch_execute(&format!("select orch.cancel({second}); select orch.retry({first})")).await.unwrap();
    assert_eq!(columns(&client, first, "status, live_dedupe_key").await, "queued k");
}

#[tokio::test]
async fn two_producers_with_one_dedupe_key_get_one_job() {
    let db = TestDb::new().await;
    let clients = [db.client().await, db.client().await, db.client().await, db.client().await];
    for round in 0..20 {
        let call = format!("orch.enqueue('a', dedupe_key => 'k{round}')");
        let (a, b, c, d) = tokio::join!(
            id(&clients[0], &call),
            id(&clients[1], &call),
            id(&clients[2], &call),
            id(&clients[3], &call)
        );
        assert!(a == b && b == c && c == d, "{a} {b} {c} {d}");
    }
    assert_eq!(one(&clients[0], "select count(*) from orch.jobs").await, "20");
}

#[tokio::test]
async fn enqueue_many_returns_numbers_in_the_order_of_the_array() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let before = id(&client, "orch.enqueue('old', dedupe_key => 'k')").await;
    let ids = many(
        &client,
        r#"[{"agent": "n1"}, {"agent": "x", "dedupe_key": "k"}, {"agent": "n2", "payload": null, "priority": 7},
            {"agent": "z", "dedupe_key": "b"}, {"agent": "n3", "payload": {"a": "\u00e9"}, "labels": null, "timeout": "5m"},
            {"agent": "z", "dedupe_key": "b"}, {"agent": "y", "dedupe_key": "a", "run_at": "2030-01-01T00:00:00Z"}]"#,
    )
    .await;
    assert_eq!(ids.len(), 7);
    assert_eq!((ids[1], ids[3]), (before, ids[5]));
    let mut shown = Vec::new();
    for id in &ids {
        shown.push(
            columns(&client, *id, "agent, priority, payload, timeout, nullif(extract(year from run_at), 2030) is null")
                .await,
        );
    }
    assert_eq!(
        shown,
        [
            "n1 0 {} f",
            "old 0 {} f",
            "n2 7 null f",
            "z 0 {} f",
            "n3 0 {\"a\": \"é\"} 00:05:00 f",
            "z 0 {} f",
            "y 0 {} t"
        ]
    );
    assert_eq!(many(&client, "[]").await, Vec::<i64>::new());
    let wishes = format!("[{}]", vec![r#"{"agent": "bulk"}"#; 10_000].join(","));
    let ids = many(&client, &wishes).await;
    assert!(ids.len() == 10_000 && ids.is_sorted());
    assert_eq!(violations(&client).await, []);
}

#[tokio::test]
async fn batches_with_the_same_keys_in_different_orders_do_not_deadlock() {
    let db = TestDb::new().await;
    let (one_client, other) = (db.client().await, db.client().await);
    for round in 0..20 {
        let wish = |n: i32| format!(r#"{{"agent": "a", "dedupe_key": "{round}-{n}"}}"#);
        let up: Vec<_> = (0..50).map(wish).collect();
        let down: Vec<_> = (0..50).rev().map(wish).collect();
        let (up, down) = (format!("[{}]", up.join(",")), format!("[{}]", down.join(",")));
        let (mut up, down) = tokio::join!(many(&one_client, &up), many(&other, &down));
        up.reverse();
        assert_eq!(up, down);
    }
}

#[tokio::test]
async fn cancel_ends_what_waits_and_asks_for_the_end_of_what_runs() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    for status in STATUSES {
        let id = job(&client, status).await;
        let call = format!("select orch.cancel({id})");
        match status {
            "queued" | "held" => {
                assert_eq!(one(&client, &call).await, "cancelled");
                assert_eq!(columns(&client, id, "status, finished_at is not null, claimable").await, "cancelled t f");
            }
            "running" => {
                assert_eq!(one(&client, &call).await, "running");
                let since = columns(&client, id, "cancel_requested_at").await;
                assert_eq!(one(&client, &call).await, "running");
                assert_eq!(columns(&client, id, "cancel_requested_at").await, since, "the first wish counts");
                assert_eq!(columns(&client, id, "status, run_id").await, format!("running {RUN}"));
            }
            _ => {
                let (code, message) = refused(&client, &call).await;
                assert_eq!(
                    (code.as_str(), message.contains(&format!("is {status} already"))),
                    ("OR001", true),
                    "{message}"
                );
                continue;
            }
        }
        let told = one(&client, &format!("select kind from orch.events where job_id = {id} order by id limit 1")).await;
        assert_eq!(told, if status == "running" { "cancel_requested" } else { "cancelled" });
    }
    assert_eq!(violations(&client).await, []);
}

#[tokio::test]
async fn retry_makes_a_finished_job_as_new_but_for_its_attempts() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    for status in STATUSES {
        let id = job(&client, status).await;
        if ["queued", "held", "running"].contains(&status) {
            let (code, message) = refused(&client, &format!("select orch.retry({id})")).await;
            assert_eq!((code.as_str(), message.contains(&format!("is {status}"))), ("OR001", true), "{message}");
            continue;
        }
        client
            .batch_execute(&format!(
                "update orch.jobs set attempt = 4, failures = 1, lost_count = 1, transient_count = 1, interrupted_count = 1,
                        last_run_id = '{RUN}', cancel_requested_at = now(), error = 'e', result = '1',
                        run_at = now() + interval '1 day' where id = {id}"
            ))
            .await
            .unwrap();
        assert_eq!(one(&client, &format!("select orch.retry({id})")).await, "queued");
        let shown = columns(
            &client,
            id,
            "status, claimable, attempt, failures + lost_count + transient_count + interrupted_count, run_at <= clock_timestamp(),
             num_nonnulls(last_run_id, cancel_requested_at, error, result, finished_at, failed_at)",
        )
        .await;
        assert_eq!(shown, "queued t 4 0 t 0");
        let told = format!("select concat_ws(' ', kind, detail ->> 'was', actor) from orch.events where job_id = {id}");
        assert_eq!(one(&client, &told).await, format!("retried {status} postgres"));
    }
}

#[tokio::test]
async fn hold_and_release_touch_only_what_waits() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    for status in STATUSES {
        let id = job(&client, status).await;
        for (call, from, to) in [("hold", "queued", "held"), ("release", "held", "queued")] {
            client.batch_execute("begin").await.unwrap();
            let call = format!("select orch.{call}({id})");
            if status == from {
                assert_eq!(one(&client, &call).await, to);
                let claimable = if to == "queued" { "t" } else { "f" };
                assert_eq!(columns(&client, id, "status, claimable").await, format!("{to} {claimable}"));
                assert_eq!(one(&client, &format!("select count(*) from orch.events where job_id = {id}")).await, "1");
            } else {
                let (code, message) = refused(&client, &call).await;
                assert_eq!((code.as_str(), message.contains(&format!("is {status}"))), ("OR001", true), "{message}");
            }
            client.batch_execute("rollback").await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_awaits_its_old_process_stays_unclaimable_through_every_operators_act() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    let id = job(&client, "running").await;
    client.batch_execute(&format!("update orch.jobs set status = 'queued' where id = {id}")).await.unwrap();
    for act in ["hold", "release", "cancel", "retry"] {
        client.batch_execute(&format!("select orch.{act}({id})")).await.unwrap();
        assert_eq!(
            columns(&client, id, "claimable, awaits_replica, last_run_id").await,
            format!("f {LIVE} {RUN}"),
            "{act}"
        );
    }
    assert_eq!(violations(&client).await, []);
}
