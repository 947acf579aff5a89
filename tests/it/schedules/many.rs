//! Many replicas at many schedules at once: each tick exactly once.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::tick;
use crate::support::{TestDb, eventually_within, say};

const REPLICAS: usize = 10;

async fn add(client: &Client, schedules: i64) {
    client
        .execute(
            "insert into orch.schedules (name, agent, every, anchor_at, overlap, grace, payload, tick_key)
             select 's' || n, 'a', '1 second', '2026-01-01 00:00:00Z', 'queue', '1 day', '{}', 'at'
               from generate_series(1::bigint, $1) n",
            &[&schedules],
        )
        .await
        .unwrap();
}

/// Schedules whose ticks are not a gapless row without repetition, from their first tick to their next one.
async fn wrong(client: &Client) -> i64 {
    client
        .query_one(
            "select count(*) from orch.schedules s
               left join (select labels ->> 'schedule' as name, count(*) as jobs,
                                 count(distinct labels ->> 'tick') as ticks,
                                 min((labels ->> 'tick')::timestamptz) as first, max((labels ->> 'tick')::timestamptz) as last
                            from orch.jobs group by 1) j using (name)
              where j.jobs is distinct from j.ticks
                 or j.ticks is distinct from extract(epoch from j.last - j.first) + 1
                 or j.last is distinct from s.last_tick_at
                 or s.next_tick_at is distinct from s.last_tick_at + interval '1 second'",
            &[],
        )
        .await
        .unwrap()
        .get(0)
}

#[tokio::test]
async fn ten_replicas_fire_each_of_two_thousand_due_ticks_once() {
    let test = TestDb::new().await;
    let client = test.client().await;
    add(&client, 200).await;
    client
        .batch_execute(
            "update orch.schedules
                set planned = true, next_tick_at = date_trunc('second', clock_timestamp()) - interval '9 seconds'",
        )
        .await
        .unwrap();
    let mut replicas = JoinSet::new();
    for _ in 0..REPLICAS {
        let db = test.db();
        replicas.spawn(async move {
            let (mut fired, mut idle) = (0, 0);
            // A look in vain may be that of a replica whom the others have been ahead of.
            while idle < 3 {
                let now = tick(&db).await.fired;
                fired += now;
                idle = if now > 0 { 0 } else { idle + 1 };
            }
            fired
        });
    }
    let fired: usize = replicas.join_all().await.into_iter().sum();
    let db = test.db();
    let rest = tick(&db).await.fired;
    let jobs: i64 = client.query_one("select count(*) from orch.jobs", &[]).await.unwrap().get(0);
    assert_eq!((fired + rest) as i64, jobs, "who says that it fired has");
    assert!(jobs >= 2000, "{jobs}");
    assert_eq!(wrong(&client).await, 0);
}

/// The whole of it, at the pace of the clock.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute of its own, and the machine: cargo test --release --test it -- --ignored --nocapture a_thousand_schedules"]
async fn ten_replicas_fire_a_thousand_schedules_each_second_for_a_minute_each_tick_once() {
    let test = TestDb::new().await;
    let client = test.client().await;
    add(&client, 1000).await;
    let over = tokio_util::sync::CancellationToken::new();
    let mut replicas = JoinSet::new();
    for _ in 0..REPLICAS {
        let (db, over) = (test.db(), over.clone());
        replicas.spawn(async move {
            let mut fired = 0;
            while !over.is_cancelled() {
                let ticked = tick(&db).await;
                fired += ticked.fired;
                // As the loop does: until the next is due, and a little later than that.
                let spread = Duration::from_millis(50).mul_f64(rand::random());
                tokio::time::sleep(ticked.wait.unwrap_or_default().min(Duration::from_secs(5)) + spread).await;
            }
            fired
        });
    }
    let minute = "select coalesce(min(last_tick_at - base_at) > interval '60 s', false) from orch.schedules";
    eventually_within(Duration::from_mins(10), "each schedule to have ticked for a minute", async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.query_one(minute, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    over.cancel();
    let fired: Vec<usize> = replicas.join_all().await;
    assert_eq!(wrong(&client).await, 0);
    let row = client
        .query_one(
            "select count(*), count(distinct labels ->> 'tick'),
                    percentile_cont(0.5) within group (order by extract(epoch from created_at - (labels ->> 'tick')::timestamptz)),
                    percentile_cont(0.99) within group (order by extract(epoch from created_at - (labels ->> 'tick')::timestamptz)),
                    max(extract(epoch from created_at - (labels ->> 'tick')::timestamptz))::float8
               from orch.jobs",
            &[],
        )
        .await
        .unwrap();
    let (jobs, seconds): (i64, i64) = (row.get(0), row.get(1));
    let late: [f64; 3] = [row.get(2), row.get(3), row.get(4)];
    say(&format!(
        "{jobs} ticks of 1,000 schedules in {seconds} s by {fired:?}; late by {:.3} s (p50), {:.3} s (p99), {:.3} s (max)",
        late[0], late[1], late[2]
    ));
    assert!(seconds >= 60 && jobs >= 60_000, "{jobs} jobs, {seconds} seconds");
}
