//! Low-water marks: a claim that goes on from the heads which the one before saw reads no dead rows before them, and takes
//! what a claim that looks at everything would have taken from there on.

use orch::{
    db::runs::{Claim, Look},
    model::{Head, RunId},
};
use tokio_postgres::Client;

use super::{Claimer, cost::pages_from, ids, stage, succeed};

async fn claim(claimer: &Claimer, slots: usize, marks: Option<Vec<Head>>) -> Claim {
    let run_ids: Vec<RunId> = (0..slots).map(|_| RunId::new()).collect();
    let look = Look { marks, ..Look::default() };
    claimer.db.claim_jobs(&claimer.claimant, &["a".to_owned()], &run_ids, &look).await.unwrap()
}

async fn enqueue(client: &Client, jobs: i32) -> Vec<i64> {
    let rows = client.query("select orch.enqueue('a') from generate_series(1, $1)", &[&jobs]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_claim_goes_on_from_the_heads_that_the_last_one_saw() {
    let (_test, client, claimer) = stage().await;
    let jobs = enqueue(&client, 30).await;
    let first = claim(&claimer, 10, None).await;
    assert_eq!(ids(&first.jobs), jobs[..10]);
    assert_eq!(first.heads.iter().map(|head| head.id).collect::<Vec<_>>(), jobs[..1]);

    let second = claim(&claimer, 10, Some(first.heads)).await;
    assert_eq!(ids(&second.jobs), jobs[10..20], "what was taken is gone, and the rest in order");
    assert_eq!(second.heads.iter().map(|head| head.id).collect::<Vec<_>>(), jobs[10..11]);
}

/// Why a claim that goes on from marks is never the last word.
#[tokio::test]
async fn what_stands_before_a_mark_or_in_another_lane_is_for_a_claim_that_looks_at_everything() {
    let (_test, client, claimer) = stage().await;
    let jobs = enqueue(&client, 12).await;
    let first = claim(&claimer, 4, None).await;
    let marks = claim(&claimer, 4, Some(first.heads)).await.heads;
    let sooner = "insert into orch.jobs (agent, run_at) values ('a', now() - interval '1 day') returning id";
    let early: i64 = client.query_one(sooner, &[]).await.unwrap().get(0);
    let urgent: i64 = client.query_one("select orch.enqueue('a', priority => 9)", &[]).await.unwrap().get(0);

    let on = claim(&claimer, 8, Some(marks)).await;
    assert_eq!(ids(&on.jobs), jobs[8..], "neither is seen from the marks");
    assert!(!on.looked(8, std::time::Duration::ZERO).enough, "so it brings less than was wanted, and does not go on");
    assert_eq!(ids(&claim(&claimer, 8, None).await.jobs), [early, urgent]);
}

#[tokio::test]
async fn under_an_old_snapshot_the_dead_rows_before_a_mark_are_not_read() {
    const CHURNED: i32 = 4_000;
    let (test, client, claimer) = stage().await;
    let snapshot = test.client().await;
    snapshot.batch_execute("begin isolation level repeatable read; select from orch.jobs limit 1").await.unwrap();
    enqueue(&client, CHURNED).await;
    loop {
        let jobs = claim(&claimer, 200, None).await.jobs;
        if jobs.is_empty() {
            break;
        }
        succeed(&claimer.db, jobs).await;
    }
    enqueue(&client, 30).await;
    let all = claim(&claimer, 10, None).await;
    assert_eq!(all.jobs.len(), 10);
    let everything = pages_from(&client, &claimer, 5, None).await;
    let marked = pages_from(&client, &claimer, 5, all.heads.first()).await;
    // The rows of the dead are looked at, to see that they are gone.
    assert!(everything > marked + i64::from(CHURNED) / 40, "{everything} and {marked}: there was nothing to step over");
    assert!(marked < 200, "{marked} pages from the mark on");
}
