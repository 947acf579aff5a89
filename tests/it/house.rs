//! The test house itself: what all other tests take for granted.

use crate::support::{Orch, TestDb, eventually_within, processes_beneath};

#[tokio::test]
async fn every_test_has_a_database_of_its_own() {
    let (one, other) = (TestDb::empty().await, TestDb::empty().await);
    assert_ne!(one.name(), other.name());
    let client = one.client().await;
    client.batch_execute("create table here (x int)").await.unwrap();
    let there = other.client().await.query("select 1 from pg_class where relname = 'here'", &[]).await.unwrap();
    assert!(there.is_empty());
    assert_eq!(client.query_one("select current_database()", &[]).await.unwrap().get::<_, &str>(0), one.name());
}

#[tokio::test]
async fn the_url_of_a_test_database_leads_to_it() {
    let db = TestDb::empty().await;
    let (client, connection) = tokio_postgres::connect(&db.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(client.query_one("select current_database()", &[]).await.unwrap().get::<_, &str>(0), db.name());
}

#[tokio::test]
async fn a_dropped_test_database_is_gone_although_somebody_is_connected() {
    let (gone, db) = (TestDb::empty().await, TestDb::empty().await);
    let _connected = gone.client().await;
    let name = gone.name().to_owned();
    drop(gone);
    let client = db.client().await;
    crate::support::eventually("the database to be dropped", async || {
        client.query("select 1 from pg_database where datname = $1", &[&name]).await.unwrap().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
#[should_panic(expected = "in vain for a fact that never comes")]
async fn waiting_is_bounded() {
    let bound = std::time::Duration::from_millis(50);
    eventually_within(bound, "a fact that never comes", async || None::<()>).await;
}

#[tokio::test]
async fn the_processes_of_a_test_end_with_it() {
    let orch = Orch::without_database();
    let dir = orch.path("");
    let mut sleeper = tokio::process::Command::new("sleep").arg("1000").current_dir(&dir).spawn().unwrap();
    let pid = sleeper.id().unwrap() as i32;
    crate::support::eventually("the process to be found", async || {
        processes_beneath(&dir).contains(&pid).then_some(())
    })
    .await;
    drop(orch);
    assert!(!sleeper.wait().await.unwrap().success());
}
