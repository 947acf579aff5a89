//! Schedules, by the tick that a replica's loop calls: each tick once, whoever looks and whatever dies in between.

mod catch_up;
mod crashes;
mod input;
mod many;
mod overlap;

use orch::{
    db::Db,
    replica::{Ticked, tick_schedules},
};
use tokio_postgres::Client;

use crate::support::{TestDb, eventually};

/// A database with a schedule that ticks every minute, or what else is said of it.
async fn with_schedule(columns: &str, values: &str) -> (TestDb, Client, Db) {
    let test = TestDb::new().await;
    let (client, db) = (test.client().await, test.db());
    add(&client, columns, values).await;
    (test, client, db)
}

/// Adds the schedule `s`: every minute on the minute, unless `columns` has another rhythm.
async fn add(client: &Client, columns: &str, values: &str) {
    let (mut columns, mut values) = (columns.to_owned(), values.to_owned());
    if !columns.contains("cron") && !columns.contains("every") {
        columns += ", every, anchor_at";
        values += ", '1 minute', '2026-01-01 00:00:00Z'";
    }
    let sql = format!("insert into orch.schedules (name, agent, {columns}) values ('s', 'a', {values})");
    client.batch_execute(&sql).await.unwrap();
}

async fn tick(db: &Db) -> Ticked {
    tick_schedules(db).await.unwrap()
}

/// Makes the next tick of every schedule due: that many minutes ago, on the minute, which does not end right after.
async fn due_for(client: &Client, minutes: i32) {
    eventually("the minute to be young", async || {
        let young = "select extract(second from clock_timestamp()) < 50";
        client.query_one(young, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    client
        .execute(
            "update orch.schedules
                set planned = true, next_tick_at = date_trunc('minute', clock_timestamp()) - make_interval(mins => $1)",
            &[&minutes],
        )
        .await
        .unwrap();
}

/// The ticks of the jobs that were enqueued, in their order.
async fn ticks(client: &Client) -> Vec<String> {
    let rows = client.query("select labels ->> 'tick' from orch.jobs order by id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The one value that a query about the schedule `s` returns, as text.
async fn of_s(client: &Client, expression: &str) -> Option<String> {
    let sql = format!("select ({expression})::text from orch.schedules where name = 's'");
    client.query_one(&sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_new_schedule_is_planned_at_the_first_look_and_its_tick_is_a_job_with_the_whole_wish() {
    let (_test, client, db) = with_schedule(
        "project, priority, gate, labels, max_attempts, timeout, payload, tick_key",
        "'p', 7, 'g', '{\"team\": \"x\"}', 2, '1 hour', '{\"n\": 1.50}', 'at'",
    )
    .await;
    let ticked = tick(&db).await;
    assert_eq!((ticked.fired, ticked.skipped, ticked.refused), (0, 0, 0));
    let planned = "planned and next_tick_at = date_trunc('minute', clock_timestamp()) + interval '1 minute'";
    assert_eq!(of_s(&client, planned).await.as_deref(), Some("true"));
    let wait = ticked.wait.unwrap().as_secs_f64();
    assert!((0.0..=60.0).contains(&wait), "{wait}");

    due_for(&client, 0).await;
    let due =
        of_s(&client, "to_char(next_tick_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')").await.unwrap();
    assert_eq!(tick(&db).await.fired, 1);
    assert_eq!(tick(&db).await.fired, 0, "a tick fires once");
    let job = client
        .query_one(
            "select agent, project, priority, gate, labels::text, max_attempts, timeout::text, payload::text, id,
                    run_at <= now() as due
               from orch.jobs",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((job.get(0), job.get(1), job.get(2), job.get(3)), ("a", "p", 7_i16, "g"));
    let labels: serde_json::Value = serde_json::from_str(job.get(4)).unwrap();
    assert_eq!(labels, serde_json::json!({"team": "x", "schedule": "s", "tick": due}));
    assert_eq!((job.get::<_, i32>(5), job.get::<_, &str>(6)), (2, "01:00:00"));
    assert_eq!(
        job.get::<_, &str>(7),
        format!("{{\"n\": 1.50, \"at\": \"{due}\"}}").replace("\"n\": 1.50, \"at\"", "\"n\": 1.50, \"at\"")
    );
    assert!(job.get::<_, bool>(9));
    let id = job.get::<_, i64>(8).to_string();
    assert_eq!(of_s(&client, "last_job_id").await, Some(id));
    assert_eq!(of_s(&client, "last_answer").await.as_deref(), Some("fired"));
}
