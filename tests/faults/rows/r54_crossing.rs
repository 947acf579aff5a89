//! Row 54: a reap racing an adoption or a late result, settle batches crossing reap batches, two claims crossing two
//! gates. The token in every WHERE decides; no deadlock reaches anybody.

use orch::{
    db::runs::{Adoption, Answer, Claimed, Ending, Owned, Settlement},
    model::{ClosedBy, JobStatus, Outcome, RunId},
};

use crate::{
    case::Case,
    hand::{TIMING, claim, expire, open_gate, register, say, shut_gate, slow, tick, token, until_at_gate},
};

async fn enqueue(case: &Case, count: usize) {
    for _ in 0..count {
        case.enqueue("a").await;
    }
}

pub(crate) async fn an_adoption_that_holds_the_row_wins(case: &mut Case) {
    let (db, slow) = (case.db.db(), slow(&case.db));
    enqueue(case, 1).await;
    let (owner, successor) = (register(&db).await, register(&db).await);
    let run = claim(&db, &owner, 1, None).await.remove(0).owned;
    shut_gate(case).await;
    let adopting = tokio::spawn(async move { slow.adopt_runs(successor.replica_id, vec![run]).await.unwrap() });
    until_at_gate(&case.sql).await;
    expire(&case.sql, owner.replica_id).await;
    let done = tick(&db).await;
    assert_eq!((done.dead, done.reaped), (1, 0), "the row is held: it is reaped at the next tick, if it is still his");
    open_gate(&case.sql).await;
    let adopted = adopting.await.unwrap().remove(0);
    let Adoption::Adopted(adopted) = adopted else { panic!("{adopted:?}") };
    assert_eq!(tick(&db).await.reaped, 0, "its owner is live");
    let said = say(&db, adopted, Outcome::Succeeded).await;
    assert!(matches!(said, Answer::Settled(_, JobStatus::Succeeded)), "{said:?}");
}

pub(crate) async fn a_reap_that_saw_the_former_owner_leaves_the_successors_run(case: &mut Case) {
    let (db, slow) = (case.db.db(), slow(&case.db));
    enqueue(case, 1).await;
    // Nobody is declared dead where nobody has ticked.
    tick(&db).await;
    let (owner, successor) = (register(&db).await, register(&db).await);
    let run = claim(&db, &owner, 1, None).await.remove(0).owned;
    shut_gate(case).await;
    let adopting = tokio::spawn(async move { slow.adopt_runs(successor.replica_id, vec![run]).await.unwrap() });
    until_at_gate(&case.sql).await;
    expire(&case.sql, owner.replica_id).await;
    // A reap in two steps: what it sees is not what it finds.
    assert_eq!(db.declare_dead(TIMING).await.unwrap().len(), 1);
    let (seen, _) = db.list_orphans(0, 10).await.unwrap().remove(0);
    open_gate(&case.sql).await;
    let adopted = adopting.await.unwrap().remove(0);
    let Adoption::Adopted(adopted) = adopted else { panic!("{adopted:?}") };
    let reaped = seen.ended(Ending::bare(Outcome::Lost, ClosedBy::Reap, "as played"));
    let answer = db.settle_runs(vec![reaped]).await.unwrap().remove(0);
    assert!(matches!(answer, Answer::NotYours(_)), "taken from a live owner by the token of the former: {answer:?}");
    let said = say(&db, adopted, Outcome::Succeeded).await;
    assert!(matches!(said, Answer::Settled(_, JobStatus::Succeeded)), "{said:?}");
}

pub(crate) async fn a_result_of_a_taken_run_leaves_the_next_run_alone(case: &mut Case) {
    let db = case.db.db();
    enqueue(case, 1).await;
    let owner = register(&db).await;
    let taken = claim(&db, &owner, 1, None).await.remove(0).owned;
    case.sql.batch_execute("update orch.jobs set status = 'queued'").await.unwrap();
    db.acknowledge_ended(owner.replica_id, taken.job_id(), Some(taken.run_id())).await.unwrap();
    // The same replica has it again: only the run's name tells the two apart.
    let next = claim(&db, &owner, 1, None).await.remove(0).owned;
    let said = say(&db, taken, Outcome::Failed).await;
    assert!(matches!(said, Answer::NotYours(_)), "a run was ended by the result of the one before: {said:?}");
    assert_eq!(case.job(1).await.get::<_, &str>("status"), "running");
    let said = say(&db, next, Outcome::Succeeded).await;
    assert!(matches!(said, Answer::Settled(_, JobStatus::Succeeded)), "{said:?}");
}

pub(crate) async fn a_reap_that_holds_the_row_wins_and_the_result_comes_late(case: &mut Case) {
    let (db, slow) = (case.db.db(), slow(&case.db));
    enqueue(case, 1).await;
    let (owner, successor) = (register(&db).await, register(&db).await);
    let run = claim(&db, &owner, 1, None).await.remove(0).owned;
    let run_id = run.run_id();
    expire(&case.sql, owner.replica_id).await;
    shut_gate(case).await;
    let reaping = tokio::spawn(async move { tick(&slow).await });
    until_at_gate(&case.sql).await;
    let answer = db.adopt_runs(successor.replica_id, vec![run]).await.unwrap().remove(0);
    let (Adoption::NotYours(run) | Adoption::Busy(run)) = answer else { panic!("{answer:?}") };
    let said = say(&db, run, Outcome::Succeeded).await;
    assert!(matches!(said, Answer::Busy(_)), "the reap is not committed: {said:?}");
    open_gate(&case.sql).await;
    assert_eq!(reaping.await.unwrap().reaped, 1);
    let run = token(&db, run_id).await.unwrap();
    let answer = db.adopt_runs(successor.replica_id, vec![run]).await.unwrap().remove(0);
    let Adoption::NotYours(run) = answer else { panic!("{answer:?}") };
    let said = say(&db, run, Outcome::Succeeded).await;
    assert!(matches!(said, Answer::Late(_, JobStatus::Succeeded)), "{said:?}");
}

pub(crate) async fn one_late_result_told_twice_at_once_counts_once(case: &mut Case) {
    let (db, slow) = (case.db.db(), slow(&case.db));
    enqueue(case, 1).await;
    let owner = register(&db).await;
    let run = claim(&db, &owner, 1, None).await.remove(0).owned;
    let run_id = run.run_id();
    expire(&case.sql, owner.replica_id).await;
    assert_eq!(tick(&db).await.reaped, 1);
    shut_gate(case).await;
    // The job stays queued, and the run its last: only the run's row says that it was heard.
    let telling = tokio::spawn(async move { say(&slow, run, Outcome::Interrupted).await });
    until_at_gate(&case.sql).await;
    let said = say(&db, token(&db, run_id).await.unwrap(), Outcome::Interrupted).await;
    let Answer::Busy(again) = said else { panic!("{said:?}") };
    // Nor is it claimed in between: the claim passes it by.
    let next = register(&db).await;
    assert!(claim(&db, &next, 1, None).await.is_empty());
    open_gate(&case.sql).await;
    let first = telling.await.unwrap();
    assert!(matches!(first, Answer::Late(_, JobStatus::Queued)), "{first:?}");
    let second = db.settle_runs(vec![again]).await.unwrap().remove(0);
    assert!(matches!(second, Answer::Already(_)), "{second:?}");
    assert_eq!(case.job(1).await.get::<_, i32>("interrupted_count"), 1);
    let newer = claim(&db, &next, 1, None).await.remove(0).owned;
    let said = say(&db, newer, Outcome::Succeeded).await;
    assert!(matches!(said, Answer::Settled(..)), "{said:?}");
}

pub(crate) async fn an_uncommitted_enqueue_with_its_key_keeps_no_batch_waiting(case: &mut Case) {
    let db = case.db.db();
    case.sql.batch_execute("insert into orch.agents (name, on_lost) values ('a', 'fail')").await.unwrap();
    case.sql.batch_execute("select orch.enqueue('a', dedupe_key => 'k')").await.unwrap();
    let owner = register(&db).await;
    let lost = claim(&db, &owner, 1, None).await.remove(0).owned;
    expire(&case.sql, owner.replica_id).await;
    assert_eq!(tick(&db).await.reaped, 1);
    enqueue(case, 1).await;
    let next = register(&db).await;
    let other = claim(&db, &next, 1, None).await.remove(0).owned;
    let mut client = case.db.client().await;
    let open = client.transaction().await.unwrap();
    open.execute("select orch.enqueue('a', dedupe_key => 'k')", &[]).await.unwrap();
    let ending = |outcome| Ending::bare(outcome, ClosedBy::Owner, "as played");
    let batch = vec![lost.ended(ending(Outcome::Interrupted)), other.ended(ending(Outcome::Succeeded))];
    let mut busy = Vec::new();
    for answer in db.settle_runs(batch).await.unwrap() {
        match answer {
            Answer::Settled(_, next) => assert_eq!(next, JobStatus::Succeeded),
            Answer::Busy(one) => busy.push(one),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(busy.len(), 1, "the late one, and nobody else, is sent again");
    open.commit().await.unwrap();
    let said = db.settle_runs(busy).await.unwrap().remove(0);
    assert!(matches!(said, Answer::Noted(_)), "the key is another job's now: {said:?}");
    case.sql.batch_execute("select orch.cancel(id) from orch.jobs where status = 'queued'").await.unwrap();
}

/// Settles until every run is answered for; how each was.
async fn settle_all(db: orch::db::Db, mut batch: Vec<Settlement>) -> Vec<Answer> {
    let mut all = Vec::new();
    while !batch.is_empty() {
        let answers = db.settle_runs(std::mem::take(&mut batch)).await.unwrap();
        for answer in answers {
            match answer {
                Answer::Busy(one) => batch.push(one),
                answer => all.push(answer),
            }
        }
    }
    all
}

pub(crate) async fn settle_batches_cross_reap_batches(case: &mut Case) {
    const JOBS: usize = 300;
    let db = case.db.db();
    enqueue(case, JOBS).await;
    let owner = register(&db).await;
    let mut claimed: Vec<Owned> = claim(&db, &owner, JOBS, None).await.into_iter().map(|job| job.owned).collect();
    assert_eq!(claimed.len(), JOBS);
    expire(&case.sql, owner.replica_id).await;
    // From behind, in small batches, while reapers come from the front.
    claimed.sort_by_key(Owned::job_id);
    let mut settling = tokio::task::JoinSet::new();
    let mut reaping = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let db = db.clone();
        reaping.spawn(async move { tick(&db).await.reaped });
    }
    let ending = || Ending::bare(Outcome::Interrupted, ClosedBy::Owner, "as played");
    while !claimed.is_empty() {
        let batch = claimed.split_off(claimed.len().saturating_sub(20));
        settling.spawn(settle_all(db.clone(), batch.into_iter().rev().map(|run| run.ended(ending())).collect()));
    }
    let (mut in_time, mut late) = (0, 0);
    for answer in settling.join_all().await.into_iter().flatten() {
        match answer {
            Answer::Settled(_, JobStatus::Queued) => in_time += 1,
            Answer::Late(_, JobStatus::Queued) => late += 1,
            other => panic!("{other:?}"),
        }
    }
    let reaped: usize = reaping.join_all().await.into_iter().sum();
    assert_eq!((in_time + late, late), (JOBS, reaped), "each is heard once, and late exactly where a reap came first");
    let counts = "select count(*) from orch.jobs where (lost_count, interrupted_count, attempt) <> (0, 1, 1)";
    assert_eq!(case.sql.query_one(counts, &[]).await.unwrap().get::<_, i64>(0), 0, "nothing is counted twice");
    case.sql.batch_execute("select orch.cancel(id) from orch.jobs").await.unwrap();
}

pub(crate) async fn two_claims_cross_two_gates(case: &mut Case) {
    let db = case.db.db();
    // Each claim is to take its first gate, to wait for the other to have done so, and to go for the other's.
    case.sql
        .batch_execute(
            "select orch.enqueue('a', gate => 'one', priority => 2), orch.enqueue('a', gate => 'two', priority => 1);
             select orch.enqueue('a', gate => 'two', priority => 2), orch.enqueue('a', gate => 'one', priority => 1);
             create function public.meet() returns trigger language plpgsql as
             $$ begin
                 perform pg_advisory_xact_lock_shared(55);
                 for i in 1..500 loop
                     exit when (select count(*) from pg_locks where locktype = 'advisory' and objid = 55 and granted) >= 2;
                     perform pg_sleep(0.01);
                 end loop;
                 return new;
             end $$;
             create trigger aaa_meet before update on orch.jobs for each row
                 when (new.status = 'running' and new.id in (2, 4)) execute function public.meet();",
        )
        .await
        .unwrap();
    let (one, other) = (register(&db).await, register(&db).await);
    let (first, second): (Vec<Claimed>, Vec<Claimed>) =
        tokio::join!(claim(&db, &one, 2, Some(&[1, 2])), claim(&db, &other, 2, Some(&[3, 4])));
    assert_eq!(first.len() + second.len(), 2, "each gate was taken once, and nobody heard of an error");
    // A claim locks the gates that it is to take before it takes any, and waits for none.
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(case.sql.query_one(deadlocks, &[]).await.unwrap().get::<_, i64>(0), 0);
    for run in first.into_iter().chain(second) {
        let said = say(&db, run.owned, Outcome::Succeeded).await;
        assert!(matches!(said, Answer::Settled(..)), "{said:?}");
    }
    let left: Vec<RunId> = claim(&db, &one, 4, None).await.iter().map(|run| run.owned.run_id()).collect();
    assert_eq!(left.len(), 2);
    for run in left {
        say(&db, token(&db, run).await.unwrap(), Outcome::Succeeded).await;
    }
}
