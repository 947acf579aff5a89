//! Two at once: predecessors that end together, a cancel against a release, an enqueue that is not committed yet.

use super::{Answer, ClosedBy, Ending, JobId, Outcome, Stage, one};
use crate::support::eventually;

#[tokio::test]
async fn predecessors_that_end_at_once_let_their_job_go_whoever_looks_first() {
    let stage = Stage::new().await;
    for round in 0..30 {
        let (a, b) = (stage.enqueue("").await, stage.enqueue("").await);
        let c = stage.after(&[a, b]).await;
        let (one, other) = (stage.played.claim().await.unwrap(), stage.played.claim().await.unwrap());
        let end = async |claimed: orch::db::runs::Claimed| {
            let id = claimed.owned.job_id().0;
            stage.played.settle(claimed, Outcome::Succeeded).await;
            stage.resolve(&[id]).await
        };
        let (first, second) = tokio::join!(end(one), end(other));
        assert_eq!(first.0 + second.0, 1, "round {round}: one of the two let it go");
        assert_eq!(stage.run(Outcome::Succeeded).await, c);
    }
    stage.healthy().await;
}

#[tokio::test]
async fn a_row_that_another_has_locked_is_looked_at_again() {
    let stage = Stage::new().await;
    let other = stage.test.client().await;
    let (a, b) = (stage.enqueue("").await, stage.enqueue("").await);
    let c = stage.after(&[a, b]).await;
    // The one that looked before the second predecessor had ended, and is not committed.
    stage.run(Outcome::Succeeded).await;
    other.batch_execute(&format!("begin; update orch.jobs set waits_for = '{{{b}}}' where id = {c}")).await.unwrap();
    stage.run(Outcome::Succeeded).await;
    let round = stage.played.db.resolve_waits(&[JobId(b)], &[], 10).await.unwrap();
    assert_eq!((round.released, round.more), (0, true), "it is passed over, not waited for");
    let ended = [b];
    let (resolved, ()) = tokio::join!(stage.resolve(&ended), async { other.batch_execute("commit").await.unwrap() });
    assert_eq!(resolved, (1, 0));
    assert_eq!(stage.stands(c).await, "queued t");
}

#[tokio::test]
async fn a_row_that_was_shortened_is_looked_at_again() {
    let stage = Stage::new().await;
    let (a, b) = (stage.enqueue("").await, stage.enqueue(", priority => 9").await);
    let c = stage.after(&[a, b]).await;
    assert_eq!(stage.run(Outcome::Succeeded).await, b);
    let round = stage.played.db.resolve_waits(&[JobId(b)], &[], 10).await.unwrap();
    assert_eq!((round.released, round.shortened.clone(), round.more), (0, vec![JobId(c)], false));
    // Now the other one ends, and whoever settled it looked while the row still had the longer list: nothing to do, as it
    // seemed. Whoever shortened it looks once more.
    stage.run(Outcome::Succeeded).await;
    let again = stage.played.db.resolve_waits(&[], &round.shortened, 10).await.unwrap();
    assert_eq!((again.released, again.more), (1, false));
    assert_eq!(stage.stands(c).await, "queued t");
}

#[tokio::test]
async fn a_cancel_and_the_end_of_the_last_predecessor_leave_a_cancelled_job_or_none() {
    let stage = Stage::new().await;
    let other = stage.test.client().await;
    for round in 0..30 {
        let a = stage.enqueue("").await;
        let b = stage.after(&[a]).await;
        let c = stage.after(&[b]).await;
        stage.run(Outcome::Succeeded).await;
        let cancel = format!("select orch.cancel({b})");
        let ended = [a];
        let (_, cancelled) = tokio::join!(stage.resolve(&ended), other.batch_execute(&cancel));
        cancelled.unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        stage.tick().await;
        assert_eq!((stage.stands(b).await, stage.stands(c).await), ("cancelled f".into(), "cancelled f".into()));
    }
    stage.healthy().await;
}

#[tokio::test]
async fn a_predecessor_that_ends_before_the_enqueue_is_committed_is_noticed_by_the_next_tick() {
    let stage = Stage::new().await;
    let producer = stage.test.client().await;
    let (good, bad) = (stage.enqueue("").await, stage.enqueue("").await);
    producer.batch_execute("begin").await.unwrap();
    let b = one(&producer, &format!("select orch.enqueue('a', after => array[{good}::bigint])")).await.parse().unwrap();
    let c = one(&producer, &format!("select orch.enqueue('a', after => array[{bad}::bigint])")).await.parse().unwrap();
    stage.run(Outcome::Succeeded).await;
    stage.run(Outcome::Failed).await;
    assert_eq!(stage.resolve(&[good, bad]).await, (0, 0), "nobody can see them yet");
    producer.batch_execute("commit").await.unwrap();
    assert_eq!(stage.tick().await, 2);
    assert_eq!((stage.stands(b).await, stage.stands(c).await), ("queued t".into(), "cancelled f".into()));
    stage.healthy().await;
}

#[tokio::test]
async fn many_settlers_of_a_wide_graph_strand_nobody() {
    let stage = Stage::new().await;
    // Forty layers of five, each job after all of the layer before it.
    let mut layer: Vec<i64> = Vec::new();
    for _ in 0..40 {
        let mut next = Vec::new();
        for _ in 0..5 {
            next.push(if layer.is_empty() { stage.enqueue("").await } else { stage.after(&layer).await });
        }
        layer = next;
    }
    let settler = async || loop {
        let Some(claimed) = stage.played.claim().await else {
            if one(&stage.client, "select count(*) from orch.jobs where finished_at is null").await == "0" {
                break;
            }
            tokio::task::yield_now().await;
            continue;
        };
        let mut batch = vec![claimed.owned.ended(Ending::bare(Outcome::Succeeded, ClosedBy::Owner, ""))];
        // Whoever looks who waits may have the row locked for a moment longer than it waited.
        while let Some(one) = batch.pop() {
            let answers = stage.played.db.settle_runs(vec![one]).await.unwrap();
            let ended: Vec<i64> = answers.awaited.iter().map(|id| id.0).collect();
            stage.resolve(&ended).await;
            batch.extend(answers.into_iter().filter_map(|answer| match answer {
                Answer::Busy(one) => Some(one),
                Answer::Settled(..) => None,
                answer => panic!("{answer:?}"),
            }));
        }
    };
    tokio::join!(settler(), settler(), settler(), settler(), settler());
    assert_eq!(one(&stage.client, "select count(*) from orch.jobs where status = 'succeeded'").await, "200");
    // Each ran after all that it names.
    let early = "select count(*) from orch.job_dependencies d
                   join orch.agent_runs r on r.job_id = d.job_id join orch.agent_runs p on p.job_id = d.after_id
                  where r.claimed_at < p.ended_at";
    assert_eq!(one(&stage.client, early).await, "0");
    stage.healthy().await;
    eventually("nothing is left to resolve", async || (stage.tick().await == 0).then_some(())).await;
}
