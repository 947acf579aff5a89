//! Reasons where there are many lanes: what is exact, what it costs, and what is said where not all were looked at.

use std::collections::BTreeMap;

use orch::model::{JobId, Reason};
use tokio_postgres::Client;

use crate::{
    played::Played,
    support::{Orch, TestDb},
};

/// A replica of four slots, and a lane for each of so many jobs, in three projects.
async fn with_lanes(lanes: i64) -> (TestDb, Client) {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let client = db.client().await;
    client
        .batch_execute(&format!(
            "insert into orch.jobs (agent, project, gate, run_at)
             select 'a', 'p' || n % 3, 'g' || n, now() - interval '1 h' from generate_series(1, {lanes}) n"
        ))
        .await
        .unwrap();
    client.batch_execute("vacuum analyze orch.jobs").await.unwrap();
    (db, client)
}

/// The pages that a query touches.
async fn pages(client: &Client, sql: &str) -> i64 {
    let explain = format!("explain (analyze, buffers, format json) {sql}");
    let mut last = 0;
    // The first plans the functions that it calls, and fills the caches with the catalog.
    for _ in 0..2 {
        let plan: serde_json::Value = client.query_one(&explain, &[]).await.unwrap().get(0);
        let top = &plan[0]["Plan"];
        last = top["Shared Hit Blocks"].as_i64().unwrap() + top["Shared Read Blocks"].as_i64().unwrap();
    }
    last
}

/// How many jobs `orch.waiting` names for each reason; the counts say the same.
async fn reasons(db: &TestDb, client: &Client) -> BTreeMap<String, i64> {
    let rows = client.query("select reason, count(*) from orch.waiting group by reason", &[]).await.unwrap();
    let named: BTreeMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let counted = db.db().count_waiting(true).await.unwrap();
    let counted: BTreeMap<_, _> = counted.iter().map(|(reason, jobs)| (reason.to_string(), *jobs)).collect();
    assert_eq!(named, counted, "orch.waiting and the counts");
    named
}

#[tokio::test]
async fn why_one_job_waits_costs_the_same_however_many_others_do() {
    let mut costs = Vec::new();
    for lanes in [3_000, 12_000] {
        let (_db, client) = with_lanes(lanes).await;
        let mut cost = Vec::new();
        for job in [1, lanes] {
            cost.push(pages(&client, &format!("select * from orch.why({job})")).await);
        }
        costs.push(cost);
    }
    for job in 0..2 {
        assert!(costs[1][job] <= costs[0][job] * 11 / 10 + 100, "{costs:?}");
    }
}

#[tokio::test]
async fn the_counts_cost_a_few_pages_a_lane() {
    let (db, client) = with_lanes(6_000).await;
    let sql = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/why/count.sql")).replace("$1", "true");
    let cost = pages(&client, &sql).await;
    assert!(cost < 6_000 * 24, "{cost}");
    assert_eq!(reasons(&db, &client).await, BTreeMap::from([("fair_share".into(), 5_996), ("next".into(), 4)]));
}

#[tokio::test]
async fn what_all_jobs_wait_for_costs_a_few_pages_a_job_whatever_that_is() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let client = db.client().await;
    // Predecessors that wait themselves; a hundred for each of those that wait for them.
    client
        .batch_execute(
            "select orch.enqueue('a') from generate_series(1, 200);
             select orch.hold(orch.enqueue('a')) from generate_series(1, 1000);
             select orch.enqueue('a', run_at => now() + interval '1 h') from generate_series(1, 1000);
             select orch.enqueue('a', after => a.ids)
               from (select array_agg(id order by id) as ids from orch.jobs where id <= 100) a, generate_series(1, 1000)",
        )
        .await
        .unwrap();
    client.batch_execute("vacuum analyze orch.jobs, orch.events").await.unwrap();
    let cost = pages(&client, "select * from orch.waiting").await;
    assert!(cost < 3_200 * 24, "{cost}");
}

#[tokio::test]
async fn behind_thousands_of_lanes_that_may_not_run_the_one_that_may_is_next() {
    let (db, client) = with_lanes(3_000).await;
    client
        .batch_execute(
            "select orch.pause('project:' || p) from unnest('{p0,p1,p2}'::text[]) p;
             select orch.enqueue('a', project => 'z'), orch.enqueue('a', project => 'p1')",
        )
        .await
        .unwrap();
    assert_eq!(reasons(&db, &client).await, BTreeMap::from([("next".into(), 1), ("paused".into(), 3_001)]));
    assert_eq!(db.db().why(JobId(3_001), true).await.unwrap().reason, Reason::Next.to_string());
    assert_eq!(db.db().why(JobId(3_002), true).await.unwrap().reason, Reason::Paused.to_string());
}

#[tokio::test]
async fn a_job_that_has_no_place_for_all_the_lanes_before_it_does_not_wait_for_a_gate_that_is_free() {
    let (db, client) = with_lanes(5_000).await;
    // A second one of each gate.
    client
        .batch_execute(
            "insert into orch.jobs (agent, project, gate, run_at)
             select 'a', project, gate, now() - interval '1 min' from orch.jobs",
        )
        .await
        .unwrap();
    let expected = [("fair_share", 4_996), ("next", 4), ("serial_gate", 5_000)];
    assert_eq!(reasons(&db, &client).await, expected.map(|(reason, jobs)| (reason.to_owned(), jobs)).into());
    let orch = Orch::on(&db);
    for (job, reason, words) in [
        (1, "next", "it is next"),
        (4_999, "fair_share", "at least "),
        (5_001, "serial_gate", "gate \"g1\" is free, and job 1 comes first"),
        (9_999, "serial_gate", "gate \"g4999\" is free, and job 4999 comes first"),
    ] {
        let told = super::why(&orch, job).await;
        assert_eq!(told["reason"], reason, "{told}");
        assert!(told["sentence"].as_str().unwrap().contains(words), "{told}");
    }
}

#[tokio::test]
async fn who_gets_the_last_place_of_a_limit_is_said_alike_of_one_job_and_of_all() {
    let db = TestDb::new().await;
    // Four slots, so of eight jobs that are alike not all are ranked to say of all jobs why they wait.
    Played::on(&db, &["a"]).await;
    let client = db.client().await;
    client
        .batch_execute(
            "select orch.set_limit('one', 1);
             select orch.enqueue('a', project => 'p') from generate_series(1, 8);
             select orch.enqueue('a', project => 'p', limits => '{one}');
             select orch.enqueue('a', project => 'q', priority => n) from generate_series(1, 6) n;
             select orch.enqueue('a', project => 'q', limits => '{one}')",
        )
        .await
        .unwrap();
    let asked = "select w.job_id, w.reason, y.reason from orch.waiting w, orch.why(w.job_id) y order by 1";
    let reasons: Vec<(i64, String, String)> =
        client.query(asked, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let limit_full: Vec<i64> =
        reasons.iter().filter(|(_, reason, _)| reason == "limit_full").map(|(id, ..)| *id).collect();
    assert_eq!(limit_full, [9], "the ninth of p comes after the seventh of q: {reasons:?}");
    assert!(reasons.iter().all(|(_, of_all, of_one)| of_all == of_one), "{reasons:?}");
}
