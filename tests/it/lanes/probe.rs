//! Closed limits: nothing starts, then one probe, then the rest.

use std::time::Duration;

use orch::{
    db::{jobs::When, runs::Ending},
    model::{JobStatus, Outcome},
};
use tokio_postgres::Client;

use super::{Claimer, closing, ended, ids, one, settle, stage, succeed};

/// As if the time until which it is closed had passed.
async fn passes(client: &Client, limit: &str) {
    let sql = "update orch.limits set closed_until = now() where name = $1 and closed_until is not null";
    assert_eq!(client.execute(sql, &[&limit]).await.unwrap(), 1);
    // What waited for it becomes due with it.
    client.batch_execute("update orch.jobs set run_at = now() where claimable and run_at > now()").await.unwrap();
}

#[tokio::test]
async fn a_closed_limit_lets_one_probe_through_and_then_the_rest() {
    let (test, client, mut claimer) = stage().await;
    client
        .batch_execute(
            "select orch.set_limit('api');
             select orch.enqueue('a', limits => '{api}') from generate_series(1, 6)",
        )
        .await
        .unwrap();
    let mut running = claimer.fill(2).await;
    client.batch_execute("select orch.close_limit('api', now() + interval '1 h', 'too much')").await.unwrap();
    assert_eq!(claimer.fill(9).await.len(), 0, "it is closed");
    passes(&client, "api").await;
    assert_eq!(one(&client, "select probing || ' ' || room from orch.limit_use").await, "true 1");
    let mut other = Claimer::new(&test.db(), &["a"], &[]).await;
    let probe = claimer.fill(9).await;
    assert_eq!((probe.len(), other.fill(9).await.len()), (1, 0), "whatever ran before it was closed");
    succeed(&test.db(), vec![running.pop().unwrap()]).await;
    assert_eq!(other.fill(9).await.len(), 0, "the end of a run from before it was closed says nothing");
    // A probe that is lost or taken has said nothing: another one tries.
    settle(&test.db(), probe.into_iter().map(|job| (job.owned, ended(Outcome::Interrupted)))).await;
    let probe = other.fill(9).await;
    assert_eq!(probe.len(), 1);
    succeed(&test.db(), probe).await;
    assert_eq!(one(&client, "select coalesce(closed_until::text, 'open') from orch.limit_use").await, "open");
    assert_eq!(
        one(&client, "select count(*) from orch.events where kind = 'limit_opened' and run_id is not null").await,
        "1"
    );
    assert_eq!(claimer.fill(9).await.len(), 3);
}

#[tokio::test]
async fn a_probe_that_closes_it_again_loses_nothing_and_leaves_failures_as_it_was() {
    let (test, client, mut claimer) = stage().await;
    client
        .batch_execute(
            "select orch.set_limit('api', 5); select orch.enqueue('a', limits => '{api}') from generate_series(1, 3)",
        )
        .await
        .unwrap();
    let running = claimer.fill(3).await;
    let statuses = settle(&test.db(), running.into_iter().map(|job| (job.owned, closing("api", 300)))).await;
    assert_eq!(statuses, [JobStatus::Queued; 3]);
    for round in 1..=120 {
        passes(&client, "api").await;
        let probe = claimer.fill(9).await;
        assert_eq!(probe.len(), 1, "round {round}");
        let status = settle(&test.db(), probe.into_iter().map(|job| (job.owned, closing("api", 300)))).await;
        assert_eq!(status, [JobStatus::Queued], "round {round}: however often, it is not held (max_transient is 100)");
        assert_eq!(claimer.fill(9).await.len(), 0);
    }
    let sums =
        "select sum(failures) || ' ' || sum(transient_count) || ' ' || count(*) from orch.jobs where status = 'queued'";
    assert_eq!(one(&client, sums).await, "0 0 3");
    passes(&client, "api").await;
    let probe = claimer.fill(9).await;
    succeed(&test.db(), probe).await;
    assert_eq!(claimer.fill(9).await.len(), 2);
}

#[tokio::test]
async fn a_run_closes_what_its_job_needs_and_nothing_else() {
    let (test, client, mut claimer) = stage().await;
    client
        .batch_execute(
            "select orch.set_limit('mine'), orch.set_limit('other');
             select orch.enqueue('a', limits => '{mine}', project => 'p') from generate_series(1, 5)",
        )
        .await
        .unwrap();
    let mut running = claimer.fill(5).await.into_iter();
    for (limit, closed) in [("other", false), ("nowhere", false), ("all", true), ("project:p", true), ("mine", true)] {
        let job = running.next().unwrap();
        let run_id = job.owned.run_id();
        settle(&test.db(), [(job.owned, closing(limit, 60))]).await;
        let sql = "select count(*) > 0 from orch.limit_use where name = $1 and room = 0 and reason = 'used up'";
        assert_eq!(client.query_one(sql, &[&limit]).await.unwrap().get::<_, bool>(0), closed, "{limit}");
        let error = format!("select error from orch.agent_runs where run_id = '{run_id}'");
        let told = one(&client, &error).await.contains("its job does not need");
        assert_eq!(told, !closed, "{limit}");
    }
    assert_eq!(one(&client, "select count(*) from orch.limits where name = 'nowhere'").await, "0");
}

#[tokio::test]
async fn who_closes_nothing_and_waits_for_it_is_counted_and_waits_like_any_other() {
    let (test, client, mut claimer) = stage().await;
    client.batch_execute("select orch.set_limit('mine'), orch.enqueue('a', limits => '{mine}')").await.unwrap();
    for (time, (limit, seconds)) in [("nowhere", 600), ("mine", 0)].into_iter().enumerate() {
        let job = claimer.claim(1).await.pop().unwrap();
        let waits_for = Some(When::In(Duration::from_secs(seconds)));
        settle(&test.db(), [(job.owned, Ending { retry_at: waits_for, ..closing(limit, seconds) })]).await;
        let told = "select transient_count, closed_until is null, run_at > now() and run_at < now() + interval '5 min'
                      from orch.jobs, orch.limits";
        let row = client.query_one(told, &[]).await.unwrap();
        let (count, open, waits): (i32, bool, bool) = (row.get(0), row.get(1), row.get(2));
        assert_eq!((count, open, waits), (time as i32 + 1, true, true), "{limit}");
        assert!(
            one(&client, "select error from orch.agent_runs order by ended_at desc limit 1")
                .await
                .contains("closed no limit")
        );
        client.batch_execute("update orch.jobs set run_at = now()").await.unwrap();
    }
}

#[tokio::test]
async fn the_later_time_counts_and_an_operators_closing_stands() {
    let (test, client, mut claimer) = stage().await;
    client
        .batch_execute(
            "select orch.set_limit('api'); select orch.enqueue('a', limits => '{api}') from generate_series(1, 3)",
        )
        .await
        .unwrap();
    let mut running = claimer.fill(3).await;
    let both = [600, 60].map(|seconds| (running.pop().unwrap().owned, closing("api", seconds)));
    settle(&test.db(), both).await;
    let left = "select round(extract(epoch from closed_until - now()) / 60) from orch.limits";
    assert_eq!(one(&client, left).await, "10");
    client.batch_execute("select orch.close_limit('api', reason => 'for good')").await.unwrap();
    settle(&test.db(), [(running.pop().unwrap().owned, closing("api", 60))]).await;
    assert_eq!(one(&client, "select closed_until || ' ' || reason from orch.limits").await, "infinity for good");
    client.batch_execute("select orch.open_limit('api')").await.unwrap();
    client.batch_execute("update orch.jobs set run_at = now()").await.unwrap();
    assert_eq!(ids(&claimer.fill(9).await).len(), 3, "opened by hand there is no probe");
}

#[tokio::test]
async fn what_is_paused_starts_nothing_and_resumes_at_once_and_whole() {
    let (test, client, mut claimer) = stage().await;
    client
        .batch_execute("select orch.enqueue('a', project => p) from unnest('{p,p,p,q,q,q}'::text[]) p")
        .await
        .unwrap();
    for (what, left) in [("all", 0), ("project:p", 3), ("agent:a", 0), ("agent:other", 6), ("project:nobody", 6)] {
        client.execute("select orch.pause($1, reason => 'a deploy')", &[&what]).await.unwrap();
        let running = claimer.fill(9).await;
        assert_eq!(running.len(), left, "{what}");
        settle(&test.db(), running.into_iter().map(|job| (job.owned, ended(Outcome::Interrupted)))).await;
        client.batch_execute("update orch.jobs set run_at = now(), interrupted_count = 0").await.unwrap();
        assert!(client.query_one("select orch.resume($1)", &[&what]).await.unwrap().get::<_, bool>(0), "{what}");
    }
    client.batch_execute("select orch.pause('project:p', now() + interval '1 h')").await.unwrap();
    assert_eq!(claimer.fill(9).await.len(), 3);
    passes(&client, "project:p").await;
    assert_eq!(claimer.fill(9).await.len(), 3, "a pause that is over needs no probe");
}

#[tokio::test]
async fn a_settle_that_finds_its_limit_locked_is_sent_again_and_stops_no_other() {
    let (test, client, mut claimer) = stage().await;
    client
        .batch_execute(
            "select orch.set_limit('api'); select orch.enqueue('a', limits => '{api}'); select orch.enqueue('a')",
        )
        .await
        .unwrap();
    let running = claimer.fill(9).await;
    let operator = test.client().await;
    operator.batch_execute("begin; update orch.limits set max_running = 1").await.unwrap();
    let endings = [closing("api", 60), ended(Outcome::Succeeded)];
    let batch = running.into_iter().zip(endings).map(|(job, ending)| job.owned.ended(ending)).collect();
    let mut again = Vec::new();
    for answer in test.db().settle_runs(batch).await.unwrap() {
        match answer {
            orch::db::runs::Answer::Busy(settlement) => again.push(settlement),
            orch::db::runs::Answer::Settled(_, status) => assert_eq!(status, JobStatus::Succeeded),
            other => panic!("{other:?}"),
        }
    }
    operator.batch_execute("commit").await.unwrap();
    assert_eq!(again.len(), 1);
    test.db().settle_runs(again).await.unwrap();
    assert_eq!(one(&client, "select room from orch.limit_use").await, "0");
}
