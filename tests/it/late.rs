//! Late results: a reap closed the run as lost, and then its owner says what became of it. Accepted once, while the job
//! has not gone on; else written to the run only.

use orch::{
    db::{
        Db,
        runs::{Answer, Ending, Owned},
    },
    model::{ClosedBy, JobStatus, Outcome, ReplicaId},
};
use tokio_postgres::{Client, Row};

use crate::{
    reaper::{expire_leases, no_outage, tick},
    runs::{claim, no_violation, register},
    support::TestDb,
};

/// One job after the other, each claimed by a replica, with several copies of the token of its run.
struct World {
    /// Dropped, it takes the database along.
    _test: TestDb,
    db: Db,
    client: Client,
    job_id: i64,
    owner: ReplicaId,
    tokens: Vec<Owned>,
}

impl World {
    async fn new() -> Self {
        let test = TestDb::new().await;
        let (db, client) = (test.db(), test.client().await);
        Self { _test: test, db, client, job_id: 0, owner: ReplicaId::new(), tokens: Vec::new() }
    }

    /// A new job, claimed. `job` and `agent` are settings of theirs, as SQL; empty for none.
    async fn claimed(&mut self, job: &str, agent: &str) {
        // Nothing of the job before is in the way of this one.
        self.sql("delete from orch.jobs where status <> 'running'; delete from orch.agents").await;
        self.sql("insert into orch.agents (name, max_attempts) values ('a', 3)").await;
        self.job_id = self.client.query_one("select orch.enqueue('a')", &[]).await.unwrap().get(0);
        for (table, set) in [("agents", agent), ("jobs", job)] {
            if !set.is_empty() {
                self.sql(&format!("update orch.{table} set {set}")).await;
            }
        }
        self.claim().await;
    }

    /// As [`World::claimed`], and reaped.
    async fn reaped(&mut self, job: &str, agent: &str) {
        self.claimed(job, agent).await;
        self.reap().await;
    }

    /// A further replica claims the job.
    async fn claim(&mut self) {
        let claimant = register(&self.db).await;
        self.client.batch_execute("update orch.jobs set run_at = now() where status = 'queued'").await.unwrap();
        self.tokens = vec![claim(&self.db, &claimant, 1).await.remove(0).owned];
        for _ in 0..3 {
            self.tokens.push(self.db.list_inherited(&[claimant.replica_id], &[]).await.unwrap().remove(0).owned);
        }
        self.owner = claimant.replica_id;
    }

    async fn reap(&self) {
        no_outage(&self.client).await;
        expire_leases(&self.client).await;
        assert_eq!(tick(&self.db).await.reaped, 1);
    }

    /// What the owner has to say, late or not; and nothing is ever violated by it.
    async fn say(&mut self, outcome: Outcome) -> Told {
        self.deliver(ending(outcome)).await
    }

    async fn deliver(&mut self, ending: Ending) -> Told {
        let token = self.tokens.pop().expect("a token");
        let answer = self.db.settle_runs(vec![token.ended(ending)]).await.unwrap().remove(0);
        no_violation(&self.client).await;
        told(&answer)
    }

    /// `JOB` is the job's number.
    async fn sql(&self, sql: &str) {
        self.client
            .batch_execute(&sql.replace("JOB", &self.job_id.to_string()))
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    async fn job(&self) -> Row {
        self.client.query_one("select * from orch.jobs where id = $1", &[&self.job_id]).await.unwrap()
    }

    async fn status(&self) -> String {
        self.job().await.get("status")
    }

    /// All of the job's row, and which version of it: a noted result does not even write it.
    async fn whole(&self) -> Option<String> {
        let sql = "select j::text || xmin::text from orch.jobs j where id = $1";
        self.client.query_opt(sql, &[&self.job_id]).await.unwrap().map(|row| row.get(0))
    }

    /// The run of the last claim.
    async fn run(&self) -> Row {
        self.client.query_one("select * from orch.agent_runs where replica_id = $1", &[&self.owner.0]).await.unwrap()
    }

    /// failures, `lost_count`, `transient_count`, `interrupted_count`.
    async fn counts(&self) -> [i32; 4] {
        let job = self.job().await;
        ["failures", "lost_count", "transient_count", "interrupted_count"].map(|name| job.get(name))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Settled(JobStatus),
    Late(JobStatus),
    Noted,
    Already,
    NotYours,
    Busy,
    Refused,
}

fn ending(outcome: Outcome) -> Ending {
    let mut ending = Ending::bare(outcome, ClosedBy::Owner, "said late");
    ending.exit_code = Some(7);
    ending.result = Some(r#"{"data": 1}"#.to_owned());
    ending
}

fn told(answer: &Answer) -> Told {
    match *answer {
        Answer::Settled(_, next) => Told::Settled(next),
        Answer::Late(_, next) => Told::Late(next),
        Answer::Noted(_) => Told::Noted,
        Answer::Already(_) => Told::Already,
        Answer::NotYours(_) => Told::NotYours,
        Answer::Busy(_) => Told::Busy,
        Answer::Refused(..) => Told::Refused,
    }
}

/// What a settle in time makes of a fresh job.
fn in_time(outcome: Outcome) -> (JobStatus, [i32; 4]) {
    match outcome {
        Outcome::Succeeded => (JobStatus::Succeeded, [0; 4]),
        Outcome::Failed | Outcome::TimedOut => (JobStatus::Queued, [1, 0, 0, 0]),
        Outcome::Transient => (JobStatus::Queued, [0, 0, 1, 0]),
        Outcome::Cancelled => (JobStatus::Cancelled, [0; 4]),
        Outcome::Interrupted => (JobStatus::Queued, [0, 0, 0, 1]),
        Outcome::Lost => (JobStatus::Queued, [0, 1, 0, 0]),
        Outcome::SpawnFailed => (JobStatus::Failed, [0; 4]),
    }
}

#[tokio::test]
async fn each_outcome_takes_its_row_of_the_table_as_if_it_had_come_in_time_and_once() {
    let mut world = World::new().await;
    for outcome in Outcome::ALL {
        world.reaped("", "").await;
        let reaped = world.job().await;
        assert_eq!((reaped.get::<_, &str>("status"), world.counts().await), ("queued", [0, 1, 0, 0]));
        let (status, counts) = in_time(*outcome);
        assert_eq!(world.say(*outcome).await, Told::Late(status), "{outcome}");
        assert_eq!(world.counts().await, counts, "{outcome}: the loss is taken back");
        let (job, run) = (world.job().await, world.run().await);
        assert_eq!(job.get::<_, &str>("status"), status.as_str());
        assert_eq!(job.get::<_, Option<serde_json::Value>>("result"), Some(serde_json::json!({"data": 1})));
        let error: Option<&str> = job.get("error");
        assert_eq!(error.is_some(), *outcome != Outcome::Succeeded, "{outcome}: {error:?}");
        assert_eq!((run.get::<_, &str>("outcome"), run.get::<_, &str>("closed_by")), (outcome.as_str(), "owner"));
        assert_eq!(run.get::<_, Option<i32>>("exit_code"), Some(7));
        let words: &str = run.get("error");
        assert!(words.starts_with("said late; told late: it was lost: its replica"), "{words}");

        assert_eq!(world.say(Outcome::Failed).await, Told::Already, "{outcome}: the second time");
        assert_eq!(world.counts().await, counts);
        assert_eq!(world.job().await.get::<_, &str>("status"), status.as_str());
        assert_eq!(world.run().await.get::<_, &str>("outcome"), outcome.as_str());
    }
}

#[tokio::test]
async fn a_fenced_runs_interruption_queues_its_job_now_and_takes_back_what_the_reap_counted() {
    let mut world = World::new().await;
    world.reaped("lost_count = 1", "").await;
    let later: bool = world.job().await.get::<_, jiff::Timestamp>("run_at") > jiff::Timestamp::now();
    assert!(later, "the second loss waits");
    assert_eq!(world.say(Outcome::Interrupted).await, Told::Late(JobStatus::Queued));
    assert_eq!(world.counts().await, [0, 1, 0, 1]);
    let due: bool =
        world.client.query_one("select run_at <= clock_timestamp() from orch.jobs", &[]).await.unwrap().get(0);
    assert!(due, "the first interruption does not");
    let next = register(&world.db).await;
    assert_eq!(claim(&world.db, &next, 1).await.len(), 1);
}

#[tokio::test]
async fn a_loss_that_was_not_counted_soon_after_an_outage_is_not_taken_back() {
    let mut world = World::new().await;
    world.claimed("lost_count = 1", "").await;
    no_outage(&world.client).await;
    expire_leases(&world.client).await;
    world.sql("update orch.meta set wait_until_set_at = clock_timestamp() - interval '100 s'").await;
    assert_eq!(tick(&world.db).await.reaped, 1);
    assert_eq!(world.counts().await, [0, 1, 0, 0]);
    assert_eq!(world.run().await.get::<_, Option<bool>>("lost_counted"), Some(false));
    assert_eq!(world.say(Outcome::Interrupted).await, Told::Late(JobStatus::Queued));
    assert_eq!(world.counts().await, [0, 1, 0, 1]);
}

#[tokio::test]
async fn a_job_that_the_reap_failed_or_held_takes_the_result_too() {
    let mut world = World::new().await;
    // Poisoned by this loss; told by the agent to fail, or to hold.
    for (job, agent, was, lost) in [
        ("lost_count = 2", "", "failed", 2),
        ("", "on_lost = 'fail'", "failed", 0),
        ("", "on_lost = 'hold'", "held", 0),
    ] {
        for outcome in [Outcome::Succeeded, Outcome::Failed, Outcome::Interrupted, Outcome::Cancelled] {
            world.reaped(job, agent).await;
            assert_eq!(world.status().await, was, "{agent}");
            let (next, _) = in_time(outcome);
            assert_eq!(world.say(outcome).await, Told::Late(next), "{was}, {outcome}");
            let row = world
                .client
                .query_one(
                    "select claimable = (status = 'queued') and (failed_at is null)
                            and (finished_at is not null) = (status in ('succeeded', 'cancelled'))
                            and lost_count = $1 from orch.jobs",
                    &[&lost],
                )
                .await
                .unwrap();
            assert!(row.get::<_, bool>(0), "{was}, {outcome}: the helpers and the count");
            assert_eq!(world.say(outcome).await, Told::Already);
        }
    }
}

#[tokio::test]
async fn an_operators_hold_is_not_undone_and_a_success_ends_the_held_job() {
    let mut world = World::new().await;
    world.reaped("", "").await;
    world.sql("select orch.hold(JOB)").await;
    assert_eq!(world.say(Outcome::Interrupted).await, Told::Late(JobStatus::Held));
    assert_eq!(world.counts().await, [0, 0, 0, 1]);

    world.reaped("", "").await;
    world.sql("select orch.hold(JOB)").await;
    assert_eq!(world.say(Outcome::Succeeded).await, Told::Late(JobStatus::Succeeded));
}

#[tokio::test]
async fn a_pending_cancel_makes_a_late_result_a_cancelled_job_but_for_success() {
    let mut world = World::new().await;
    for (outcome, next) in [
        (Outcome::Interrupted, JobStatus::Cancelled),
        (Outcome::Failed, JobStatus::Cancelled),
        (Outcome::Succeeded, JobStatus::Succeeded),
    ] {
        world.reaped("", "").await;
        world.sql("update orch.jobs set cancel_requested_at = now()").await;
        assert_eq!(world.say(outcome).await, Told::Late(next));
    }
    // Asked for while it ran, the reap itself has cancelled the job: that is its end.
    world.claimed("", "").await;
    world.sql("select orch.cancel(JOB)").await;
    world.reap().await;
    assert_eq!(world.status().await, "cancelled");
    assert_eq!(world.say(Outcome::Succeeded).await, Told::Noted);
    assert_eq!(world.status().await, "cancelled");
}

#[tokio::test]
async fn what_comes_when_the_job_has_gone_on_is_written_to_its_run_only() {
    let mut world = World::new().await;
    for gone_on in [
        // a newer run, live or ended
        "claim",
        "claim and end",
        "claim and take",
        // operators
        "select orch.cancel(JOB)",
        "update orch.jobs set lost_count = 2; select orch.cancel(JOB); select orch.retry(JOB)",
        "delete from orch.jobs",
    ] {
        world.reaped("", "").await;
        let (old, owner) = (std::mem::take(&mut world.tokens), world.owner);
        if gone_on.starts_with("claim") {
            world.claim().await;
            match gone_on {
                "claim and end" => assert_eq!(world.say(Outcome::Interrupted).await, Told::Settled(JobStatus::Queued)),
                "claim and take" => world.sql("update orch.jobs set status = 'queued'").await,
                _ => {}
            }
        } else {
            world.sql(gone_on).await;
        }
        let before = world.whole().await;
        let new = std::mem::replace(&mut world.tokens, old);
        world.owner = owner;
        assert_eq!(world.say(Outcome::Succeeded).await, Told::Noted, "{gone_on}");
        assert_eq!(world.whole().await, before, "{gone_on}");
        let run = world.run().await;
        assert_eq!((run.get::<_, &str>("outcome"), run.get::<_, &str>("closed_by")), ("succeeded", "owner"));
        assert!(run.get::<_, &str>("error").contains("told too late to count for its job: it was lost"), "{gone_on}");
        assert_eq!(run.get::<_, Option<serde_json::Value>>("result"), Some(serde_json::json!({"data": 1})));
        assert_eq!(world.say(Outcome::Failed).await, Told::Already, "{gone_on}");
        assert_eq!(world.run().await.get::<_, &str>("outcome"), "succeeded");
        if gone_on == "claim" {
            world.tokens = new;
            assert_eq!(
                world.say(Outcome::Succeeded).await,
                Told::Settled(JobStatus::Succeeded),
                "the newer run counts"
            );
        }
    }
}

#[tokio::test]
async fn a_poisoned_job_that_an_operator_retried_runs_whatever_its_old_run_says() {
    let mut world = World::new().await;
    world.reaped("lost_count = 2", "").await;
    assert_eq!(world.status().await, "failed");
    world.sql("select orch.retry(JOB)").await;
    assert_eq!(world.say(Outcome::Failed).await, Told::Noted);
    assert_eq!((world.status().await.as_str(), world.counts().await), ("queued", [0; 4]));
    world.claim().await;
    assert_eq!(world.say(Outcome::Succeeded).await, Told::Settled(JobStatus::Succeeded));
}

#[tokio::test]
async fn a_result_that_was_settled_and_sent_again_after_a_retry_changes_nothing() {
    let mut world = World::new().await;
    world.claimed("max_attempts = 1", "").await;
    assert_eq!(world.say(Outcome::Failed).await, Told::Settled(JobStatus::Failed));
    world.sql("select orch.retry(JOB)").await;
    let before = world.whole().await;
    assert_eq!(world.say(Outcome::Failed).await, Told::Already);
    assert_eq!(world.whole().await, before);
    world.claim().await;
    assert_eq!(world.say(Outcome::Succeeded).await, Told::Settled(JobStatus::Succeeded));
}

#[tokio::test]
async fn a_taken_dedupe_key_keeps_a_failed_job_failed_but_not_from_its_success() {
    let mut world = World::new().await;
    for (outcome, expected) in
        [(Outcome::Interrupted, Told::Noted), (Outcome::Succeeded, Told::Late(JobStatus::Succeeded))]
    {
        world.reaped("dedupe_key = 'k'", "on_lost = 'fail'").await;
        world.sql("select orch.enqueue('a', dedupe_key => 'k')").await;
        let live: i64 =
            world.client.query_one("select id from orch.jobs where live_dedupe_key = 'k'", &[]).await.unwrap().get(0);
        assert_ne!(live, world.job_id, "the key was free");
        assert_eq!(world.say(outcome).await, expected);
        let key: Option<String> = world.job().await.get("live_dedupe_key");
        assert_eq!(key, None);
        assert_eq!(world.say(outcome).await, Told::Already);
    }
    // Free, it goes back to the job.
    world.reaped("dedupe_key = 'k'", "on_lost = 'fail'").await;
    assert_eq!(world.say(Outcome::Interrupted).await, Told::Late(JobStatus::Queued));
    assert_eq!(world.job().await.get::<_, Option<String>>("live_dedupe_key").as_deref(), Some("k"));
}

#[tokio::test]
async fn only_the_owners_side_is_heard_late_and_only_about_a_reap() {
    let mut world = World::new().await;
    // Another replica than the one on the run's row.
    world.reaped("", "").await;
    world.sql("update orch.agent_runs set replica_id = gen_random_uuid()").await;
    assert_eq!(world.say(Outcome::Succeeded).await, Told::NotYours);
    // A second reap.
    world.reaped("", "").await;
    let mut again = ending(Outcome::Lost);
    again.closed_by = ClosedBy::Reap;
    assert_eq!(world.deliver(again).await, Told::NotYours);
    // A successor on the same state directory.
    let mut successors = ending(Outcome::Succeeded);
    successors.closed_by = ClosedBy::Successor;
    assert_eq!(world.deliver(successors).await, Told::Late(JobStatus::Succeeded));
    assert_eq!(world.run().await.get::<_, &str>("closed_by"), "successor");
    // Closed by an operator, by the sanitizer, or as lost by the owner itself.
    for (outcome, closed_by, expected) in [
        ("interrupted", "operator", Told::NotYours),
        ("interrupted", "sanitize", Told::NotYours),
        ("lost", "operator", Told::NotYours),
        ("lost", "owner", Told::Already),
    ] {
        world.reaped("", "").await;
        world.sql(&format!("update orch.agent_runs set outcome = '{outcome}', closed_by = '{closed_by}'")).await;
        let before = world.whole().await;
        assert_eq!(world.say(Outcome::Succeeded).await, expected, "{outcome} by {closed_by}");
        assert_eq!(world.whole().await, before);
    }
}

#[tokio::test]
async fn a_job_that_awaits_a_replica_was_taken_by_an_operator_and_is_not_ended_by_a_late_result() {
    let mut world = World::new().await;
    world.reaped("", "").await;
    world.sql("update orch.jobs set awaits_replica = gen_random_uuid()").await;
    assert_eq!(world.say(Outcome::Succeeded).await, Told::Noted);
    assert_eq!(world.status().await, "queued");
}

#[tokio::test]
async fn a_late_result_that_jsonb_refuses_fails_its_job_with_the_databases_words() {
    let mut world = World::new().await;
    world.reaped("max_attempts = 1", "").await;
    let mut bad = ending(Outcome::Succeeded);
    bad.result = Some(r#""\u0000""#.to_owned());
    assert_eq!(world.deliver(bad).await, Told::Late(JobStatus::Failed));
    let error: String = world.job().await.get("error");
    assert!(error.contains("the database refused the result"), "{error}");
    assert_eq!(world.counts().await, [1, 0, 0, 0]);
}
