//! Row 35: a task is cancelled inside of a transaction, at each point where it can be. Its connection never returns to the
//! pool inside one, the server is told to stop, and the locks are somebody else's to take.

use std::{pin::pin, task::Poll, time::Duration};

use orch::{
    db::{
        Db,
        runs::{Answer, Claimant, Ending, Look},
    },
    model::{ClosedBy, Outcome, RunId},
};

use crate::{
    case::Case,
    hand::{claim, expire, open_gate, register, say, shut_gate, slow, tick, token, until_at_gate},
    support::{TestDb, eventually},
};

/// How long whoever comes next may wait for the one connection: far less than for an answer.
const SOON: Duration = Duration::from_secs(5);
/// The most points at which a claim can be cancelled, a connection that is made for it included.
const POINTS: usize = 200;
const NAME: &str = "cancelled";

/// Cancels a future when it waits for the so-many-th time. `None` where it was.
async fn cancelled_at<T>(point: usize, what: impl Future<Output = T>) -> Option<T> {
    let mut what = pin!(what);
    let mut waits = 0;
    std::future::poll_fn(|context| match what.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => {
            waits += 1;
            if waits == point { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await
}

/// A pool of one connection, which bears a name.
fn pool_of_one(db: &TestDb) -> Db {
    let mut config = db.config();
    config.application_name(NAME);
    Db::new(config, 1, true).unwrap()
}

/// Whoever comes next has the pool's connection soon, and no connection of it is in a transaction.
async fn is_usable(case: &Case, db: &Db, claimant: &Claimant, name: &str) {
    let next =
        tokio::time::timeout(SOON, db.list_claimable(claimant, &["a".into()], &[RunId::new()], &Look::default())).await;
    assert!(next.is_ok_and(|answer| answer.is_ok()), "the pool's one connection is not to be had");
    let inside = "select pid, state, query from pg_stat_activity where application_name = $1 and state <> 'idle'";
    eventually("every connection of the pool to be outside of a transaction", async || {
        case.sql.query(inside, &[&name]).await.unwrap().is_empty().then_some(())
    })
    .await;
}

pub(crate) async fn at_every_point_of_a_claim(case: &mut Case) {
    let owner = register(&case.db.db()).await;
    // Each needs a limit that is counted and a gate, both of which the claim locks.
    let enqueue = "select orch.set_limit('counted', 1000);
                   select orch.enqueue('a', limits => '{counted}', gate => 'g' || n) from generate_series(1, 300) n";
    case.sql.batch_execute(enqueue).await.unwrap();
    for connected in [false, true] {
        let mut point = 0;
        loop {
            point += 1;
            assert!(point < POINTS, "a claim that can be cancelled at {point} points");
            let db = pool_of_one(&case.db);
            if connected {
                is_usable(case, &db, &owner, NAME).await;
            }
            let names = [RunId::new(), RunId::new()];
            let claimed = cancelled_at(point, db.claim_jobs(&owner, &["a".into()], &names, &Look::default())).await;
            is_usable(case, &db, &owner, NAME).await;
            // Nobody but who was cancelled keeps a row: it is free, or its claim was committed. Nor the limit, nor a gate.
            let free = "select id from orch.jobs where claimable for update nowait;
                        select name from orch.limits for update nowait";
            case.sql.batch_execute(&format!("begin; {free}; rollback")).await.expect("no lock is left");
            let kept = "select count(*) from pg_locks l join pg_stat_activity a on a.pid = l.pid
                         where l.locktype = 'advisory' and a.application_name = $1";
            let kept: i64 = case.sql.query_one(kept, &[&NAME]).await.unwrap().get(0);
            assert_eq!(kept, 0, "no gate is left locked");
            let used =
                "select u.running = (select count(*) from orch.jobs where status = 'running') from orch.limit_use u";
            assert!(case.sql.query_one(used, &[]).await.unwrap().get::<_, bool>(0), "what runs is what is used");
            if claimed.is_some() {
                break;
            }
        }
        // The statement that is under way and what the pool does before and after: there is more than one point.
        assert!(point > 1, "nothing was cancelled");
    }
    expire(&case.sql, owner.replica_id).await;
    while tick(&case.db.db()).await.reaped > 0 {}
    case.sql.batch_execute("select orch.cancel(id) from orch.jobs").await.unwrap();
}

pub(crate) async fn in_the_middle_of_a_statement(case: &mut Case) {
    let db = slow(&case.db);
    let owner = register(&case.db.db()).await;
    case.sql.batch_execute("select orch.enqueue('a')").await.unwrap();
    shut_gate(case).await;
    let claiming = tokio::spawn({
        let (db, owner) = (db.clone(), owner.clone());
        async move { claim(&db, &owner, 1, None).await }
    });
    until_at_gate(&case.sql).await;
    claiming.abort();
    is_usable(case, &db, &owner, "slow").await;
    // The gate is still shut: it is the server that let go of the job.
    let mut claimed = claim(&case.db.db(), &owner, 1, None).await;
    assert_eq!(claimed.len(), 1, "the job is free");

    let ending = || Ending::bare(Outcome::Failed, ClosedBy::Owner, "as played");
    let run = claimed.remove(0).owned;
    let run_id = run.run_id();
    let settling = tokio::spawn({
        let db = db.clone();
        async move { db.settle_runs(vec![run.ended(ending())]).await.map(|_| ()).map_err(|(error, _)| error) }
    });
    until_at_gate(&case.sql).await;
    settling.abort();
    is_usable(case, &db, &owner, "slow").await;
    let again = token(&case.db.db(), run_id).await.expect("the run");
    let said = say(&case.db.db(), again, Outcome::Succeeded).await;
    assert!(matches!(said, Answer::Settled(..)), "the run is there to be settled: {said:?}");
    open_gate(&case.sql).await;
}
