//! The compare-and-swap by which a run's owner changes, and what a start is told of the runs that it finds.

use orch::{
    db::{
        Db,
        runs::{Adoption, Answer, Claimant, Ending, Inherited, Owned, Standing},
    },
    model::{ClosedBy, Outcome, RunId},
};
use tokio_postgres::Client;

use crate::{
    runs::{claim, enqueue, no_violation, register},
    support::{TestDb, eventually},
};

/// A former boot with one open run, its successor, and the run's token as a start reads it.
async fn inherited(db: &Db, client: &Client) -> (Claimant, Claimant, Owned) {
    enqueue(client, 1).await;
    let former = register(db).await;
    assert_eq!(claim(db, &former, 1).await.len(), 1);
    let successor = register(db).await;
    let owned = again(db, &former).await;
    (former, successor, owned)
}

/// The token of the former boot's one open run, as often as it is asked for.
async fn again(db: &Db, former: &Claimant) -> Owned {
    let mut found = db.list_inherited(&[former.replica_id], &[]).await.unwrap();
    let Inherited { owned, agent, standing } = found.remove(0);
    assert_eq!((agent.as_deref(), standing, found.len()), (Some("a"), Standing::Open, 0));
    owned
}

async fn adopt(db: &Db, successor: &Claimant, owned: Owned) -> Adoption {
    db.adopt_runs(successor.replica_id, vec![owned]).await.unwrap().remove(0)
}

#[tokio::test]
async fn an_adoption_moves_job_and_run_and_raises_the_lease_to_the_former_ones() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    let (former, successor, owned) = inherited(&db, &client).await;
    let handed = "update orch.replicas set lease_until = now() + interval '5 minutes' where replica_id = $1";
    client.execute(handed, &[&former.replica_id.0]).await.unwrap();
    let Adoption::Adopted(owned) = adopt(&db, &successor, owned).await else { panic!("it is granted") };
    assert_eq!(owned.replica_id(), successor.replica_id);
    let row = client
        .query_one(
            "select j.replica_id, r.replica_id, me.lease_until >= was.lease_until
               from orch.jobs j join orch.agent_runs r using (run_id)
               join orch.replicas me on me.replica_id = $1 join orch.replicas was on was.replica_id = $2",
            &[&successor.replica_id.0, &former.replica_id.0],
        )
        .await
        .unwrap();
    let owners: (uuid::Uuid, uuid::Uuid) = (row.get(0), row.get(1));
    assert_eq!(owners, (successor.replica_id.0, successor.replica_id.0));
    assert!(row.get::<_, bool>(2), "until its shim is told, the run lives by the former lease");
    no_violation(&client).await;
    // And it is the successor's to settle, nobody else's.
    let ending = Ending::bare(Outcome::Succeeded, ClosedBy::Owner, "");
    let answers = db.settle_runs(vec![owned.ended(ending)]).await.unwrap();
    assert!(matches!(answers[..], [Answer::Settled(..)]), "{answers:?}");
}

#[tokio::test]
async fn an_adoption_that_is_sent_again_is_granted_again_and_the_former_owner_settles_no_more() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    let (former, successor, first) = inherited(&db, &client).await;
    // Two more of the same token: a resend, and what the former owner would settle by.
    let (second, stale) = (again(&db, &former).await, again(&db, &former).await);
    assert!(matches!(adopt(&db, &successor, first).await, Adoption::Adopted(_)));
    assert!(matches!(adopt(&db, &successor, second).await, Adoption::Adopted(_)), "its first reply was lost");
    let answers = db.settle_runs(vec![stale.ended(Ending::bare(Outcome::Failed, ClosedBy::Owner, ""))]).await.unwrap();
    assert!(matches!(answers[..], [Answer::NotYours(_)]), "{answers:?}");
    no_violation(&client).await;
}

#[tokio::test]
async fn what_is_not_granted_is_refused_and_what_is_locked_is_asked_again() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    let (former, successor, first) = inherited(&db, &client).await;
    let (second, third, fourth) = (again(&db, &former).await, again(&db, &former).await, again(&db, &former).await);

    let mut other = test.client().await;
    let holding = other.transaction().await.unwrap();
    holding.execute("select from orch.jobs for update", &[]).await.unwrap();
    let Adoption::Busy(first) = adopt(&db, &successor, first).await else { panic!("the row is locked") };
    holding.rollback().await.unwrap();

    let stranger = register(&db).await;
    client
        .execute("update orch.replicas set state = 'dead' where replica_id = $1", &[&stranger.replica_id.0])
        .await
        .unwrap();
    assert!(
        matches!(adopt(&db, &stranger, second).await, Adoption::NotYours(_) | Adoption::Busy(_)),
        "a dead successor"
    );

    client
        .execute("update orch.replicas set state = 'dead' where replica_id = $1", &[&former.replica_id.0])
        .await
        .unwrap();
    assert!(
        matches!(adopt(&db, &successor, first).await, Adoption::NotYours(_)),
        "a dead owner's run is for the reaper"
    );
    let reaped = third.ended(Ending::bare(Outcome::Lost, ClosedBy::Reap, "its replica was declared dead"));
    assert!(matches!(db.settle_runs(vec![reaped]).await.unwrap()[..], [Answer::Settled(..)]));
    assert!(matches!(adopt(&db, &successor, fourth).await, Adoption::NotYours(_)), "it is reaped");
    no_violation(&client).await;
}

/// The former owner's lease, and so the life of the run, may be longer than the successor's: moved to a successor that is
/// dead already, a live run would be reaped at once. (`tests/model` finds what comes of it.)
#[tokio::test]
async fn a_successor_that_is_declared_dead_while_it_adopts_takes_nothing() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    let (former, successor, owned) = inherited(&db, &client).await;
    let mut other = test.client().await;
    let reaper = other.transaction().await.unwrap();
    let declared = "update orch.replicas set state = 'dead' where replica_id = $1";
    reaper.execute(declared, &[&successor.replica_id.0]).await.unwrap();
    let adopting = tokio::spawn({
        let (db, successor) = (db.clone(), successor.replica_id);
        async move { db.adopt_runs(successor, vec![owned]).await.unwrap().remove(0) }
    });
    let waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    eventually("the adoption to meet the lock", async || client.query_opt(waiting, &[]).await.unwrap()).await;
    reaper.commit().await.unwrap();
    let answer = adopting.await.unwrap();
    assert!(!matches!(answer, Adoption::Adopted(_)), "{answer:?}");
    let whose: uuid::Uuid = client.query_one("select replica_id from orch.jobs", &[]).await.unwrap().get(0);
    assert_eq!(whose, former.replica_id.0);
    no_violation(&client).await;
}

#[tokio::test]
async fn a_start_is_told_how_each_run_that_it_finds_stands() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 3).await;
    let former = register(&db).await;
    let mut claimed = claim(&db, &former, 3).await;
    let names: Vec<RunId> = claimed.iter().map(|claimed| claimed.owned.run_id()).collect();
    let reaped = claimed.remove(2).owned.ended(Ending::bare(Outcome::Lost, ClosedBy::Reap, "dead"));
    let ended = claimed.remove(1).owned.ended(Ending::bare(Outcome::Succeeded, ClosedBy::Owner, ""));
    db.settle_runs(vec![reaped, ended]).await.unwrap();
    let unknown = RunId::new();
    let found = db.list_inherited(&[], &[names[0], names[1], names[2], unknown]).await.unwrap();
    let standing = |run_id| found.iter().find(|found| found.owned.run_id() == run_id).map(|found| found.standing);
    assert_eq!(
        names.iter().map(|name| standing(*name)).collect::<Vec<_>>(),
        [Some(Standing::Open), Some(Standing::Closed), Some(Standing::Lost)]
    );
    assert_eq!(standing(unknown), None);
}
