//! Pruning: what ended long ago goes with all that belongs to it, and nothing that lives or is young.

use std::time::Duration;

use orch::{
    db::logs::Chunk,
    model::{JobId, Outcome},
    ops::prune::{Pruned, prune},
};
use tokio_postgres::Client;

use crate::{played::Played, runs::no_violation, support::TestDb};

const KEEP: Duration = Duration::from_hours(14 * 24);

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Moves everything that has happened to a job so far this many days back.
async fn age(client: &Client, job: JobId, days: i32) {
    client
        .execute(
            "update orch.jobs set created_at = created_at - make_interval(days => $2),
                    finished_at = finished_at - make_interval(days => $2),
                    failed_at = failed_at - make_interval(days => $2) where id = $1",
            &[&job.0, &days],
        )
        .await
        .unwrap();
}

/// A job that ran once, with output of so many chunks.
async fn ran(played: &Played, client: &Client, outcome: Outcome, chunks: u64) -> JobId {
    client.batch_execute("select orch.enqueue('a')").await.unwrap();
    let claimed = played.claim().await.unwrap();
    let (job, run) = (claimed.owned.job_id(), claimed.owned.run_id());
    for n in 0..chunks {
        let chunk = Chunk { position: n * 3, bytes: b"abc".to_vec() };
        played.db.ship_logs(&[(run, chunk)]).await.unwrap();
    }
    played.settle(claimed, outcome).await;
    job
}

#[tokio::test]
async fn jobs_that_ended_long_ago_go_with_their_runs_and_logs_and_nothing_else_does() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let played = Played::on(&db, &["a"]).await;
    let old = ran(&played, &client, Outcome::Succeeded, 200).await;
    let old_failure = ran(&played, &client, Outcome::Failed, 1).await;
    for job in [old, old_failure] {
        age(&client, job, 15).await;
    }
    let young = ran(&played, &client, Outcome::Succeeded, 2).await;
    age(&client, young, 13).await;
    // Long ago a job failed, and is wished for again: it lives, and its old run is its history.
    let retried = ran(&played, &client, Outcome::Failed, 2).await;
    age(&client, retried, 400).await;
    client.execute("select orch.retry($1)", &[&retried.0]).await.unwrap();
    client.execute("select orch.hold($1)", &[&retried.0]).await.unwrap();
    // Enqueued long ago and running since.
    client.batch_execute("select orch.enqueue('a')").await.unwrap();
    let running = played.claim().await.unwrap();
    age(&client, running.owned.job_id(), 400).await;
    // A retried one that ended just now although it was enqueued long ago.
    let again = ran(&played, &client, Outcome::Succeeded, 1).await;
    client
        .execute("update orch.jobs set created_at = created_at - interval '1 year' where id = $1", &[&again.0])
        .await
        .unwrap();

    let (one, other) = tokio::join!(prune(&played.db, KEEP), prune(&played.db, KEEP));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(one.jobs + other.jobs, 2, "{one:?} {other:?}: side by side, each once");
    let mut left: Vec<i64> =
        client.query("select id from orch.jobs", &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    left.sort_unstable();
    assert_eq!(left, [young.0, retried.0, running.owned.job_id().0, again.0]);
    let strays =
        "select count(*) from orch.agent_runs r where not exists (select from orch.jobs j where j.id = r.job_id)";
    assert_eq!(number(&client, strays).await, 0);
    let strays = "select count(*) from orch.run_logs l where not exists
                      (select from orch.agent_runs r where r.run_id = l.run_id)";
    assert_eq!(number(&client, strays).await, 0);
    assert_eq!(number(&client, "select count(*) from orch.agent_runs").await, 4);
    assert_eq!(number(&client, "select count(*) from orch.run_logs").await, 5);
    no_violation(&client).await;
    assert_eq!(prune(&played.db, KEEP).await.unwrap(), Pruned::default());
    // What runs may still end, and be late for nothing.
    played.settle(running, Outcome::Succeeded).await;
}

#[tokio::test]
async fn a_job_that_somebody_has_locked_is_passed_over() {
    let db = TestDb::new().await;
    let (client, mut other) = (db.client().await, db.client().await);
    let played = Played::on(&db, &["a"]).await;
    let jobs = [ran(&played, &client, Outcome::Failed, 1).await, ran(&played, &client, Outcome::Failed, 1).await];
    for job in jobs {
        age(&client, job, 15).await;
    }
    let retry = other.transaction().await.unwrap();
    retry.execute("select orch.retry($1)", &[&jobs[0].0]).await.unwrap();
    let pruned = prune(&played.db, KEEP).await.unwrap();
    assert_eq!((pruned.jobs, pruned.chunks), (1, 1));
    retry.commit().await.unwrap();
    assert_eq!(number(&client, "select count(*) from orch.run_logs").await, 1, "the history of what lives again");
    assert_eq!(prune(&played.db, KEEP).await.unwrap(), Pruned::default());
}

#[tokio::test]
async fn a_long_history_is_walked_in_pieces_and_only_as_far_as_it_is_old() {
    let db = TestDb::new().await;
    let client = db.client().await;
    client
        .batch_execute(
            "insert into orch.jobs (agent, status, claimable, created_at, finished_at)
             select 'a', 'succeeded', false, now() - interval '20 days', now() - interval '20 days' + n * interval '1 day'
               from generate_series(0, 9) n, generate_series(1, 100);
             insert into orch.jobs (agent, status, claimable, finished_at)
             select 'a', 'succeeded', false, now() from generate_series(1, 1000)",
        )
        .await
        .unwrap();
    let pool = db.db();
    let pruned = prune(&pool, KEEP).await.unwrap();
    assert_eq!(pruned.jobs, 700, "those that ended 14 to 20 days ago");
    assert_eq!(number(&client, "select count(*) from orch.jobs").await, 1300);
    let found = pool.find_old_jobs(JobId(0), 1000, KEEP).await.unwrap();
    assert!(found.jobs.is_empty() && found.next_after.is_some(), "what was enqueued long ago is walked over");
    let end = pool.find_old_jobs(found.next_after.unwrap(), 100, KEEP).await.unwrap();
    assert_eq!((end.jobs.len(), end.next_after), (0, None), "what was enqueued since is not");
}

#[tokio::test]
async fn replicas_that_are_gone_and_events_go_and_a_live_replica_or_one_that_answers_for_something_stays() {
    let db = TestDb::new().await;
    let client = db.client().await;
    client
        .batch_execute(
            "insert into orch.replicas (replica_id, name, host, state, lease_until)
             select ('00000000-0000-7000-8000-00000000000' || n)::uuid, name, 'h', state, now() - age
               from (values (1, 'long dead', 'dead', interval '15 days'), (2, 'long gone', 'left', interval '15 days'),
                            (3, 'just dead', 'dead', interval '1 day'), (4, 'late', 'live', interval '15 days'),
                            (5, 'owes a run', 'dead', interval '15 days'), (6, 'awaited', 'dead', interval '15 days'))
                    as r (n, name, state, age);
             insert into orch.jobs (agent, status, claimable, attempt, run_id, replica_id, started_at)
             values ('a', 'running', false, 1, '00000000-0000-7000-8000-0000000000ff',
                     '00000000-0000-7000-8000-000000000005', now());
             insert into orch.agent_runs (run_id, job_id, attempt, replica_id)
             select run_id, id, 1, replica_id from orch.jobs where status = 'running';
             insert into orch.jobs (agent, claimable, awaits_replica)
             values ('a', false, '00000000-0000-7000-8000-000000000006');
             insert into orch.events (kind, at) select 'held', now() - interval '15 days' from generate_series(1, 700);
             insert into orch.events (kind) select 'held' from generate_series(1, 10)",
        )
        .await
        .unwrap();
    let pruned = prune(&db.db(), KEEP).await.unwrap();
    assert_eq!((pruned.replicas, pruned.events), (2, 700));
    let left = client.query("select name from orch.replicas order by replica_id", &[]).await.unwrap();
    let left: Vec<String> = left.iter().map(|row| row.get(0)).collect();
    assert_eq!(left, ["just dead", "late", "owes a run", "awaited"]);
    assert_eq!(number(&client, "select count(*) from orch.events").await, 10);
}
