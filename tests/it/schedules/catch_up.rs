//! What becomes of ticks that nobody looked at: all replicas were down.

use super::{due_for, of_s, tick, ticks, with_schedule};

/// The last so many minutes of the database's clock before now, as ticks; 0 is the minute that has begun.
async fn minutes(client: &tokio_postgres::Client, ago: std::ops::RangeInclusive<i32>) -> Vec<String> {
    let sql = "select to_char((next_tick_at - make_interval(mins => 1 + n)) at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
                 from orch.schedules, generate_series($2::integer, $1, -1) n";
    let rows = client.query(sql, &[ago.start(), ago.end()]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn skip_leaves_out_what_was_missed_and_says_since_when() {
    let (_test, client, db) = with_schedule("catch_up, grace, overlap", "'skip', '90 s', 'queue'").await;
    due_for(&client, 10).await;
    let fired = tick(&db).await.fired;
    let fired_ticks = ticks(&client).await;
    assert!((1..=2).contains(&fired), "what is late by less than the grace always fires: {fired_ticks:?}");
    assert_eq!(fired_ticks, minutes(&client, 0..=fired as i32 - 1).await);
    let told = "select detail ->> 'schedule' from orch.events where kind = 'ticks_missed'";
    assert_eq!(client.query_one(told, &[]).await.unwrap().get::<_, &str>(0), "s");
}

#[tokio::test]
async fn one_run_stands_for_all_that_were_missed() {
    let (_test, client, db) =
        with_schedule("catch_up, grace, cron, time_zone", "'one', '10 s', '0 0 1 1 *', 'Europe/Berlin'").await;
    // New Year's nights of four years; what is planned is not asked where it came from.
    client
        .batch_execute("update orch.schedules set planned = true, next_tick_at = '2022-12-31 23:00:00Z'")
        .await
        .unwrap();
    assert_eq!(tick(&db).await.fired, 1);
    let latest: String = client
        .query_one("select (extract(year from now()) - 1)::text || '-12-31T23:00:00Z'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(ticks(&client).await, [latest]);
    assert_eq!(tick(&db).await.fired, 0);
    let next =
        "next_tick_at > now() and next_tick_at at time zone time_zone = date_trunc('year', now() + interval '1 year')";
    assert_eq!(of_s(&client, next).await.as_deref(), Some("true"));
}

#[tokio::test]
async fn all_fires_the_latest_up_to_its_bound_in_order_however_many_looks_it_takes() {
    let (_test, client, db) =
        with_schedule("catch_up, catch_up_max, grace, overlap", "'all', 50, '10 s', 'queue'").await;
    due_for(&client, 200).await;
    let ticked = tick(&db).await;
    let fired = ticks(&client).await;
    assert_eq!(ticked.fired, fired.len());
    assert!((50..=52).contains(&fired.len()), "fifty that were missed, and what is on time: {}", fired.len());
    assert_eq!(fired, minutes(&client, 0..=fired.len() as i32 - 1).await);
}

#[tokio::test]
async fn what_falls_into_a_pause_is_not_made_up_for_and_what_falls_before_the_first_look_is() {
    let (_test, client, db) = with_schedule("catch_up, grace, overlap", "'all', '10 s', 'queue'").await;
    client
        .batch_execute(
            "update orch.schedules set base_at = date_trunc('minute', now()) - interval '3 min', next_tick_at = base_at",
        )
        .await
        .unwrap();
    let fired = tick(&db).await.fired;
    assert!((3..=4).contains(&fired), "since it was made: {fired}");

    client.batch_execute("select orch.pause_schedule('s')").await.unwrap();
    client.batch_execute("update orch.schedules set next_tick_at = now() - interval '1 hour'").await.unwrap();
    assert_eq!(tick(&db).await.fired, 0);
    client.batch_execute("select orch.resume_schedule('s')").await.unwrap();
    assert_eq!(tick(&db).await.fired, 0, "it counts from its resumption");
    assert_eq!(of_s(&client, "planned and next_tick_at > now()").await.as_deref(), Some("true"));
}

#[tokio::test]
async fn a_schedule_that_was_changed_between_look_and_fire_does_not_tick_by_its_old_definition() {
    let (_test, client, db) = with_schedule("overlap", "'queue'").await;
    due_for(&client, 0).await;
    let look = db.due_schedules(10).await.unwrap();
    let steps = orch::replica::schedule_steps(&look);
    assert_eq!(steps.len(), 1);
    client
        .batch_execute(
            "create temp table was as select next_tick_at from orch.schedules;
             update orch.schedules set every = null, cron = '0 0 1 1 *';
             update orch.schedules set next_tick_at = was.next_tick_at, planned = true from was",
        )
        .await
        .unwrap();
    assert_eq!(db.fire_ticks(&steps).await.unwrap(), [], "by its tick it looks the same, by its revision it does not");
    assert_eq!(ticks(&client).await, Vec::<String>::new());

    client.batch_execute("update orch.schedules set every = '1 minute', cron = null").await.unwrap();
    due_for(&client, 0).await;
    let steps = orch::replica::schedule_steps(&db.due_schedules(10).await.unwrap());
    client.batch_execute("select orch.pause_schedule('s')").await.unwrap();
    assert_eq!(db.fire_ticks(&steps).await.unwrap(), [], "nor does one that was paused");
}

#[tokio::test]
async fn a_replica_whose_arithmetic_is_ahead_fires_nothing_that_is_not_due() {
    let (_test, client, db) = with_schedule("overlap", "'queue'").await;
    due_for(&client, 0).await;
    let mut steps = orch::replica::schedule_steps(&db.due_schedules(10).await.unwrap());
    for step in &mut steps {
        step.tick = step.next;
    }
    assert_eq!(db.fire_ticks(&steps).await.unwrap(), []);
    assert_eq!(tick(&db).await.fired, 1);
}
