//! Row 34: every connection that the server allows is taken by others. What a replica has it keeps: renewals go on, and so do
//! jobs. Where a renewal's connection is lost as well, nobody's is free for it: that is an outage, and its lease decides.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, Config, NoTls, error::SqlState};
use tokio_util::sync::CancellationToken;

use crate::{
    bound::{HEARTBEAT, IN_TIME, LEASE, REAP_GRACE},
    case::{BOUND, Case},
    support::{eventually, eventually_within, say},
    witness,
};

/// Whoever takes each connection that becomes free, until it is told to let go of all.
struct Greedy {
    let_go: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Greedy {
    /// Takes what there is, and goes on.
    async fn start(config: Config) -> Self {
        let mut taken: Vec<Client> = Vec::new();
        while let Some(client) = take(&config).await {
            taken.push(client);
        }
        let let_go = CancellationToken::new();
        let told = let_go.clone();
        let task = tokio::spawn(async move {
            while !told.is_cancelled() {
                match take(&config).await {
                    Some(client) => taken.push(client),
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        });
        Self { let_go, task }
    }

    async fn let_go(self) {
        self.let_go.cancel();
        self.task.await.unwrap();
    }
}

/// A connection, unless there are too many.
async fn take(config: &Config) -> Option<Client> {
    match config.connect(NoTls).await {
        Ok((client, connection)) => {
            tokio::spawn(connection);
            Some(client)
        }
        Err(error) => {
            assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS), "{error:?}");
            None
        }
    }
}

pub(crate) async fn renewals_go_on_and_nothing_is_lost(case: &mut Case) {
    case.move_to_own_server_with("max_connections = 40").await;
    let go = case.orch.path("go");
    case.agent("long", &format!("until [ -e {} ]; do sleep 0.2; done", go.display()), "");
    case.agent("short", "sleep 0.3", "");
    case.add_node("a").up().await;
    let mut long = Vec::new();
    for _ in 0..4 {
        long.push(case.enqueue("long").await);
    }
    for job in &long {
        case.until_alive(*job).await;
    }
    let former = case.replica_id("a").await;

    // For longer than anybody lives without a renewal.
    let greedy = Greedy::start(case.config()).await;
    let began = Instant::now();
    let mut short = Vec::new();
    eventually_within(BOUND + BOUND, "more than a lease to pass", async || {
        let left =
            "select extract(epoch from lease_until - clock_timestamp())::float8 from orch.replicas where name = 'a'";
        let left: f64 = case.sql.query_one(left, &[]).await.unwrap().get(0);
        assert!(left > LEASE.saturating_sub(HEARTBEAT * 3).as_secs_f64(), "the lease is not renewed: {left:.2} s left");
        if short.len() < 10 {
            short.push(case.enqueue("short").await);
        }
        (began.elapsed() > LEASE + REAP_GRACE).then_some(())
    })
    .await;
    let done = "select count(*) from orch.jobs where id = any($1) and status = 'succeeded'";
    let done: i64 = case.sql.query_one(done, &[&short]).await.unwrap().get(0);
    say(&format!("row 34: {done} of {} jobs were done without a free connection", short.len()));
    assert!(done > 0, "the replica has connections, and does nothing with them");

    // Now it loses its own, the renewal's among them, and others have them at once.
    let began = Instant::now();
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'orch'";
    case.sql.execute(end, &[]).await.unwrap();
    eventually("the replica to be refused a connection for its renewals", async || {
        case.node("a").log().contains("failed to renew the lease").then_some(())
    })
    .await;
    short.push(case.enqueue("short").await);
    greedy.let_go().await;
    let took = began.elapsed();
    assert!(took < IN_TIME, "the machine is too slow for this row: {took:?}");
    for job in &short {
        case.until(*job, "succeeded", BOUND).await;
        assert_eq!(witness::intervals(&case.witness(), *job).len(), 1, "job {job} was started once");
    }
    std::fs::write(&go, "").unwrap();
    for job in &long {
        case.until(*job, "succeeded", BOUND).await;
        assert_eq!(case.outcomes(*job).await, [Some("succeeded".to_owned())], "job {job} was not touched");
    }
    assert_eq!(case.replica_id("a").await, former, "it did not have to register anew");
}
