//! Claim, stamp and settle: the one door into `running` and the one out of it.

use std::time::Duration;

use orch::{
    db::{
        Db,
        replicas::Registration,
        runs::{Answer, Claimant, ClaimantRules, Claimed, Ending, Look, Process},
    },
    model::{ClosedBy, Containment, JobId, JobStatus, Outcome, ReplicaId, RunId},
};
use tokio_postgres::Client;

use crate::support::TestDb;

/// A live replica, made without a process.
pub(crate) async fn register(db: &Db) -> Claimant {
    let replica_id = ReplicaId::new();
    db.register_replica(&Registration {
        replica_id,
        name: "test".into(),
        host: "here".into(),
        boot_id: "boot".into(),
        state_dir_id: format!("{replica_id}/1/1 pid:[1]"),
        version: "0".into(),
        agents: vec!["a".into()],
        labels: std::collections::BTreeMap::new(),
        max_concurrency: 4,
        lease: 60.0,
    })
    .await
    .unwrap();
    Claimant {
        replica_id,
        host: "here".into(),
        boot_id: "boot".into(),
        serial_gate: true,
        rules: ClaimantRules { max_lost: 3, max_transient: 100, max_interrupted: 100, lease: 60.0 },
    }
}

pub(crate) async fn claim(db: &Db, claimant: &Claimant, slots: usize) -> Vec<Claimed> {
    let run_ids: Vec<RunId> = (0..slots).map(|_| RunId::new()).collect();
    db.claim_jobs(claimant, &["a".into()], &run_ids, &Look::default()).await.unwrap().jobs
}

pub(crate) async fn enqueue(client: &Client, count: i64) {
    client.execute("select orch.enqueue('a') from generate_series(1::bigint, $1)", &[&count]).await.unwrap();
}

pub(crate) async fn status(client: &Client, job_id: i64) -> String {
    client.query_one("select status from orch.jobs where id = $1", &[&job_id]).await.unwrap().get(0)
}

pub(crate) async fn no_violation(client: &Client) {
    let rows = client.query("select invariant || ' ' || what from orch.violations", &[]).await.unwrap();
    let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(found.is_empty(), "{found:?}");
}

fn ending(outcome: Outcome) -> Ending {
    Ending::bare(outcome, ClosedBy::Owner, "why")
}

fn settled(answers: &[Answer]) -> Vec<JobStatus> {
    answers
        .iter()
        .map(|answer| match answer {
            Answer::Settled(_, status) => *status,
            other => panic!("{other:?}"),
        })
        .collect()
}

#[tokio::test]
async fn a_claim_takes_due_jobs_in_order_with_no_pid_and_an_open_run_each() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    client
        .batch_execute(
            "select orch.enqueue('a', priority => 1::smallint);
             select orch.enqueue('a', priority => 5::smallint);
             select orch.enqueue('a', run_at => now() + interval '1 hour');
             select orch.enqueue('other');",
        )
        .await
        .unwrap();
    let claimant = register(&db).await;
    let claimed = claim(&db, &claimant, 10).await;
    let jobs: Vec<i64> = claimed.iter().map(|job| job.owned.job_id().0).collect();
    assert_eq!(jobs.len(), 2, "neither the one that is not due nor the one of an agent that is not served");
    let row = client
        .query_one(
            "select count(*), count(j.pid), count(j.run_id), count(r.rules)
               from orch.jobs j join orch.agent_runs r on r.run_id = j.run_id and r.ended_at is null
              where j.status = 'running' and j.attempt = 1 and r.replica_id = j.replica_id",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2), row.get::<_, i64>(3)), (2, 0, 2, 2));
    no_violation(&client).await;

    let one = claim(&db, &claimant, 10).await;
    assert!(one.is_empty(), "nothing is claimed twice");
}

#[tokio::test]
async fn one_slot_takes_the_job_with_the_highest_priority() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    client.batch_execute("select orch.enqueue('a'); select orch.enqueue('a', priority => 5::smallint)").await.unwrap();
    let claimant = register(&db).await;
    let claimed = claim(&db, &claimant, 1).await;
    assert_eq!(claimed[0].owned.job_id(), JobId(2));
}

#[tokio::test]
async fn of_one_gate_one_job_runs_at_a_time_and_the_switch_turns_just_that_off() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    client
        .batch_execute(
            "insert into orch.projects (name, serial) values ('p', true);
                        select orch.enqueue('a', project => 'p') from generate_series(1, 3);",
        )
        .await
        .unwrap();
    let mut claimant = register(&db).await;
    let first = claim(&db, &claimant, 10).await;
    assert_eq!(first.len(), 1);
    assert!(claim(&db, &claimant, 10).await.is_empty(), "its gate is taken");
    claimant.serial_gate = false;
    assert_eq!(claim(&db, &claimant, 10).await.len(), 2);
    no_violation(&client).await;
}

#[tokio::test]
async fn a_replica_that_is_not_live_claims_nothing() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 1).await;
    let claimant = register(&db).await;
    assert!(db.drain_replica(claimant.replica_id).await.unwrap());
    assert!(claim(&db, &claimant, 1).await.is_empty(), "draining");
    let claimant = register(&db).await;
    assert!(db.leave_replica(claimant.replica_id).await.unwrap());
    assert!(claim(&db, &claimant, 1).await.is_empty(), "left");
}

#[tokio::test]
async fn a_stamp_needs_the_token() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 1).await;
    let claimant = register(&db).await;
    let claimed = claim(&db, &claimant, 1).await;
    let (job, run) = (claimed[0].owned.job_id(), claimed[0].owned.run_id());
    let process = Process { pid: 4242, pid_started: 1, containment: Containment::Cgroup };
    for (replica, stale) in [(claimant.replica_id, RunId::new()), (ReplicaId::new(), run)] {
        assert!(db.stamp_runs(replica, &[(job, stale, process)]).await.unwrap().is_empty());
    }
    let pid: Option<i32> = client.query_one("select pid from orch.jobs", &[]).await.unwrap().get(0);
    assert_eq!(pid, None);
    assert_eq!(db.stamp_runs(claimant.replica_id, &[(job, run, process)]).await.unwrap(), [run]);
    let pid: Option<i32> = client.query_one("select pid from orch.jobs", &[]).await.unwrap().get(0);
    assert_eq!(pid, Some(4242));
}

#[tokio::test]
async fn every_outcome_leaves_a_row_without_an_owner_and_a_closed_run_with_the_history() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, Outcome::ALL.len() as i64).await;
    let claimant = register(&db).await;
    let claimed = claim(&db, &claimant, 20).await;
    let batch = claimed.into_iter().zip(Outcome::ALL).map(|(job, outcome)| job.owned.ended(ending(*outcome))).collect();
    let mut answers: Vec<_> = db.settle_runs(batch).await.unwrap().into_iter().collect();
    answers.sort_by_key(|answer| match answer {
        Answer::Settled(run_id, _) => *run_id,
        other => panic!("{other:?}"),
    });
    let rows =
        client.query("select outcome, closed_by, error from orch.agent_runs order by run_id", &[]).await.unwrap();
    let outcomes: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(outcomes.len(), Outcome::ALL.len());
    for outcome in Outcome::ALL {
        assert!(outcomes.iter().any(|word| word == outcome.as_str()), "{outcome}");
    }
    let owners: i64 = client
        .query_one(
            "select count(*) from orch.jobs where num_nonnulls(run_id, replica_id, pid, started_at, running_gate) > 0",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(owners, 0);
    let repairs: i64 = client
        .query_one("select value from orch.counters where name = 'guard_repairs_total'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(repairs, 0, "the settle clears ownership itself; the guard finds nothing to repair");
    no_violation(&client).await;
}

#[tokio::test]
async fn a_settle_without_the_token_touches_nothing_and_says_so() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 1).await;
    let claimant = register(&db).await;
    let claimed = claim(&db, &claimant, 1).await.remove(0);
    let before: String = client.query_one("select j::text from orch.jobs j", &[]).await.unwrap().get(0);
    // Taken by an operator meanwhile: run_id and replica_id are no longer those of the claim.
    client.batch_execute("update orch.jobs set status = 'queued'").await.unwrap();
    let answers = db.settle_runs(vec![claimed.owned.ended(ending(Outcome::Succeeded))]).await.unwrap();
    assert!(matches!(answers[..], [Answer::NotYours(_)]), "{answers:?}");
    assert_eq!(status(&client, 1).await, "queued");
    assert_ne!(before, client.query_one("select j::text from orch.jobs j", &[]).await.unwrap().get::<_, String>(0));
}

#[tokio::test]
async fn a_settle_that_is_sent_again_is_done_once() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 1).await;
    let claimant = register(&db).await;
    let claimed = claim(&db, &claimant, 1).await.remove(0);
    // The same token, twice: as if the reply to the first had been lost.
    let again = db.list_inherited(&[claimant.replica_id], &[]).await.unwrap().remove(0).owned;
    assert_eq!(
        settled(&db.settle_runs(vec![claimed.owned.ended(ending(Outcome::Failed))]).await.unwrap()),
        [JobStatus::Queued]
    );
    let answers = db.settle_runs(vec![again.ended(ending(Outcome::Failed))]).await.unwrap();
    assert!(matches!(answers[..], [Answer::Already(_)]), "{answers:?}");
    let failures: i32 = client.query_one("select failures from orch.jobs", &[]).await.unwrap().get(0);
    assert_eq!(failures, 1);
}

#[tokio::test]
async fn a_row_that_somebody_keeps_locked_delays_itself_alone() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 2).await;
    let claimant = register(&db).await;
    let claimed = claim(&db, &claimant, 2).await;
    let mut other = test.client().await;
    let held = other.transaction().await.unwrap();
    held.execute("select from orch.jobs where id = 1 for update", &[]).await.unwrap();
    let batch = claimed.into_iter().map(|job| job.owned.ended(ending(Outcome::Succeeded))).collect();
    let answers = db.settle_runs(batch).await.unwrap();
    held.rollback().await.unwrap();
    let mut busy = Vec::new();
    for answer in answers {
        match answer {
            Answer::Settled(_, status) => assert_eq!(status, JobStatus::Succeeded),
            Answer::Busy(settlement) => busy.push(settlement),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(busy.iter().map(orch::db::runs::Settlement::job_id).collect::<Vec<_>>(), [JobId(1)]);
    assert_eq!(settled(&db.settle_runs(busy).await.unwrap()), [JobStatus::Succeeded]);
    no_violation(&client).await;
}

#[tokio::test]
async fn one_refused_result_in_a_batch_fails_its_own_job_with_the_databases_words() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    let bad = [r#"{"data": "\u0000"}"#, r#"{"data": "\ud800"}"#, r#"{"data": 1e400000}"#, &"[".repeat(100_000), "{"];
    enqueue(&client, bad.len() as i64 + 2).await;
    client.batch_execute("update orch.jobs set max_attempts = 1").await.unwrap();
    let claimant = register(&db).await;
    let claimed = claim(&db, &claimant, 20).await;
    let results = [r#"{"data": 1}"#].into_iter().chain(bad).chain([r#"{"data": 2}"#]);
    let batch = claimed
        .into_iter()
        .zip(results)
        .map(|(job, result)| {
            let mut ending = ending(Outcome::Succeeded);
            ending.result = Some(result.to_owned());
            job.owned.ended(ending)
        })
        .collect();
    db.settle_runs(batch).await.unwrap();
    let rows = client.query("select status, error, result from orch.jobs order by id", &[]).await.unwrap();
    for (place, row) in rows.iter().enumerate() {
        let (status, error): (String, Option<String>) = (row.get(0), row.get(1));
        let result: Option<serde_json::Value> = row.get(2);
        if place == 0 || place == rows.len() - 1 {
            assert_eq!((status.as_str(), result.is_some()), ("succeeded", true));
        } else {
            assert_eq!((status.as_str(), result), ("failed", None), "{error:?}");
            assert!(error.unwrap().contains("the database refused the result"));
        }
    }
    no_violation(&client).await;
}

#[tokio::test]
async fn a_time_that_the_database_does_not_know_sticks_nowhere() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    let owner = register(&db).await;
    enqueue(&client, 1).await;
    let claimed = claim(&db, &owner, 1).await.pop().unwrap();
    let ending = Ending {
        retry_at: Some(orch::db::jobs::When::At("-009000-01-01T00:00:00Z".parse().unwrap())),
        ..ending(Outcome::Transient)
    };
    assert_eq!(settled(&db.settle_runs(vec![claimed.owned.ended(ending)]).await.unwrap()), [JobStatus::Queued]);
}

#[tokio::test]
async fn an_error_text_with_a_nul_is_stored_all_the_same() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 1).await;
    let claimant = register(&db).await;
    let claimed = claim(&db, &claimant, 1).await.remove(0);
    let ending = Ending::bare(Outcome::Failed, ClosedBy::Owner, "a\0b");
    db.settle_runs(vec![claimed.owned.ended(ending)]).await.unwrap();
    let error: String = client.query_one("select error from orch.jobs", &[]).await.unwrap().get(0);
    assert_eq!(error, "a\u{fffd}b");
}

#[tokio::test]
async fn a_pending_cancel_ends_the_job_whatever_became_of_its_run_but_success() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, Outcome::ALL.len() as i64).await;
    let claimant = register(&db).await;
    let claimed = claim(&db, &claimant, 20).await;
    client.batch_execute("select orch.cancel(id) from orch.jobs").await.unwrap();
    assert_eq!(db.list_cancelled(claimant.replica_id).await.unwrap().len(), Outcome::ALL.len());
    for (job, outcome) in claimed.into_iter().zip(Outcome::ALL) {
        let next = settled(&db.settle_runs(vec![job.owned.ended(ending(*outcome))]).await.unwrap());
        let expected = if *outcome == Outcome::Succeeded { JobStatus::Succeeded } else { JobStatus::Cancelled };
        assert_eq!(next, [expected], "{outcome}");
    }
    no_violation(&client).await;
}

#[tokio::test]
async fn interrupted_runs_never_use_an_attempt_up_and_a_long_one_starts_the_count_anew() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 1).await;
    client.batch_execute("update orch.jobs set max_attempts = 1").await.unwrap();
    let claimant = register(&db).await;
    for (lasted, expected) in [(1, 1), (1, 2), (3600, 1)] {
        let claimed = claim(&db, &claimant, 1).await.remove(0);
        let mut ending = ending(Outcome::Interrupted);
        ending.lasted = Some(Duration::from_secs(lasted));
        assert_eq!(settled(&db.settle_runs(vec![claimed.owned.ended(ending)]).await.unwrap()), [JobStatus::Queued]);
        let count: i32 = client.query_one("select interrupted_count from orch.jobs", &[]).await.unwrap().get(0);
        assert_eq!(count, expected);
        client.batch_execute("update orch.jobs set run_at = now() - interval '1 second'").await.unwrap();
    }
}

#[tokio::test]
async fn claims_of_many_never_take_one_job_twice() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 300).await;
    let claimants = [register(&db).await, register(&db).await, register(&db).await, register(&db).await];
    let mut tasks = tokio::task::JoinSet::new();
    for claimant in claimants {
        let db = db.clone();
        tasks.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let some = claim(&db, &claimant, 7).await;
                if some.is_empty() {
                    return mine;
                }
                mine.extend(some.iter().map(|job| job.owned.job_id()));
            }
        });
    }
    let mut all: Vec<JobId> = tasks.join_all().await.into_iter().flatten().collect();
    all.sort();
    let count = all.len();
    all.dedup();
    assert_eq!((count, all.len()), (300, 300));
    no_violation(&client).await;
}

#[tokio::test]
async fn a_shim_whose_death_its_owner_saw_counts_as_a_loss_also_soon_after_an_outage() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    client.batch_execute("update orch.meta set wait_until_set_at = clock_timestamp()").await.unwrap();
    for (closed_by, counted) in [(ClosedBy::Owner, 1), (ClosedBy::Reap, 1)] {
        if closed_by == ClosedBy::Owner {
            enqueue(&client, 1).await;
        }
        let claimed = claim(&db, &register(&db).await, 1).await.remove(0);
        db.settle_runs(vec![claimed.owned.ended(Ending::bare(Outcome::Lost, closed_by, "lost"))]).await.unwrap();
        let count: i32 = client.query_one("select lost_count from orch.jobs", &[]).await.unwrap().get(0);
        assert_eq!(count, counted, "{closed_by}");
    }
}

#[tokio::test]
async fn a_run_whose_row_somebody_deleted_is_settled_all_the_same() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 2).await;
    let claimed = claim(&db, &register(&db).await, 2).await;
    client.batch_execute("delete from orch.agent_runs").await.unwrap();
    let batch = claimed
        .into_iter()
        .zip([Outcome::Succeeded, Outcome::Interrupted])
        .map(|(job, outcome)| job.owned.ended(ending(outcome)))
        .collect();
    assert_eq!(settled(&db.settle_runs(batch).await.unwrap()), [JobStatus::Succeeded, JobStatus::Queued]);
    no_violation(&client).await;
}
