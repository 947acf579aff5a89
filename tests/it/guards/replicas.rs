//! Replicas: dead and left are for ever, and what is live is not taken away.

use super::{NOBODY, job, live_replica, one, refused};
use crate::support::TestDb;

#[tokio::test]
async fn a_replica_that_is_dead_or_has_left_never_lives_again() {
    let db = TestDb::new().await;
    let client = db.client().await;
    for state in ["dead", "left"] {
        client
            .batch_execute(&format!(
                "insert into orch.replicas (replica_id, name, host, state, lease_until)
                 values ('{NOBODY}', 'r', 'h', '{state}', now())"
            ))
            .await
            .unwrap();
        for wish in ["live", "dead", "left"].into_iter().filter(|wish| *wish != state) {
            let (code, message) = refused(&client, &format!("update orch.replicas set state = '{wish}'")).await;
            assert_eq!(code, "OR006");
            assert!(message.contains(&format!("is {state}, for ever")), "{message}");
        }
        let again = format!(
            "insert into orch.replicas (replica_id, name, host, lease_until) values ('{NOBODY}', 'r', 'h', now())"
        );
        assert_eq!(refused(&client, &again).await.0, "23505");
        client.batch_execute("delete from orch.replicas").await.unwrap();
    }
}

#[tokio::test]
async fn a_live_replica_is_neither_deleted_nor_truncated_nor_renamed() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    for way in [
        "delete from orch.replicas".to_owned(),
        "truncate orch.replicas".to_owned(),
        format!("update orch.replicas set replica_id = '{NOBODY}'"),
    ] {
        assert_eq!(refused(&client, &way).await.0, "OR006", "{way}");
    }
    client.batch_execute("update orch.replicas set lease_until = now(), draining = true").await.unwrap();
    client.batch_execute("update orch.replicas set state = 'dead'; truncate orch.replicas").await.unwrap();
}

#[tokio::test]
async fn a_replica_leaves_only_when_it_owns_nothing() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    let id = job(&client, "running").await;
    let (code, message) = refused(&client, "update orch.replicas set state = 'left'").await;
    assert_eq!((code.as_str(), message.contains("has open runs")), ("OR006", true), "{message}");
    client.batch_execute(&format!("update orch.jobs set status = 'queued' where id = {id}")).await.unwrap();
    client.batch_execute("update orch.replicas set state = 'left'").await.unwrap();
}

#[tokio::test]
async fn a_running_job_is_neither_deleted_nor_truncated() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    let id = job(&client, "running").await;
    job(&client, "queued").await;
    for way in ["delete from orch.jobs", "truncate orch.jobs"] {
        assert_eq!(refused(&client, way).await.0, "OR001", "{way}");
    }
    assert_eq!(one(&client, "select count(*) from orch.jobs").await, "2");
    client.batch_execute(&format!("delete from orch.jobs where id <> {id}")).await.unwrap();
}
