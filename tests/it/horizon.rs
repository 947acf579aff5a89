//! Who holds the oldest snapshot, as the database says it. When that is an alarm, the unit tests of `db::horizon` say.

use orch::db::horizon::Kind;

use crate::support::{TestDb, eventually};

#[tokio::test]
async fn the_holder_of_an_old_snapshot_is_named_until_it_lets_go() {
    let db = TestDb::new().await;
    let (client, orch) = (db.client().await, db.db());
    let pid: i32 = client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    client.batch_execute("set application_name = 'analyst'").await.unwrap();
    let holds = async || {
        let holder = orch.horizon().await.unwrap().holder?;
        (holder.pid == Some(pid)).then_some(holder)
    };
    // A transaction that has neither read nor written anything keeps nothing.
    client.batch_execute("begin isolation level read committed").await.unwrap();
    assert_eq!(holds().await, None);
    client.batch_execute("rollback; begin isolation level repeatable read; select from orch.jobs").await.unwrap();
    let holder = eventually("the holder", holds).await;
    assert_eq!((holder.kind, holder.state.as_deref()), (Kind::Session, Some("idle in transaction")));
    assert_eq!((holder.application.as_deref(), holder.name.as_deref()), (Some("analyst"), None));
    assert!(holder.held.is_some() && holder.role.is_some(), "{holder:?}");
    client.batch_execute("rollback").await.unwrap();
    assert_eq!(holds().await, None);
    // What it has written is kept as well, whatever it reads.
    client.batch_execute("begin; select orch.enqueue('a')").await.unwrap();
    assert_eq!(eventually("the writer", holds).await.kind, Kind::Session);
    client.batch_execute("rollback").await.unwrap();
}

#[tokio::test]
async fn dead_rows_of_jobs_and_runs_are_counted_and_others_are_not() {
    let db = TestDb::new().await;
    let client = db.client().await;
    client.batch_execute("create table orch_other (id int); insert into orch_other select generate_series(1, 500); delete from orch_other").await.unwrap();
    client
        .batch_execute(
            "select orch.enqueue('a') from generate_series(1, 20); update orch.jobs set labels = '{\"x\": 1}'",
        )
        .await
        .unwrap();
    eventually("the statistics", async || {
        let dead = db.db().horizon().await.unwrap().dead_rows;
        assert!(dead < 500, "{dead}");
        (dead >= 20).then_some(())
    })
    .await;
}
