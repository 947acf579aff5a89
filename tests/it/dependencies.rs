//! Jobs that run after others: what they wait for, what becomes of them, and that nobody is forgotten whoever dies when.

use orch::{
    db::{
        reaper::Timing,
        runs::{Answer, Ending},
    },
    model::{ClosedBy, JobId, Outcome},
    replica::{Reaper, resolve::resolve},
};
use tokio_postgres::Client;

use crate::{
    guards::{one, refused, violations},
    played::Played,
    support::TestDb,
};

mod races;
mod refusals;
mod surfaces;

const TIMING: Timing = Timing { lease: 60.0, heartbeat: 5.0, reap_grace: 5.0 };

/// A database, a replica that the test plays, and a connection.
struct Stage {
    test: TestDb,
    played: Played,
    client: Client,
}

impl Stage {
    async fn new() -> Self {
        let test = TestDb::new().await;
        let (played, client) = (Played::on(&test, &["a"]).await, test.client().await);
        Self { test, played, client }
    }

    /// Enqueues a job with these arguments more.
    async fn enqueue(&self, arguments: &str) -> i64 {
        one(&self.client, &format!("select orch.enqueue('a'{arguments})")).await.parse().unwrap()
    }

    async fn after(&self, before: &[i64]) -> i64 {
        self.enqueue(&format!(", after => array{before:?}::bigint[]")).await
    }

    async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Status, whether it may be claimed, and what it waits for.
    async fn stands(&self, id: i64) -> String {
        let sql = format!("select concat_ws(' ', status, claimable, waits_for) from orch.jobs where id = {id}");
        one(&self.client, &sql).await
    }

    /// Runs the next due job to this end, and nothing else: its replica dies before it looks who waits.
    async fn run(&self, outcome: Outcome) -> i64 {
        let claimed = self.played.claim().await.expect("a job is due");
        let id = claimed.owned.job_id().0;
        self.played.settle(claimed, outcome).await;
        id
    }

    /// What a replica does right after a settle.
    async fn resolve(&self, ended: &[i64]) -> (usize, usize) {
        let ended = ended.iter().copied().map(JobId).collect();
        let resolved = resolve(&self.played.db, ended, Vec::new()).await.unwrap();
        (resolved.released, resolved.cancelled)
    }

    /// A tick of another replica; how many waits it resolved.
    async fn tick(&self) -> usize {
        Reaper::new(TIMING, true).tick(&self.played.db, false).await.unwrap().resolved
    }

    async fn healthy(&self) {
        assert_eq!(violations(&self.client).await, []);
        let mismatch = "select count(*) from orch.violations";
        assert_eq!(one(&self.client, mismatch).await, "0");
    }
}

#[tokio::test]
async fn a_job_runs_once_all_that_it_waits_for_have_succeeded() {
    let stage = Stage::new().await;
    let (a, b) = (stage.enqueue("").await, stage.enqueue("").await);
    let c = stage.after(&[b, a]).await;
    let d = stage.after(&[c]).await;
    assert_eq!(stage.stands(c).await, format!("queued f {{{a},{b}}}"));
    assert_eq!(stage.run(Outcome::Succeeded).await, a);
    assert_eq!(stage.resolve(&[a]).await, (0, 0));
    assert_eq!(stage.run(Outcome::Succeeded).await, b);
    assert!(stage.played.claim().await.is_none(), "nobody has looked yet");
    assert_eq!(stage.resolve(&[b]).await, (1, 0));
    assert_eq!((stage.stands(c).await, stage.stands(d).await), ("queued t".into(), format!("queued f {{{c}}}")));
    stage.healthy().await;
    // What has succeeded is not waited for, and still known.
    let again = stage.after(&[a, c]).await;
    assert_eq!(stage.stands(again).await, format!("queued f {{{c}}}"));
    let alone = stage.after(&[a]).await;
    assert_eq!(stage.stands(alone).await, "queued t");
    assert_eq!(
        one(&stage.client, &format!("select count(*) from orch.job_dependencies where job_id = {alone}")).await,
        "1"
    );
    assert_eq!(stage.run(Outcome::Succeeded).await, c);
    assert_eq!(stage.resolve(&[c]).await, (2, 0));
    for _ in [d, again, alone] {
        stage.run(Outcome::Succeeded).await;
    }
    stage.healthy().await;
    assert_eq!(one(&stage.client, "select count(*) from orch.jobs where status <> 'succeeded'").await, "0");
}

#[tokio::test]
async fn a_settle_says_whether_anybody_runs_after_what_ended() {
    let stage = Stage::new().await;
    let (a, _b) = (stage.enqueue("").await, stage.enqueue("").await);
    stage.after(&[a]).await;
    let said = async |outcome| {
        let claimed = stage.played.claim().await.unwrap();
        let ending = Ending::bare(outcome, ClosedBy::Owner, "as played");
        let answers = stage.played.db.settle_runs(vec![claimed.owned.ended(ending)]).await.unwrap();
        assert!(matches!(answers[..], [Answer::Settled(..)]), "{answers:?}");
        answers.awaited
    };
    assert_eq!(said(Outcome::Transient).await, [], "it has not ended");
    assert_eq!(said(Outcome::Succeeded).await, [], "nobody runs after the other one");
    stage.sql("update orch.jobs set run_at = now() where claimable").await;
    assert_eq!(said(Outcome::Succeeded).await, [JobId(a)]);
}

#[tokio::test]
async fn a_predecessor_that_fails_cancels_all_that_run_after_it_and_says_which_it_was() {
    let stage = Stage::new().await;
    let (a, other) = (stage.enqueue("").await, stage.enqueue("").await);
    let b = stage.after(&[a, other]).await;
    let c = stage.enqueue(&format!(", after => array[{b}::bigint], dedupe_key => 'k'")).await;
    stage.sql(&format!("select orch.hold({c})")).await;
    assert_eq!(stage.run(Outcome::Failed).await, a);
    // Both b, which waits for it, and c, which waits for b and was held, in one go; the other predecessor goes on.
    assert_eq!(stage.resolve(&[a]).await, (0, 2));
    for (id, says) in [
        (b, format!("cancelled: it was to run after job {a}, which failed: as played")),
        (c, format!("cancelled: it was to run after job {b}, which was cancelled: it was to run after job {a}")),
    ] {
        assert_eq!(stage.stands(id).await, "cancelled f");
        let error = one(&stage.client, &format!("select error from orch.jobs where id = {id}")).await;
        assert!(error.starts_with(&says), "{error}");
    }
    let told = "select string_agg(concat_ws(' ', job_id, detail ->> 'was', detail ->> 'after'), '; ' order by id)
                  from orch.events where kind = 'cancelled'";
    assert_eq!(one(&stage.client, told).await, format!("{b} queued {a}; {c} held {b}"));
    stage.healthy().await;
    stage.enqueue(", dedupe_key => 'k', on_conflict => 'refuse'").await;
    assert_eq!(stage.run(Outcome::Succeeded).await, other);
    assert_eq!(stage.resolve(&[other]).await, (0, 0));
}

#[tokio::test]
async fn the_cancel_of_a_waiting_job_cancels_what_runs_after_it_at_once() {
    let stage = Stage::new().await;
    let a = stage.enqueue("").await;
    let b = stage.after(&[a]).await;
    let c = stage.after(&[b]).await;
    let d = stage.after(&[a]).await;
    stage.sql(&format!("select orch.cancel({b})")).await;
    assert_eq!((stage.stands(b).await, stage.stands(c).await), ("cancelled f".into(), "cancelled f".into()));
    assert_eq!(stage.stands(d).await, format!("queued f {{{a}}}"), "it runs after another one");
    // What runs is cancelled by its replica, and that is a settle like any other.
    let claimed = stage.played.claim().await.unwrap();
    stage.sql(&format!("select orch.cancel({a})")).await;
    assert_eq!(stage.stands(d).await, format!("queued f {{{a}}}"));
    stage.played.settle(claimed, Outcome::Cancelled).await;
    assert_eq!(stage.resolve(&[a]).await, (0, 1));
    stage.healthy().await;
}

#[tokio::test]
async fn the_tick_of_any_replica_does_what_nobody_did() {
    let stage = Stage::new().await;
    let a = stage.enqueue("").await;
    let (b, c) = (stage.after(&[a]).await, stage.after(&[a]).await);
    let d = stage.after(&[c]).await;
    assert_eq!(stage.tick().await, 0, "nothing has ended");
    // The replica dies between the settle and its look at who waits.
    stage.run(Outcome::Succeeded).await;
    assert_eq!(stage.tick().await, 2);
    assert_eq!((stage.stands(b).await, stage.stands(c).await), ("queued t".into(), "queued t".into()));
    assert_eq!(stage.tick().await, 0, "once");
    stage.run(Outcome::Succeeded).await;
    assert_eq!(stage.run(Outcome::Failed).await, c);
    assert_eq!(stage.tick().await, 1);
    assert_eq!(stage.stands(d).await, "cancelled f");
    stage.healthy().await;
}

#[tokio::test]
async fn the_walk_of_the_tick_comes_round_piece_by_piece() {
    let stage = Stage::new().await;
    let a = stage.enqueue("").await;
    stage.sql(&format!("select orch.enqueue('a', after => array[{a}::bigint]) from generate_series(1, 5000)")).await;
    stage.run(Outcome::Succeeded).await;
    let mut reaper = Reaper::new(TIMING, true);
    let mut done = Vec::new();
    for _ in 0..4 {
        done.push(reaper.tick(&stage.played.db, false).await.unwrap().resolved);
    }
    assert_eq!(done, [2000, 2000, 1000, 0]);
    // A job with a thousand predecessors is one row of the walk, and not the end of it.
    let ids: Vec<i64> = (2..=1001).collect();
    let many = stage.after(&ids).await;
    let last = stage.after(&[many]).await;
    let found = stage.played.db.walk_waiting(JobId(0), 10, 1).await.unwrap();
    assert_eq!((found.jobs, found.next_after), (vec![], Some(JobId(many))));
    let found = stage.played.db.walk_waiting(JobId(many), 10, 1).await.unwrap();
    assert_eq!((found.jobs, found.next_after), (vec![], None));
    stage.sql(&format!("select orch.cancel({last})")).await;
    stage.healthy().await;
}

#[tokio::test]
async fn of_many_predecessors_not_each_writes_the_row() {
    let stage = Stage::new().await;
    let ids = "select json_agg(id) from (select orch.enqueue('a') as id from generate_series(1, 100)) e";
    let ids: Vec<i64> = serde_json::from_str(&one(&stage.client, ids).await).unwrap();
    let job = stage.after(&ids).await;
    let ctid = async || one(&stage.client, &format!("select ctid from orch.jobs where id = {job}")).await;
    let mut versions = 0;
    for _ in &ids {
        let before = ctid().await;
        let ended = stage.run(Outcome::Succeeded).await;
        stage.resolve(&[ended]).await;
        versions += i32::from(ctid().await != before);
    }
    assert_eq!((stage.stands(job).await.as_str(), versions), ("queued t", 1));
    stage.healthy().await;
}

#[tokio::test]
async fn a_predecessor_that_is_gone_cancels_what_waits_for_it() {
    let stage = Stage::new().await;
    let (a, b) = (stage.enqueue("").await, stage.enqueue("").await);
    let (c, d) = (stage.after(&[a, b]).await, stage.after(&[b]).await);
    stage.sql(&format!("delete from orch.jobs where id = {a}")).await;
    assert_eq!(stage.tick().await, 1);
    assert_eq!(
        one(&stage.client, &format!("select error from orch.jobs where id = {c}")).await,
        format!("cancelled: it was to run after job {a}, which is gone")
    );
    assert_eq!(stage.stands(d).await, format!("queued f {{{b}}}"));
    // An operator's retry goes on without it.
    stage.sql(&format!("select orch.retry({c})")).await;
    assert_eq!(stage.stands(c).await, format!("queued f {{{b}}}"));
    stage.healthy().await;
}

#[tokio::test]
async fn a_finished_job_is_not_removed_before_those_that_wait_for_it_have_heard() {
    let stage = Stage::new().await;
    let (a, b) = (stage.enqueue("").await, stage.enqueue("").await);
    let c = stage.after(&[a, b]).await;
    stage.run(Outcome::Succeeded).await;
    stage.sql("update orch.jobs set created_at = created_at - interval '30 days', finished_at = finished_at - interval '20 days'
               where status = 'succeeded'").await;
    let keep = std::time::Duration::from_hours(24);
    let pruned = orch::ops::prune::prune(&stage.played.db, keep).await.unwrap();
    assert_eq!(pruned.jobs, 0, "job {c} has yet to hear of job {a}");
    stage.run(Outcome::Succeeded).await;
    assert_eq!(stage.resolve(&[b]).await, (1, 0));
    let pruned = orch::ops::prune::prune(&stage.played.db, keep).await.unwrap();
    assert_eq!(pruned.jobs, 1);
    // What is known of it stays as long as the job that ran after it.
    let edges = format!("select count(*) from orch.job_dependencies where job_id = {c}");
    assert_eq!((stage.run(Outcome::Succeeded).await, one(&stage.client, &edges).await), (c, "2".into()));
    stage.sql("update orch.jobs set created_at = created_at - interval '30 days', finished_at = finished_at - interval '20 days'").await;
    assert_eq!(orch::ops::prune::prune(&stage.played.db, keep).await.unwrap().jobs, 2);
    assert_eq!(one(&stage.client, &edges).await, "0");
}

#[tokio::test]
async fn a_retry_waits_again_and_is_refused_while_a_predecessor_has_failed() {
    let stage = Stage::new().await;
    let a = stage.enqueue("").await;
    let b = stage.after(&[a]).await;
    stage.run(Outcome::Failed).await;
    stage.resolve(&[a]).await;
    let (code, message) = refused(&stage.client, &format!("select orch.retry({b})")).await;
    assert_eq!((code.as_str(), message), ("OR001", format!("job {b} runs after job {a}, which is failed")));
    stage.sql(&format!("select orch.retry({a}), orch.retry({b})")).await;
    assert_eq!(stage.stands(b).await, format!("queued f {{{a}}}"));
    stage.run(Outcome::Succeeded).await;
    assert_eq!(stage.resolve(&[a]).await, (1, 0));
    assert_eq!(stage.run(Outcome::Failed).await, b);
    stage.sql(&format!("select orch.retry({b})")).await;
    assert_eq!(stage.stands(b).await, "queued t", "what it ran after has succeeded");
    stage.healthy().await;
}

#[tokio::test]
async fn a_predecessor_that_is_retried_in_time_is_waited_for() {
    let stage = Stage::new().await;
    let a = stage.enqueue("").await;
    let b = stage.after(&[a]).await;
    stage.run(Outcome::Failed).await;
    stage.sql(&format!("select orch.retry({a})")).await;
    assert_eq!((stage.resolve(&[a]).await, stage.tick().await), ((0, 0), 0));
    assert_eq!(stage.stands(b).await, format!("queued f {{{a}}}"));
    stage.run(Outcome::Succeeded).await;
    assert_eq!(stage.resolve(&[a]).await, (1, 0));
    // One that is retried after it had succeeded is not waited for again: the other one may have run by now.
    stage.sql(&format!("select orch.retry({a})")).await;
    assert_eq!((stage.tick().await, stage.stands(b).await.as_str()), (0, "queued t"));
    stage.healthy().await;
}

#[tokio::test]
async fn a_late_success_leaves_what_was_cancelled_to_an_operator() {
    let stage = Stage::new().await;
    let a = stage.enqueue("").await;
    let b = stage.after(&[a]).await;
    stage.sql("update orch.agents set on_lost = 'fail'").await;
    let claimed = stage.played.claim().await.unwrap();
    let (run_id, replica_id) = (claimed.owned.run_id(), stage.played.replica_id);
    drop(claimed);
    stage.sql("update orch.replicas set state = 'dead', lease_until = now() - interval '1 hour'").await;
    // The tick that reaps also cancels what was to run after it.
    let done = Reaper::new(TIMING, true).tick(&stage.played.db, false).await.unwrap();
    assert_eq!((done.reaped, done.resolved), (1, 1));
    assert_eq!((stage.stands(a).await, stage.stands(b).await), ("failed f".into(), "cancelled f".into()));

    let inherited = stage.played.db.list_inherited(&[replica_id], &[run_id]).await.unwrap().pop().unwrap();
    let ending = Ending::bare(Outcome::Succeeded, ClosedBy::Owner, "");
    let answers = stage.played.db.settle_runs(vec![inherited.owned.ended(ending)]).await.unwrap();
    assert!(matches!(answers[..], [Answer::Late(..)]), "{answers:?}");
    assert_eq!((stage.resolve(&[a]).await, stage.tick().await), ((0, 0), 0));
    assert_eq!((stage.stands(a).await, stage.stands(b).await), ("succeeded f".into(), "cancelled f".into()));
    stage.sql(&format!("select orch.retry({b})")).await;
    assert_eq!(stage.stands(b).await, "queued t");
    stage.healthy().await;
}

#[tokio::test]
async fn hold_release_and_plain_updates_keep_a_waiting_job_waiting() {
    let stage = Stage::new().await;
    let a = stage.enqueue("").await;
    let b = stage.after(&[a]).await;
    let waits = format!("{{{a}}}");
    stage.sql(&format!("select orch.hold({b})")).await;
    assert_eq!(stage.stands(b).await, format!("held f {waits}"));
    stage.sql(&format!("select orch.release({b})")).await;
    assert_eq!(stage.stands(b).await, format!("queued f {waits}"));
    stage.sql(&format!("update orch.jobs set claimable = true, priority = 3 where id = {b}")).await;
    assert_eq!(stage.stands(b).await, format!("queued f {waits}"), "the trigger knows better");
    stage.sql(&format!("select orch.hold({b})")).await;
    stage.run(Outcome::Succeeded).await;
    assert_eq!(stage.resolve(&[a]).await, (1, 0));
    assert_eq!(stage.stands(b).await, "held f", "it is still an operator's to release");
    stage.sql(&format!("select orch.release({b})")).await;
    assert_eq!(stage.stands(b).await, "queued t");
    // An operator who knows better lets it go.
    let c = stage.after(&[b]).await;
    stage
        .sql(&format!(
            "delete from orch.job_dependencies where job_id = {c}; update orch.jobs set waits_for = null where id = {c}"
        ))
        .await;
    assert_eq!(stage.stands(c).await, "queued t");
    for waits in ["{}", "{null}", &format!("{{{c}}}"), "{{1}}"] {
        let (code, message) =
            refused(&stage.client, &format!("update orch.jobs set waits_for = '{waits}' where id = {c}")).await;
        assert_eq!((code.as_str(), message.contains("waits_for_jobs_before_it_runs")), ("23514", true), "{message}");
    }
    let claimed = stage.played.claim().await.unwrap();
    let (code, message) = refused(&stage.client, &format!("insert into orch.job_dependencies values ({b}, {b})")).await;
    assert_eq!((code.as_str(), message.contains("job_waits_for_earlier_ones")), ("23514", true), "{message}");
    stage.sql(&format!("update orch.jobs set waits_for = '{{1}}' where id = {}", claimed.owned.job_id().0)).await;
    assert!(!stage.stands(claimed.owned.job_id().0).await.contains('{'), "what runs waits for nobody");
    stage.healthy().await;
}
