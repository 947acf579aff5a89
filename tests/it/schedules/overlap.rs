//! What becomes of a tick while the job of the one before is live.

use orch::model::Outcome;
use tokio_postgres::Client;

use super::{due_for, of_s, tick, with_schedule};
use crate::{played::Played, runs::no_violation, support::TestDb};

async fn replica(test: &TestDb) -> Played {
    Played::on(test, &["a"]).await
}

/// The statuses of all jobs, in order.
async fn statuses(client: &Client) -> Vec<String> {
    let rows = client.query("select status from orch.jobs order by id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn skip_leaves_the_tick_out_and_says_so_as_long_as_the_job_is_live_in_whatever_way() {
    let (test, client, db) = with_schedule("overlap", "'skip'").await;
    let played = replica(&test).await;
    due_for(&client, 0).await;
    assert_eq!(tick(&db).await.fired, 1);
    for state in ["queued", "held", "running"] {
        let claimed = match state {
            "held" => {
                client.batch_execute("select orch.hold(1)").await.unwrap();
                None
            }
            "running" => {
                client.batch_execute("select orch.release(1)").await.unwrap();
                played.claim().await
            }
            _ => None,
        };
        due_for(&client, 0).await;
        let ticked = tick(&db).await;
        assert_eq!((ticked.fired, ticked.skipped), (0, 1), "{state}");
        assert_eq!(of_s(&client, "last_answer").await.as_deref(), Some("skipped"));
        if let Some(claimed) = claimed {
            played.settle(claimed, Outcome::Failed).await;
        }
    }
    assert_eq!(of_s(&client, "skipped").await.as_deref(), Some("3"));
    due_for(&client, 0).await;
    assert_eq!(tick(&db).await.fired, 1, "it has ended");
    assert_eq!(of_s(&client, "last_answer || ' ' || last_job_id").await.as_deref(), Some("fired 2"));
    no_violation(&client).await;
}

#[tokio::test]
async fn queue_runs_one_after_the_other() {
    let (test, client, db) = with_schedule("overlap, catch_up", "'queue', 'all'").await;
    let played = replica(&test).await;
    due_for(&client, 0).await;
    tick(&db).await;
    due_for(&client, 0).await;
    tick(&db).await;
    for job in 1..=2 {
        let claimed = played.claim().await.unwrap();
        assert_eq!(claimed.owned.job_id().0, job, "in their order");
        assert!(played.claim().await.is_none(), "never two at a time");
        played.settle(claimed, Outcome::Succeeded).await;
    }
    no_violation(&client).await;
}

#[tokio::test]
async fn replace_cancels_a_waiting_job_at_once_and_a_running_one_before_the_new_one_starts() {
    let (test, client, db) = with_schedule("overlap", "'replace'").await;
    let played = replica(&test).await;
    for _ in 0..2 {
        due_for(&client, 0).await;
        assert_eq!(tick(&db).await.fired, 1);
    }
    assert_eq!(statuses(&client).await, ["cancelled", "queued"]);
    let running = played.claim().await.unwrap();
    for _ in 0..2 {
        due_for(&client, 0).await;
        assert_eq!(tick(&db).await.fired, 1);
    }
    assert_eq!(statuses(&client).await, ["cancelled", "running", "cancelled", "queued"], "only the latest waits");
    let asked = "select cancel_requested_at is not null from orch.jobs where id = 2";
    assert!(client.query_one(asked, &[]).await.unwrap().get::<_, bool>(0));
    assert!(played.claim().await.is_none(), "the old one has not ended");
    played.settle(running, Outcome::Cancelled).await;
    assert_eq!(played.claim().await.unwrap().owned.job_id().0, 4);
    assert_eq!(statuses(&client).await, ["cancelled", "cancelled", "cancelled", "running"]);
    no_violation(&client).await;
}

#[tokio::test]
async fn a_predecessor_that_the_gate_does_not_hold_back_is_waited_for() {
    // It was enqueued under skip, without a gate, and runs on while the policy is changed.
    for policy in ["replace", "queue"] {
        let (test, client, db) = with_schedule("overlap", "'skip'").await;
        let played = replica(&test).await;
        due_for(&client, 0).await;
        tick(&db).await;
        let running = played.claim().await.unwrap();
        client.execute("update orch.schedules set overlap = $1", &[&policy]).await.unwrap();
        due_for(&client, 0).await;
        for _ in 0..2 {
            let ticked = tick(&db).await;
            assert_eq!(ticked.fired, 0, "{policy}");
            assert!(ticked.wait.unwrap().as_secs_f64() < 1.0, "and is looked at again soon");
        }
        assert_eq!(of_s(&client, "next_tick_at <= now()").await.as_deref(), Some("true"), "the tick is not lost");
        let outcome = if policy == "replace" { Outcome::Cancelled } else { Outcome::Succeeded };
        played.settle(running, outcome).await;
        assert_eq!((tick(&db).await.fired, tick(&db).await.fired), (1, 0), "{policy}");
        no_violation(&client).await;
    }
}

#[tokio::test]
async fn a_waiting_predecessor_under_another_gate_is_taken_under_the_new_one() {
    let (test, client, db) = with_schedule("overlap, gate", "'queue', 'old'").await;
    let played = replica(&test).await;
    due_for(&client, 0).await;
    tick(&db).await;
    client.batch_execute("update orch.schedules set gate = 'new'").await.unwrap();
    due_for(&client, 0).await;
    assert_eq!(tick(&db).await.fired, 1);
    let first = played.claim().await.unwrap();
    assert!(played.claim().await.is_none());
    played.settle(first, Outcome::Succeeded).await;
    assert!(played.claim().await.is_some());
}

#[tokio::test]
async fn the_process_of_a_job_that_was_taken_from_its_replica_is_waited_for() {
    let (test, client, db) = with_schedule("overlap", "'replace'").await;
    let played = replica(&test).await;
    due_for(&client, 0).await;
    tick(&db).await;
    let taken = played.claim().await.unwrap();
    client.batch_execute("update orch.jobs set status = 'queued'").await.unwrap();
    due_for(&client, 0).await;
    assert_eq!(tick(&db).await.fired, 0);
    assert_eq!(statuses(&client).await, ["cancelled"]);
    let (job, run) = (taken.owned.job_id(), taken.owned.run_id());
    assert!(played.db.acknowledge_ended(played.replica_id, job, Some(run)).await.unwrap());
    assert_eq!(tick(&db).await.fired, 1);
    no_violation(&client).await;
}

#[tokio::test]
async fn a_job_or_a_schedule_that_somebody_has_locked_keeps_no_other_schedule_waiting() {
    let (test, client, db) = with_schedule("overlap", "'replace'").await;
    client
        .batch_execute("insert into orch.schedules (name, agent, every) values ('other', 'b', '1 min')")
        .await
        .unwrap();
    due_for(&client, 0).await;
    assert_eq!(tick(&db).await.fired, 2);
    client.batch_execute("select orch.cancel(id) from orch.jobs where agent = 'b'").await.unwrap();
    let mut operator = test.client().await;
    for lock in [
        "select id from orch.jobs where agent = 'a' for update",
        "select name from orch.schedules where name = 's' for update",
    ] {
        due_for(&client, 0).await;
        let transaction = operator.transaction().await.unwrap();
        transaction.batch_execute(lock).await.unwrap();
        assert_eq!(tick(&db).await.fired, 1, "{lock}");
        client.batch_execute("select orch.cancel(max(id)) from orch.jobs where agent = 'b'").await.unwrap();
        transaction.rollback().await.unwrap();
        assert_eq!(tick(&db).await.fired, 1, "{lock}: let go, it is replaced");
    }
}
