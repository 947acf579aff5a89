//! The guards of ownership are said twice, in SQL (which runs) and in `model::ownership` (which is read and searched): they
//! must agree. The settle's guard and the adoption's have cases of their own in `late` and `adoption`.

use std::time::Duration;

use orch::{
    db::reaper::Timing,
    model::ownership::{Expiry, Tick, may_declare_dead, wait_until},
};
use proptest::{
    prelude::*,
    strategy::{Strategy, ValueTree as _},
    test_runner::TestRunner,
};
use tokio_postgres::Client;

use crate::{runs::register, support::TestDb};

const TIMING: Timing = Timing { lease: 60.0, heartbeat: 5.0, reap_grace: 5.0 };
/// Where the functions' clock stands.
const NOW: f64 = 1_000.0;

/// Seconds from now, never near a limit, since the database's clock goes on while a case is made.
fn offset(range: std::ops::Range<i32>) -> impl Strategy<Value = f64> {
    range.prop_map(|seconds| f64::from(seconds) + 0.5)
}

fn at(offset: f64) -> Duration {
    Duration::from_secs_f64(NOW + offset)
}

fn seconds(count: f64) -> Duration {
    Duration::from_secs_f64(count)
}

/// What a tick goes by: the last one, the wait, and whether the timeline is the server's.
async fn set_meta(client: &Client, last_tick: Option<f64>, wait: Option<f64>, same_timeline: bool) {
    client
        .execute(
            "update orch.meta
                set last_tick_at = clock_timestamp() + make_interval(secs => $1),
                    wait_until = clock_timestamp() + make_interval(secs => $2),
                    timeline = case when $3 then substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) else 'FFFFFFFF' end",
            &[&last_tick, &wait, &same_timeline],
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn a_replica_is_declared_dead_in_sql_when_the_model_says_so() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    let cases =
        (offset(-12..3), prop::option::of(offset(-8..8)), prop::option::of(offset(-40..0)), prop::bool::weighted(0.8));
    let mut runner = TestRunner::default();
    let mut dead = 0;
    for _ in 0..150 {
        let (lease, wait, last_tick, same_timeline) = cases.new_tree(&mut runner).unwrap().current();
        let replica = register(&db).await.replica_id;
        set_meta(&client, last_tick, wait, same_timeline).await;
        let set = "update orch.replicas set lease_until = clock_timestamp() + make_interval(secs => $2) where replica_id = $1";
        client.execute(set, &[&replica.0, &lease]).await.unwrap();
        let expected = may_declare_dead(&Expiry {
            now: at(0.0),
            lease_until: at(lease),
            wait_until: wait.map(at),
            last_tick_at: last_tick.map(at),
            same_timeline,
            lease: seconds(TIMING.lease),
            reap_grace: seconds(TIMING.reap_grace),
        });
        let declared = db.declare_dead(TIMING).await.unwrap();
        assert_eq!(
            declared.iter().any(|dead| dead.replica_id == replica),
            expected,
            "lease {lease}, wait {wait:?}, last tick {last_tick:?}, same timeline {same_timeline}"
        );
        dead += usize::from(expected);
        // It is not in the way of the next.
        let live = "update orch.replicas set state = 'dead' where state = 'live'";
        client.execute(live, &[]).await.unwrap();
    }
    assert!((1..150).contains(&dead), "the cases show both answers");
}

#[tokio::test]
async fn the_tick_in_sql_waits_out_what_the_model_waits_out() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    let cases = (prop::option::of(offset(-60..0)), prop::option::of(offset(-30..90)), prop::bool::weighted(0.7));
    let mut runner = TestRunner::default();
    for _ in 0..150 {
        let (last_tick, wait, same_timeline) = cases.new_tree(&mut runner).unwrap().current();
        set_meta(&client, last_tick, wait, same_timeline).await;
        let expected = wait_until(&Tick {
            now: at(0.0),
            last_tick_at: last_tick.map(at),
            wait_until: wait.map(at),
            failover: !same_timeline,
            lease: seconds(TIMING.lease),
            heartbeat: seconds(TIMING.heartbeat),
            reap_grace: seconds(TIMING.reap_grace),
        });
        db.tick(TIMING, true, 0, 1).await.unwrap();
        let left = "select extract(epoch from wait_until - clock_timestamp())::float8 from orch.meta";
        let left: Option<f64> = client.query_one(left, &[]).await.unwrap().get(0);
        let expected = expected.map(|until| until.as_secs_f64() - NOW);
        let near = match (left, expected) {
            (Some(left), Some(expected)) => (left - expected).abs() < 0.5,
            (left, expected) => left.is_none() && expected.is_none(),
        };
        assert!(near, "{left:?} {expected:?}: last tick {last_tick:?}, wait {wait:?}, same timeline {same_timeline}");
    }
}
