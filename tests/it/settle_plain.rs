//! The smaller statement of a settle, for runs whose owner says how they ended while no limit is closed: it makes of a run what
//! the other would have made of it, and leaves to that one what is not so simple.

use std::time::Duration;

use orch::{
    db::{
        all_statements,
        jobs::When,
        runs::{Answer, Ending, Process, Usage},
    },
    model::{ClosedBy, Containment, JobStatus, Outcome},
};
use tokio_postgres::Client;

use crate::{
    lanes::{closing, ended, one},
    runs::{claim, enqueue, no_violation, register},
    support::TestDb,
};

/// Where a limit is closed, whatever it is, the larger statement has the say.
const CLOSED: &str = "select orch.set_limit('elsewhere', 1); select orch.close_limit('elsewhere')";

/// All that a settle writes, times as whether they are set, or lie ahead.
const WRITTEN: &str = "
    select (to_jsonb(j) - array['id', 'last_run_id', 'created_at', 'finished_at', 'failed_at', 'run_at', 'cancel_requested_at']
            || jsonb_build_object('finished', j.finished_at is not null, 'failed', j.failed_at is not null,
                                  'named', j.last_run_id = r.run_id, 'later', j.run_at > now()))::text
           || (to_jsonb(r) - array['run_id', 'job_id', 'claimed_at', 'spawned_at', 'ended_at']
               || jsonb_build_object('spawned', r.spawned_at is not null, 'ended', r.ended_at is not null))::text
      from orch.jobs j join orch.agent_runs r on r.job_id = j.id where j.id = $1";

/// How a run may end: with nothing to tell, or with all that there is.
fn endings(outcome: Outcome) -> [Ending; 2] {
    let all = Ending {
        exit_code: Some(3),
        signal: Some(9),
        error: Some("something".to_owned()),
        result: Some("{\"verdict\": \"so\"}".to_owned()),
        retry_at: Some(When::In(Duration::from_mins(1))),
        process: Some(Process { pid: 7, pid_started: 8, containment: Containment::Cgroup }),
        lasted: Some(Duration::from_secs(100)),
        usage: Some(Usage {
            user_cpu: 1.0,
            system_cpu: 2.0,
            peak_memory: 3,
            log_kept: 4,
            log_dropped: 5,
            processes_killed: 6,
        }),
        ..Ending::bare(outcome, ClosedBy::Successor, "")
    };
    [ended(outcome), all]
}

/// What becomes of one job for each way to end, with and without a wish to cancel it.
async fn outcomes(client: &Client, db: &TestDb) -> Vec<String> {
    let (pool, mut written) = (db.db(), Vec::new());
    let claimant = register(&pool).await;
    for outcome in Outcome::ALL {
        for is_cancelled in [false, true] {
            for ending in endings(*outcome) {
                enqueue(client, 1).await;
                let run = claim(&pool, &claimant, 1).await.remove(0);
                let job = run.owned.job_id().0;
                if is_cancelled {
                    client.execute("select orch.cancel($1)", &[&job]).await.unwrap();
                }
                let answers = pool.settle_runs(vec![run.owned.ended(ending)]).await.unwrap();
                let [Answer::Settled(_, next)] = &answers[..] else { panic!("{answers:?}") };
                let now: String = client.query_one(WRITTEN, &[&job]).await.unwrap().get(0);
                assert!(now.contains(&format!("\"status\": \"{next}\"")), "{next}: {now}");
                let replica = claimant.replica_id.to_string();
                written.push(format!("{outcome} {is_cancelled}: {}", now.replace(&replica, "replica")));
                client.execute("delete from orch.jobs where id = $1", &[&job]).await.unwrap();
            }
        }
    }
    no_violation(client).await;
    written
}

#[tokio::test]
async fn both_make_the_same_of_a_run() {
    let (plain, whole) = (TestDb::new().await, TestDb::new().await);
    let (one, other) = (plain.client().await, whole.client().await);
    other.batch_execute(CLOSED).await.unwrap();
    let (one, other) = (outcomes(&one, &plain).await, outcomes(&other, &whole).await);
    assert_eq!(one.len(), other.len());
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one, other);
    }
}

#[tokio::test]
async fn of_a_batch_it_settles_what_it_can_and_the_other_answers_the_rest() {
    let db = TestDb::new().await;
    let (client, pool) = (db.client().await, db.db());
    let claimant = register(&pool).await;
    enqueue(&client, 4).await;
    let mut runs = claim(&pool, &claimant, 4).await;
    let taken = runs.pop().unwrap();
    let taken_id = taken.owned.job_id().0;
    client.execute("update orch.jobs set status = 'queued' where id = $1", &[&taken_id]).await.unwrap();
    let locked = runs.pop().unwrap();
    let holder = db.client().await;
    holder.batch_execute("begin").await.unwrap();
    holder.execute("select from orch.jobs where id = $1 for update", &[&locked.owned.job_id().0]).await.unwrap();
    runs.extend([locked, taken]);
    let batch = runs.into_iter().map(|run| run.owned.ended(ended(Outcome::Succeeded))).collect();
    let answers = pool.settle_runs(batch).await.unwrap();
    let counted = |is: fn(&Answer) -> bool| answers.iter().filter(|answer| is(answer)).count();
    assert_eq!(counted(|answer| matches!(answer, Answer::Settled(_, JobStatus::Succeeded))), 2, "{answers:?}");
    assert_eq!(counted(|answer| matches!(answer, Answer::Busy(_))), 1, "{answers:?}");
    assert_eq!(counted(|answer| matches!(answer, Answer::NotYours(_) | Answer::Already(_))), 1, "{answers:?}");
}

#[tokio::test]
async fn one_bad_result_of_a_batch_stops_nobody() {
    let db = TestDb::new().await;
    let (client, pool) = (db.client().await, db.db());
    let claimant = register(&pool).await;
    enqueue(&client, 3).await;
    let bad = Ending { result: Some("\"\\u0000\"".to_owned()), ..ended(Outcome::Succeeded) };
    let runs = claim(&pool, &claimant, 3).await;
    let endings = [ended(Outcome::Succeeded), bad, ended(Outcome::Succeeded)];
    let batch = runs.into_iter().zip(endings).map(|(run, ending)| run.owned.ended(ending)).collect();
    let answers = pool.settle_runs(batch).await.unwrap();
    assert!(answers.iter().all(|answer| matches!(answer, Answer::Settled(..))), "{answers:?}");
    assert_eq!(
        one(&client, "select string_agg(outcome, ' ' order by outcome) from orch.agent_runs").await,
        "failed succeeded succeeded"
    );
}

#[tokio::test]
async fn a_run_that_closes_a_limit_is_for_the_other() {
    let db = TestDb::new().await;
    let (client, pool) = (db.client().await, db.db());
    let claimant = register(&pool).await;
    enqueue(&client, 1).await;
    let run = claim(&pool, &claimant, 1).await.remove(0);
    pool.settle_runs(vec![run.owned.ended(closing("agent:a", 60))]).await.unwrap();
    assert_eq!(one(&client, "select closed_until > now() from orch.limits where name = 'agent:a'").await, "true");
}

/// What both write is the same, to the letter.
#[test]
fn both_write_in_the_same_words() {
    let part = |name: &str| {
        let sql = all_statements().find(|statement| statement.name == name).unwrap().sql;
        let from = sql.find("changed as (").unwrap();
        let to = sql[from..].find("where r.run_id = d.run_id and").unwrap();
        &sql[from..from + to]
    };
    assert_eq!(part("runs/settle"), part("runs/settle_plain"));
}
