//! Replicas that die, come too late or are not heard, at random: no tick is lost, and none comes twice.

use std::collections::BTreeMap;

use orch::{
    db::{Db, schedules::Step},
    replica::schedule_steps,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio_postgres::Client;

use super::tick;
use crate::support::{TestDb, say};

const SCHEDULES: i64 = 4;
/// Ticks that are due of each, ten seconds apart.
const DUE: i64 = 120;

/// What a replica does with the steps that it has computed.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// It dies before it says them.
    DiesBefore,
    /// Its transaction is dropped by the server's death.
    IsRolledBack,
    /// They are done, and it dies before it hears so.
    IsNotHeard,
    /// All goes well.
    Lives,
    /// It says the first half, and dies.
    DiesHalfway,
}

const FATES: [Fate; 5] = [Fate::DiesBefore, Fate::IsRolledBack, Fate::IsNotHeard, Fate::Lives, Fate::DiesHalfway];

async fn roll_back(client: &mut Client, steps: &[Step]) {
    let transaction = client.transaction().await.unwrap();
    let column = |value: fn(&Step) -> Option<jiff::Timestamp>| steps.iter().map(value).collect::<Vec<_>>();
    let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    let revisions: Vec<i64> = steps.iter().map(|step| step.revision).collect();
    let errors: Vec<Option<&str>> = steps.iter().map(|step| step.error.as_deref()).collect();
    let fired = transaction
        .query(
            "select * from orch.fire_ticks($1, $2, $3, $4, $5, $6, $7)",
            &[
                &names,
                &revisions,
                &column(|step| Some(step.seen)),
                &column(|step| step.tick),
                &column(|step| step.next),
                &column(|step| step.left_out),
                &errors,
            ],
        )
        .await
        .unwrap();
    assert!(fired.len() <= steps.len());
    transaction.rollback().await.unwrap();
}

async fn act(db: &Db, client: &mut Client, fate: Fate, steps: &[Step]) {
    match fate {
        Fate::DiesBefore => {}
        Fate::IsRolledBack => roll_back(client, steps).await,
        Fate::IsNotHeard | Fate::Lives => drop(db.fire_ticks(steps).await.unwrap()),
        Fate::DiesHalfway => drop(db.fire_ticks(&steps[..steps.len() / 2]).await.unwrap()),
    }
}

#[tokio::test]
async fn over_random_crashes_between_look_and_commit_no_tick_is_lost_or_doubled() {
    let seed = std::env::var("ORCH_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    say(&format!("schedules::crashes: ORCH_TEST_SEED={seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let test = TestDb::new().await;
    let (mut client, db) = (test.client().await, test.db());
    client
        .execute(
            "insert into orch.schedules (name, agent, every, anchor_at, overlap, catch_up, grace)
             select 's' || n, 'a', '10 seconds', '2026-01-01 00:00:00Z', 'queue', 'skip', '1 day'
               from generate_series(1::bigint, $1) n",
            &[&SCHEDULES],
        )
        .await
        .unwrap();
    client
        .execute(
            "update orch.schedules
                set planned = true,
                    next_tick_at = date_bin('10 seconds', clock_timestamp(), '2026-01-01 00:00:00Z') - make_interval(secs => 10.0 * $1::bigint)",
            &[&DUE],
        )
        .await
        .unwrap();
    let first: jiff::Timestamp =
        client.query_one("select min(next_tick_at) from orch.schedules", &[]).await.unwrap().get(0);

    // What was seen once and may still be said, long after it has become untrue.
    let mut remembered: Vec<Vec<Step>> = Vec::new();
    for _ in 0..60 {
        let steps = schedule_steps(&db.due_schedules(random.random_range(1..6)).await.unwrap());
        let fate = FATES[random.random_range(0..FATES.len())];
        act(&db, &mut client, fate, &steps).await;
        remembered.push(steps);
        if random.random_bool(0.3) {
            let late = remembered[random.random_range(0..remembered.len())].clone();
            act(&db, &mut client, Fate::Lives, &late).await;
        }
        if random.random_bool(0.3) {
            // Two replicas have seen the same, and say so at the same time.
            let steps = schedule_steps(&db.due_schedules(4).await.unwrap());
            let (one, other) = tokio::join!(db.fire_ticks(&steps), db.fire_ticks(&steps));
            let both: usize = [one.unwrap().len(), other.unwrap().len()].iter().sum();
            assert!(both <= steps.len(), "each step is answered once");
        }
    }
    while tick(&db).await.fired > 0 {}

    let rows =
        client.query("select labels ->> 'schedule', labels ->> 'tick' from orch.jobs order by id", &[]).await.unwrap();
    let mut fired: BTreeMap<String, Vec<jiff::Timestamp>> = BTreeMap::new();
    for row in &rows {
        fired.entry(row.get(0)).or_default().push(row.get::<_, &str>(1).parse().unwrap());
    }
    assert_eq!(fired.len() as i64, SCHEDULES);
    for (name, ticks) in fired {
        assert!(ticks.len() as i64 > DUE, "{name}: {}", ticks.len());
        for (place, tick) in ticks.iter().enumerate() {
            let expected = first + jiff::SignedDuration::from_secs(10 * place as i64);
            assert_eq!(*tick, expected, "{name}, tick {place}: one is missing, twice or out of order");
        }
    }
}
