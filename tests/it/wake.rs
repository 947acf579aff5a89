//! Wake-ups: who is told, who is not, and that nothing depends on it.

use std::time::Duration;

use orch::{
    db::{Db, jobs::When, wake::Listener},
    model::{JobId, ReplicaId},
};
use tokio_postgres::Client;

use crate::{
    replica::{place, script, until},
    support::{Orch, TestDb, eventually},
};

/// Long enough for whatever was sent to have come.
const SILENCE: Duration = Duration::from_millis(300);
/// A poll so rare that only a wake-up can have begun a job in time.
const NEVER: &str = "10m";

async fn register(client: &Client, agents: &[&str]) -> ReplicaId {
    let id = ReplicaId::new();
    let row = "insert into orch.replicas (replica_id, name, host, agents, lease_until)
               values ($1, 'r', 'h', $2, now() + interval '1 hour')";
    client.execute(row, &[&id.0, &agents]).await.unwrap();
    id
}

/// A replica that waits for a job.
async fn waiting(client: &Client, db: &Db, agents: &[&str]) -> Listener {
    let listener = db.listen_for(register(client, agents).await, db).await.unwrap().expect("a connection that hears");
    assert!(listener.set_waiting(true).await.unwrap());
    listener
}

/// Which of them were told something.
async fn told(listeners: &mut [Listener]) -> Vec<usize> {
    // One that had been told and says so at once would be enough; that others were not takes a while to be known.
    tokio::time::sleep(SILENCE).await;
    let mut told = Vec::new();
    for (place, listener) in listeners.iter_mut().enumerate() {
        if tokio::time::timeout(Duration::ZERO, listener.heard()).await.is_ok() {
            told.push(place);
        }
    }
    told
}

/// That it is told something, however long that takes; then it waits no longer.
async fn heard(listener: &mut Listener, act: &str) {
    let told = tokio::time::timeout(Duration::from_mins(1), listener.heard()).await;
    assert!(matches!(told, Ok(Some(()))), "{act} told nobody");
    listener.set_waiting(false).await.unwrap();
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn one_job_wakes_one_of_many_who_wait_and_only_one_who_serves_its_agent() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(waiting(&client, &db, &["a"]).await);
    }
    crowd.push(waiting(&client, &db, &["b", "c"]).await);
    client.execute("select orch.enqueue('a')", &[]).await.unwrap();
    assert_eq!(told(&mut crowd).await.len(), 1);
    client.execute("select orch.enqueue('c')", &[]).await.unwrap();
    assert_eq!(told(&mut crowd).await, [20], "nobody else serves it");
    client.execute("select orch.enqueue('d')", &[]).await.unwrap();
    client.execute("select orch.enqueue('a', run_at => now() + interval '1 hour')", &[]).await.unwrap();
    assert_eq!(told(&mut crowd).await, [0; 0], "nobody serves it, or nothing is due");
    client.execute("select orch.enqueue('a') from generate_series(1, 100)", &[]).await.unwrap();
    assert_eq!(told(&mut crowd).await.len(), 1, "a transaction tells once");
    let many = r#"select orch.enqueue_many('[{"agent": "a"}, {"agent": "a"}, {"agent": "a"}, {"agent": "b"}]')"#;
    client.execute(many, &[]).await.unwrap();
    let woken = told(&mut crowd).await;
    assert!(woken.len() == 4 && woken.contains(&20), "as many as there are jobs: {woken:?}");
    // Inserted by hand, then said.
    client.batch_execute("insert into orch.jobs (agent) values ('a'); select orch.wake()").await.unwrap();
    assert_eq!(told(&mut crowd).await.len(), 1);
}

/// Has a session of which it was `told` last enqueue a job, in the same second with hardly an exception.
async fn enqueue_by_habit(client: &Client, told: ReplicaId, job: &str) {
    let habit = "select set_config('orch.told', concat('a ', floor(extract(epoch from clock_timestamp())), ' ', $1::uuid), false)";
    client.execute(&format!("with habit as materialized ({habit}) select {job} from habit"), &[&told.0]).await.unwrap();
}

#[tokio::test]
async fn a_session_tells_whom_it_told_before_while_that_one_waits_and_is_one_for_the_job() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    let (mut crowd, mut names) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let name = register(&client, &["a"]).await;
        crowd.push(db.listen_for(name, &db).await.unwrap().expect("a connection that hears"));
        names.push(name);
    }
    for listener in &crowd {
        assert!(listener.set_waiting(true).await.unwrap());
    }
    let mut same = 0;
    for (place, name) in names.iter().enumerate() {
        enqueue_by_habit(&client, *name, "orch.enqueue('a')").await;
        let woken = told(&mut crowd).await;
        assert_eq!(woken.len(), 1);
        same += usize::from(woken == [place]);
    }
    assert!(same >= 6, "{same} of 8: only one that a second ends before is told by chance");

    enqueue_by_habit(&client, names[0], "orch.wake('a', replicas => 3)").await;
    assert_eq!(told(&mut crowd).await.len(), 3, "who fills its slots tells several");
    client
        .execute("update orch.replicas set labels = '{\"gpu\": true}' where replica_id = $1", &[&names[5].0])
        .await
        .unwrap();
    enqueue_by_habit(&client, names[0], r#"orch.enqueue('a', require => '{"gpu": true}')"#).await;
    assert_eq!(told(&mut crowd).await, [5], "nobody else has the label");
    crowd[5].set_waiting(false).await.unwrap();
    enqueue_by_habit(&client, names[5], "orch.enqueue('a')").await;
    let woken = told(&mut crowd).await;
    assert!(woken.len() == 1 && woken != [5], "it waits no longer: {woken:?}");
    for listener in &crowd {
        listener.set_waiting(false).await.unwrap();
    }
    enqueue_by_habit(&client, names[5], "orch.enqueue('a')").await;
    assert_eq!(told(&mut crowd).await, [0; 0], "nobody waits");
}

#[tokio::test]
async fn who_does_not_wait_is_not_told_and_costs_an_enqueue_nothing() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    let wake = "select orch.wake('a')::bigint";
    assert_eq!(number(&client, wake).await, 0, "nobody is there");
    let mut one = [waiting(&client, &db, &["a"]).await];
    assert_eq!(number(&client, wake).await, 1);
    one[0].set_waiting(false).await.unwrap();
    assert_eq!(number(&client, wake).await, 0);
    assert_eq!(told(&mut one).await, [0], "what was said before it stopped waiting");
    let locks = "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())";
    assert_eq!(number(&client, locks).await, 0, "neither a replica that does not wait nor an enqueuer holds one");
    one[0].set_waiting(true).await.unwrap();
    assert_eq!(number(&client, locks).await, 2);
    client.batch_execute("update orch.replicas set draining = true").await.unwrap();
    assert_eq!(number(&client, wake).await, 0, "a draining replica takes nothing");
    client.batch_execute("update orch.replicas set draining = false; set orch.notify = off").await.unwrap();
    assert_eq!(number(&client, wake).await, 0, "the enqueuer wants none");
    client.batch_execute("reset orch.notify").await.unwrap();
    assert_eq!(number(&client, wake).await, 1);
    drop(one);
    eventually("the server to notice that the listener is gone", async || {
        (number(&client, locks).await == 0).then_some(())
    })
    .await;
    assert_eq!(number(&client, wake).await, 0);
}

#[tokio::test]
async fn who_enqueues_beside_another_leaves_the_wake_up_to_that_one_but_not_for_long() {
    let test = TestDb::new().await;
    let (db, mut first, second) = (test.db(), test.client().await, test.client().await);
    let _one = waiting(&second, &db, &["a"]).await;
    let wake = "select orch.wake('a')::bigint";
    // Both within a centisecond: not at every try.
    let open = loop {
        let open = first.transaction().await.unwrap();
        assert_eq!(open.query_one(wake, &[]).await.unwrap().get::<_, i64>(0), 1);
        if number(&second, wake).await == 0 {
            break open;
        }
        open.commit().await.unwrap();
    };
    eventually("another to be heard beside one that stays open", async || {
        (number(&second, wake).await == 1).then_some(())
    })
    .await;
    open.commit().await.unwrap();
}

#[tokio::test]
async fn every_act_of_an_operator_that_makes_a_job_due_tells_a_replica_that_waits() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    let held = number(&client, "select orch.enqueue('a')").await;
    let due = number(&client, "select orch.enqueue('a', limits => null)").await;
    let later = number(&client, "select orch.enqueue('a', run_at => now() + interval '1 hour')").await;
    let ended = number(&client, "select orch.enqueue('a')").await;
    let prepare = "select orch.hold($1), orch.cancel($2), orch.set_limit('api', 1), orch.close_limit('api'),
                          orch.pause('all'), orch.pause('project:p'), orch.pause('project:q')";
    client.execute(prepare, &[&held, &ended]).await.unwrap();
    for act in [
        format!("select orch.release({held})"),
        format!("select orch.retry({ended})"),
        "select orch.open_limit('api')".to_owned(),
        "select orch.set_limit('api', 2)".to_owned(),
        "select orch.resume('all')".to_owned(),
        "select orch.resume('project:p')".to_owned(),
        "select orch.drop_limit('project:q')".to_owned(),
    ] {
        let mut one = waiting(&client, &db, &["a"]).await;
        client.batch_execute(&act).await.unwrap();
        heard(&mut one, &act).await;
    }
    for when in [When::In(Duration::ZERO), "2020-01-01T00:00:00Z".parse().unwrap()] {
        let mut one = [waiting(&client, &db, &["a"]).await];
        db.set_job(JobId(later), None, Some(when)).await.unwrap().unwrap();
        heard(&mut one[0], "set --run-at").await;
        // What is not due by it, or was due before, tells nobody.
        one[0].set_waiting(true).await.unwrap();
        client.batch_execute(&format!("select orch.hold({due})")).await.unwrap();
        db.set_job(JobId(due), None, Some(when)).await.unwrap().unwrap();
        client.batch_execute(&format!("update orch.jobs set status = 'queued' where id = {due}")).await.unwrap();
        db.set_job(JobId(due), Some(7), None).await.unwrap().unwrap();
        let hour = When::In(Duration::from_hours(1));
        db.set_job(JobId(later), Some(7), Some(hour)).await.unwrap().unwrap();
        assert_eq!(told(&mut one).await, [0; 0]);
        one[0].set_waiting(false).await.unwrap();
    }
    // A replica that was draining, and that no enqueue would have told.
    let replica = register(&client, &["a"]).await;
    let mut one = db.listen_for(replica, &db).await.unwrap().expect("a connection that hears");
    db.set_draining(&[replica], true).await.unwrap();
    assert!(one.set_waiting(true).await.unwrap());
    assert_eq!(db.set_draining(&[replica], false).await.unwrap(), [(replica, true)]);
    heard(&mut one, "drain --off").await;
}

#[tokio::test]
async fn a_waiting_replica_begins_a_job_that_it_was_told_of() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test).with("ORCH_POLL_INTERVAL", NEVER);
    let _replica = orch.up().await;
    until_waiting(&client, 1).await;
    let first = script(&client, "true").await;
    until(&client, first, "succeeded").await;
    // And again, from then on: also what an operator lets go.
    let held = number(&client, "select orch.enqueue('true', run_at => now() + interval '1 hour')").await;
    client.execute("select orch.hold($1)", &[&held]).await.unwrap();
    client.batch_execute("update orch.jobs set run_at = now() where status = 'held'").await.unwrap();
    until_waiting(&client, 1).await;
    client.execute("select orch.release($1)", &[&held]).await.unwrap();
    until(&client, held, "succeeded").await;
    until_waiting(&client, 1).await;
    client.execute("select orch.retry($1)", &[&held]).await.unwrap();
    until(&client, held, "succeeded").await;
}

#[tokio::test]
async fn a_replica_that_is_full_wakes_others_for_what_is_left() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test).with("ORCH_POLL_INTERVAL", NEVER).with("ORCH_MAX_CONCURRENCY", "1");
    let places: Vec<Orch> = (0..3).map(|_| orch.beside()).collect();
    let mut replicas = Vec::new();
    for place in &places {
        replicas.push(place.up().await);
    }
    until_waiting(&client, 3).await;
    // By hand, so that just one is told of the three.
    let by_hand = "insert into orch.jobs (agent, payload) select 'sh', '{\"script\": \"sleep 100000\"}' from generate_series(1, 3)";
    client.batch_execute(by_hand).await.unwrap();
    assert_eq!(number(&client, "select orch.wake('sh')::bigint").await, 1);
    eventually("each replica to have one", async || {
        let running = "select count(distinct replica_id) from orch.jobs where status = 'running'";
        (number(&client, running).await == 3).then_some(())
    })
    .await;
    // Nobody waits any more, and says so.
    until_waiting(&client, 0).await;
}

#[tokio::test]
async fn a_replica_whose_listener_is_lost_or_unwanted_polls() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let replica = orch.up().await;
    until_waiting(&client, 1).await;
    let lost = "select count(pg_terminate_backend(pid)) from pg_locks where locktype = 'advisory' and classid = 1869767528 and objid <> 0 and database = (select oid from pg_database where datname = current_database())";
    assert_eq!(number(&client, lost).await, 1);
    let job = script(&client, "true").await;
    until(&client, job, "succeeded").await;
    until_waiting(&client, 1).await;
    drop(replica);

    let quiet = orch.beside().with("ORCH_NOTIFY", "false");
    let _replica = quiet.up().await;
    let job = script(&client, "true").await;
    until(&client, job, "succeeded").await;
    assert_eq!(number(&client, WAITING).await, 0);
}

/// Replicas that wait. A test server has many databases, and a lock is of one.
const WAITING: &str = "select count(*) from pg_locks
    where locktype = 'advisory' and classid = 1869767528 and objid <> 0 and granted
      and database = (select oid from pg_database where datname = current_database())";

async fn until_waiting(client: &Client, replicas: i64) {
    eventually(&format!("{replicas} replicas to wait"), async || {
        (number(client, WAITING).await == replicas).then_some(())
    })
    .await;
}
