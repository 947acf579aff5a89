//! Settling in a batch that is repeated one by one: each answer is heard once, whatever comes after it.

use orch::{
    db::runs::{Answer, Ending},
    model::{ClosedBy, Outcome},
};

use crate::{
    runs::{claim, enqueue, no_violation, register},
    support::TestDb,
};

#[tokio::test]
async fn an_answer_that_has_come_is_not_lost_when_the_rest_of_the_batch_fails() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 3).await;
    let claimant = register(&db).await;
    let claimed = claim(&db, &claimant, 3).await;
    // Job 2 is refused for what is in it; job 3 fails as where a server goes away.
    client
        .batch_execute(
            "create function trouble() returns trigger language plpgsql as $$
             begin
                 if new.id = 2 then raise exception 'bad luck' using errcode = '23514'; end if;
                 if new.id = 3 then raise exception 'going away' using errcode = '57P01'; end if;
                 return new;
             end $$;
             create trigger trouble before update on orch.jobs for each row execute function trouble()",
        )
        .await
        .unwrap();
    let succeeded = |job: orch::db::runs::Claimed| {
        job.owned.ended(Ending { error: None, ..Ending::bare(Outcome::Succeeded, ClosedBy::Owner, "") })
    };
    let mut batch: Vec<_> = claimed.into_iter().map(succeeded).collect();
    batch.sort_by_key(orch::db::runs::Settlement::job_id);
    let answers = db.settle_runs(batch).await.unwrap();
    assert!(matches!(answers[0], Answer::Settled(..)), "{answers:?}");
    assert!(matches!(answers[1], Answer::Refused(..)), "{answers:?}");
    assert!(matches!(answers[2], Answer::Busy(_)), "to be sent again: {answers:?}");
    no_violation(&client).await;
}

#[tokio::test]
async fn a_settle_whose_connection_is_killed_is_sent_again_until_it_is_answered_and_counts_once() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let claimant = register(&test.db()).await;
    // In the middle of the statement, and between it and its answer: the killer comes when the row is written, or when
    // the transaction is about to commit.
    for when in ["", "constraint"] {
        let (timing, deferred) =
            if when.is_empty() { ("before", "") } else { ("after", "deferrable initially deferred") };
        client
            .batch_execute(&format!(
                "delete from orch.jobs; select orch.enqueue('a'), orch.enqueue('a');
                 drop trigger if exists zzz_killer on orch.jobs;
                 create table if not exists public.kills (n integer);
                 create or replace function public.killer() returns trigger language plpgsql as
                 $$ begin
                     if pg_try_advisory_lock(77) then perform pg_sleep(30); end if;
                     return new;
                 end $$;
                 create {when} trigger zzz_killer {timing} update on orch.jobs {deferred} for each row
                     when (new.status <> 'running') execute function public.killer()"
            ))
            .await
            .unwrap();
        let db = test.db();
        let claimed = claim(&db, &claimant, 2).await;
        let batch: Vec<_> = claimed
            .into_iter()
            .map(|job| job.owned.ended(Ending::bare(Outcome::Failed, ClosedBy::Owner, "why")))
            .collect();
        let settling = tokio::spawn({
            let db = db.clone();
            async move { db.settle_runs(batch).await }
        });
        let sleeping = "select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and wait_event = 'PgSleep'";
        crate::support::eventually("the settle to be cut", async || {
            // The lock goes with the session; nobody sleeps a second time.
            let cut = !client.query(sleeping, &[]).await.unwrap().is_empty();
            cut.then_some(())
        })
        .await;
        client.batch_execute("drop trigger zzz_killer on orch.jobs").await.unwrap();
        let mut answer = settling.await.unwrap();
        assert!(answer.is_err(), "{when}: {answer:?}");
        // The pool may lend the cut connection once more.
        let answers = loop {
            match answer {
                Ok(answers) => break answers,
                Err((error, batch)) => {
                    assert!(error.is_ambiguous(), "{when}: {error:?}");
                    answer = db.settle_runs(batch).await;
                }
            }
        };
        assert!(answers.iter().all(|answer| matches!(answer, Answer::Settled(..))), "{when}: {answers:?}");
        let once = "select count(*) from orch.jobs where failures = 1 and status = 'queued'";
        assert_eq!(client.query_one(once, &[]).await.unwrap().get::<_, i64>(0), 2);
        no_violation(&client).await;
    }
}

#[tokio::test]
async fn a_settle_that_was_committed_and_not_heard_of_is_answered_the_second_time_also_half_of_a_batch() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 3).await;
    let claimant = register(&db).await;
    let claimed = claim(&db, &claimant, 3).await;
    let ending = || Ending::bare(Outcome::Failed, ClosedBy::Owner, "why");
    // Two of three were settled by a statement whose answer nobody heard; then one of the two is retried by an operator.
    let unheard: Vec<_> = db.list_inherited(&[claimant.replica_id], &[]).await.unwrap();
    let unheard = unheard.into_iter().take(2).map(|found| found.owned.ended(ending())).collect();
    drop(db.settle_runs(unheard).await.unwrap());
    client
        .batch_execute(
            "update orch.jobs set run_at = now(), priority = 1 where id = 1; select orch.cancel(1), orch.retry(1)",
        )
        .await
        .unwrap();
    let batch = claimed.into_iter().map(|job| job.owned.ended(ending())).collect();
    let (mut already, mut settled) = (0, 0);
    for answer in db.settle_runs(batch).await.unwrap() {
        match answer {
            Answer::Already(_) => already += 1,
            Answer::Settled(..) => settled += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((already, settled), (2, 1));
    let retried = claim(&db, &claimant, 1).await;
    assert_eq!(retried.first().map(|job| job.owned.job_id().0), Some(1), "the retry runs");
    no_violation(&client).await;
}
