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
