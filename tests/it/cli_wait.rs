//! `orch enqueue --wait`: the exit code says how the job ended.

use orch::{db::runs::Claimed, model::Outcome};

use crate::{
    played::Played,
    support::{Orch, TestDb, eventually},
};

async fn claimed(played: &Played) -> Claimed {
    eventually("the job to be claimed", async || played.claim().await).await
}

#[tokio::test]
async fn the_exit_code_is_the_jobs() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    for (outcome, code) in
        [(Outcome::Succeeded, 0), (Outcome::Failed, 1), (Outcome::TimedOut, 124), (Outcome::SpawnFailed, 1)]
    {
        let waiting = orch.run(["enqueue", "a", "--max-attempts", "1", "--wait"]);
        let (output, ()) = tokio::join!(waiting, async {
            let run = claimed(&played).await;
            played.settle(run, outcome).await;
        });
        assert_eq!(output.status.code(), Some(code), "{outcome}: {output:?}");
        assert!(output.stdout.trim().parse::<i64>().is_ok(), "{output:?}");
        assert_eq!(output.stderr.lines().count(), usize::from(code != 0), "{output:?}");
    }
}

#[tokio::test]
async fn a_cancelled_job_ends_a_wait_with_130() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    let waiting = orch.run(["enqueue", "a", "--wait"]);
    let (output, ()) = tokio::join!(waiting, async {
        let run = claimed(&played).await;
        orch.run(["cancel", &run.owned.job_id().to_string()]).await.ok();
        played.settle(run, Outcome::Cancelled).await;
    });
    assert_eq!(output.status.code(), Some(130), "{output:?}");
}

#[tokio::test]
async fn a_wait_lasts_over_a_retry_and_a_hold() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    let waiting = orch.run(["enqueue", "a", "--max-attempts", "2", "--wait"]);
    let (output, ()) = tokio::join!(waiting, async {
        let first = claimed(&played).await;
        let id = first.owned.job_id().to_string();
        played.settle(first, Outcome::TimedOut).await;
        orch.run(["hold", &id]).await.ok();
        orch.run(["set", &id, "--run-at", "0s"]).await.ok();
        orch.run(["release", &id]).await.ok();
        let second = claimed(&played).await;
        played.settle(second, Outcome::Succeeded).await;
    });
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[tokio::test]
async fn a_job_that_vanishes_leaves_its_end_unknown() {
    let db = TestDb::new().await;
    let _played = Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    let waiting = orch.run(["enqueue", "a", "--run-at", "1h", "--wait"]);
    let client = db.client().await;
    let (output, ()) = tokio::join!(waiting, async {
        eventually("the job to be there", async || {
            (client.execute("delete from orch.jobs", &[]).await.unwrap() == 1).then_some(())
        })
        .await;
    });
    assert_eq!(output.status.code(), Some(125), "{output:?}");
}
