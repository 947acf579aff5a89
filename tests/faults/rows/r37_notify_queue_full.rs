//! Row 37: the notification queue of the server is full, since somebody listens and sits in a transaction. A commit that
//! notifies fails then; enqueue, claim and settle still commit, and jobs are found by polling.

use tokio_postgres::{NoTls, error::SqlState};

use crate::{
    case::{BOUND, Case},
    support::{eventually, say},
};

pub(crate) async fn enqueue_claim_and_settle_go_on(case: &mut Case) {
    case.move_to_own_server_with("max_notify_queue_pages = 64").await;
    case.agent("quick", "exit 0", "");
    case.add_node("a").up().await;
    let warm = case.enqueue("quick").await;
    case.until(warm, "succeeded", BOUND).await;

    let (sitter, connection) = case.config().connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    sitter.batch_execute("listen elsewhere").await.unwrap();
    sitter.batch_execute("begin; select 1").await.unwrap();
    let filling = "select pg_notify('elsewhere', n || repeat('x', 7000)) from generate_series(1, 10) n";
    let full = loop {
        if let Err(error) = case.sql.execute(filling, &[]).await {
            break error;
        }
    };
    assert_eq!(full.code(), Some(&SqlState::PROGRAM_LIMIT_EXCEEDED), "{full}");
    let waits = "select from pg_locks where locktype = 'advisory' and classid = 1869767528 and objid <> 0";
    eventually("the replica to wait for a wake-up", async || {
        (!case.sql.query(waits, &[]).await.unwrap().is_empty()).then_some(())
    })
    .await;
    // As an enqueue would that knew nothing of the queue.
    while case.sql.execute("select pg_notify('elsewhere', repeat('y', 7000))", &[]).await.is_ok() {}

    for _ in 0..20 {
        let job = case.enqueue("quick").await;
        case.until(job, "succeeded", BOUND).await;
    }
    let usage: f64 = case.sql.query_one("select pg_notification_queue_usage()", &[]).await.unwrap().get(0);
    say(&format!("row 37: the queue was {:.0} % full to the end", usage * 100.0));
    assert!(usage > 0.9, "the queue is not full any more: {usage}");

    // Once the listener has gone on, wake-ups are sent again.
    drop(sitter);
    connection.abort();
    eventually("an enqueue to wake the replica again", async || {
        let woken: i32 = case.sql.query_one("select orch.wake()", &[]).await.unwrap().get(0);
        (woken == 1).then_some(())
    })
    .await;
}
