//! The reaper and the sanitizer, by their ticks: times are back-dated, nothing sleeps.

use orch::{
    db::{Db, reaper::Timing},
    model::{JobId, Outcome},
    replica::{Done, Reaper},
};
use tokio_postgres::Client;

use crate::{
    runs::{claim, enqueue, no_violation, register, status},
    support::TestDb,
};

const TIMING: Timing = Timing { lease: 60.0, heartbeat: 5.0, reap_grace: 5.0 };

fn reaper() -> Reaper {
    Reaper::new(TIMING, true)
}

pub(crate) async fn tick(db: &Db) -> Done {
    reaper().tick(db, true).await.unwrap()
}

/// Somebody has been ticking all along, so that no outage is waited out.
pub(crate) async fn no_outage(client: &Client) {
    client
        .batch_execute(
            "update orch.meta set last_tick_at = clock_timestamp(), wait_until = null, wait_until_set_at = null",
        )
        .await
        .unwrap();
}

pub(crate) async fn expire_leases(client: &Client) {
    client.batch_execute("update orch.replicas set lease_until = now() - interval '10 seconds'").await.unwrap();
}

async fn counter(client: &Client, name: &str) -> i64 {
    client.query_one("select value from orch.counters where name = $1", &[&name]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_dead_owners_job_is_settled_as_lost_by_its_lease_and_runs_again() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 1).await;
    let dead = register(&db).await;
    claim(&db, &dead, 1).await;
    no_outage(&client).await;
    assert_eq!(tick(&db).await, Done::default(), "its lease is alive");

    expire_leases(&client).await;
    let done = tick(&db).await;
    assert_eq!((done.dead, done.reaped), (1, 1));
    let row = client.query_one("select outcome, closed_by from orch.agent_runs", &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), (Outcome::Lost.as_str(), "reap"));
    assert_eq!(counter(&client, "reaped_total").await, 1);
    let next = register(&db).await;
    assert_eq!(claim(&db, &next, 1).await[0].attempt, 2);
    assert_eq!(tick(&db).await, Done::default(), "a reap that is repeated finds nothing");
    no_violation(&client).await;
}

#[tokio::test]
async fn nobody_is_declared_dead_right_after_an_outage_and_a_loss_in_it_is_nobodys_fault() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 1).await;
    claim(&db, &register(&db).await, 1).await;
    client.batch_execute("update orch.meta set last_tick_at = now() - interval '31 seconds'").await.unwrap();
    expire_leases(&client).await;
    assert_eq!(tick(&db).await, Done::default(), "everybody's lease looks expired after an outage");
    let wait: bool = client
        .query_one("select wait_until between now() + interval '15 s' and now() + interval '21 s' from orch.meta", &[])
        .await
        .unwrap()
        .get(0);
    assert!(wait, "3H + G");
    client.batch_execute("update orch.meta set wait_until = now() - interval '1 second'").await.unwrap();
    let done = tick(&db).await;
    assert_eq!((done.dead, done.reaped), (1, 1));
    let lost: i32 = client.query_one("select lost_count from orch.jobs", &[]).await.unwrap().get(0);
    assert_eq!(lost, 0);
}

#[tokio::test]
async fn a_change_of_the_servers_timeline_is_waited_out_for_a_whole_lease() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    register(&db).await;
    no_outage(&client).await;
    client.batch_execute("update orch.meta set timeline = '000000FF'").await.unwrap();
    expire_leases(&client).await;
    assert_eq!(tick(&db).await, Done::default());
    let wait: bool =
        client.query_one("select wait_until > now() + interval '60 s' from orch.meta", &[]).await.unwrap().get(0);
    assert!(wait, "L + G");
}

#[tokio::test]
async fn five_thousand_orphans_are_settled_in_one_tick() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 5000).await;
    let dead = register(&db).await;
    let mut claimed = 0;
    while claimed < 5000 {
        claimed += claim(&db, &dead, 500).await.len();
    }
    no_outage(&client).await;
    expire_leases(&client).await;
    assert_eq!(tick(&db).await.reaped, 5000);
    no_violation(&client).await;
}

#[tokio::test]
async fn a_job_is_poisoned_after_three_losses() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 1).await;
    for lost in 1..=3 {
        claim(&db, &register(&db).await, 1).await;
        no_outage(&client).await;
        expire_leases(&client).await;
        assert_eq!(tick(&db).await.reaped, 1);
        let count: i32 = client.query_one("select lost_count from orch.jobs", &[]).await.unwrap().get(0);
        assert_eq!(count, lost);
        client.batch_execute("update orch.jobs set run_at = now() where status = 'queued'").await.unwrap();
    }
    let row = client.query_one("select status, error from orch.jobs", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "failed");
    assert!(row.get::<_, &str>(1).starts_with("poisoned"), "{}", row.get::<_, &str>(1));
}

/// Makes a queued row impossible, past trigger and CHECK, as only a superuser can.
async fn make_impossible(client: &Client, job_id: i64, set: &str) {
    client
        .batch_execute(&format!(
            "alter table orch.jobs disable trigger user;
             do $$ declare c text; begin
                 for c in select conname from pg_constraint where conrelid = 'orch.jobs'::regclass and contype = 'c'
                             and conname = 'has_an_owner_exactly_while_running' loop
                     execute format('alter table orch.jobs drop constraint %I', c);
                 end loop; end $$;
             update orch.jobs set {set} where id = {job_id};
             do $$ declare t text; begin
                 for t in select tgname from pg_trigger where tgrelid = 'orch.jobs'::regclass and not tgisinternal loop
                     execute format('alter table orch.jobs enable always trigger %I', t);
                 end loop; end $$;"
        ))
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
}

#[tokio::test]
async fn impossible_queued_rows_are_repaired_counted_and_told_whatever_column_they_carry() {
    for set in [
        "run_id = gen_random_uuid()".to_owned(),
        format!("pid = {}", std::process::id()),
        "replica_id = gen_random_uuid()".to_owned(),
        "started_at = now()".to_owned(),
        format!(
            "run_id = gen_random_uuid(), pid = {}, replica_id = gen_random_uuid(), started_at = now()",
            std::process::id()
        ),
    ] {
        let test = TestDb::new().await;
        let (db, client) = (test.db(), test.client().await);
        enqueue(&client, 2).await;
        make_impossible(&client, 1, &set).await;
        let healthy: String =
            client.query_one("select xmin::text from orch.jobs where id = 2", &[]).await.unwrap().get(0);
        no_outage(&client).await;
        assert_eq!(tick(&db).await.impossible, 1, "{set}");
        assert_eq!(counter(&client, "impossible_queued_total").await, 1);
        let told: i64 = client
            .query_one("select count(*) from orch.events where kind = 'impossible_queued' and job_id = 1", &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(told, 1);
        no_violation(&client).await;
        assert_eq!(tick(&db).await, Done::default(), "repaired once");
        let after: String =
            client.query_one("select xmin::text from orch.jobs where id = 2", &[]).await.unwrap().get(0);
        assert_eq!(healthy, after, "a healthy row is not written");
        let claimed = claim(&db, &register(&db).await, 2).await;
        assert_eq!(claimed.len(), 2, "the queue drains");
    }
}

#[tokio::test]
async fn the_switch_silences_only_the_sweep() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 1).await;
    make_impossible(&client, 1, "pid = 1").await;
    no_outage(&client).await;
    let mut off = Reaper::new(TIMING, false);
    assert_eq!(off.tick(&db, true).await.unwrap(), Done::default());
    assert_eq!(counter(&client, "impossible_queued_total").await, 0);
    // D1 to D3 hold without it: a claim clears what it finds, and the settle leaves nothing behind.
    let claimed = claim(&db, &register(&db).await, 1).await.remove(0);
    let pid: Option<i32> = client.query_one("select pid from orch.jobs", &[]).await.unwrap().get(0);
    assert_eq!(pid, None, "D2: a claim flips to running with no pid");
    let ending = orch::db::runs::Ending::bare(Outcome::Interrupted, orch::model::ClosedBy::Owner, "spawn failed");
    db.settle_runs(vec![claimed.owned.ended(ending)]).await.unwrap();
    no_violation(&client).await;
    assert_eq!(status(&client, 1).await, "queued");
}

#[tokio::test]
async fn an_open_run_that_no_job_runs_is_closed() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 1).await;
    client
        .batch_execute(
            "insert into orch.agent_runs (run_id, job_id, attempt, replica_id, host, boot_id, claimed_at, rules)
             values (gen_random_uuid(), 1, 1, gen_random_uuid(), 'h', 'b', now(), '{}');
             update orch.jobs set attempt = 1;",
        )
        .await
        .unwrap();
    no_outage(&client).await;
    assert_eq!(tick(&db).await.idle_runs, 1);
    no_violation(&client).await;
}

#[tokio::test]
async fn a_running_row_without_an_open_run_or_a_known_owner_goes_back_to_the_queue() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 2).await;
    let owner = register(&db).await;
    claim(&db, &owner, 2).await;
    client
        .batch_execute(
            "update orch.agent_runs set ended_at = now(), outcome = 'lost', closed_by = 'sanitize' where job_id = 1;
             update orch.jobs set replica_id = gen_random_uuid() where id = 2;",
        )
        .await
        .unwrap();
    no_outage(&client).await;
    assert_eq!(tick(&db).await.ownerless, 2);
    let rows = client.query("select status, awaits_replica from orch.jobs order by id", &[]).await.unwrap();
    let awaits: Vec<Option<uuid::Uuid>> = rows.iter().map(|row| row.get(1)).collect();
    assert_eq!(awaits, [Some(owner.replica_id.0), None], "the live owner is asked first; an unknown one cannot be");
    no_violation(&client).await;
}

#[tokio::test]
async fn a_taken_job_waits_for_its_old_owner_to_answer_or_to_be_dead() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 2).await;
    let owner = register(&db).await;
    let claimed = claim(&db, &owner, 2).await;
    client.batch_execute("update orch.jobs set status = 'queued'").await.unwrap();
    assert!(claim(&db, &owner, 2).await.is_empty(), "the old processes may still live");

    let renewal = db.renew_replica(owner.replica_id, 60.0, orch::db::replicas::Reconcile::Full).await.unwrap();
    assert!(renewal.live);
    assert_eq!(renewal.runs.unwrap().len(), 0, "they are no longer its runs");
    assert_eq!(renewal.ending.len(), 2, "it is told which processes to end");
    let first = claimed[0].owned.run_id();
    assert!(!db.acknowledge_ended(owner.replica_id, JobId(1), None).await.unwrap(), "not without the run");
    assert!(db.acknowledge_ended(owner.replica_id, JobId(1), Some(first)).await.unwrap());
    let again = claim(&db, &owner, 2).await;
    assert_eq!(again.iter().map(|job| job.owned.job_id()).collect::<Vec<_>>(), [JobId(1)]);

    // The other one's owner never answers; once it is dead the tick lets the job go.
    no_outage(&client).await;
    expire_leases(&client).await;
    let done = tick(&db).await;
    assert_eq!(done.dead, 1);
    assert_eq!(tick(&db).await.released, 1);
    assert_eq!(claim(&db, &register(&db).await, 1).await[0].owned.job_id(), JobId(2));
    no_violation(&client).await;
}

#[tokio::test]
async fn a_tick_with_the_database_gone_says_so_and_the_next_one_works() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 1).await;
    make_impossible(&client, 1, "pid = 1").await;
    no_outage(&client).await;
    let mut reaper = reaper();
    // Every connection of the pool is cut behind its back.
    reaper.tick(&db, false).await.unwrap();
    make_impossible(&client, 1, "pid = 2").await;
    client
        .batch_execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
        .await
        .unwrap();
    let mut errors = 0;
    let done = crate::support::eventually("a tick that works", async || match reaper.tick(&db, false).await {
        Ok(done) => Some(done),
        Err(error) => {
            assert!(error.is_ambiguous(), "{error:?}");
            errors += 1;
            None
        }
    })
    .await;
    assert_eq!(done.impossible, 1, "after {errors} ticks that failed");
}

#[tokio::test]
async fn five_thousand_orphans_are_settled_within_two_ticks_past_those_that_cannot_be() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 5600).await;
    let dead = register(&db).await;
    let mut claimed = 0;
    while claimed < 5600 {
        claimed += claim(&db, &dead, 700).await.len();
    }
    no_outage(&client).await;
    expire_leases(&client).await;
    // More than a batch at the front is held by somebody.
    let mut other = test.client().await;
    let held = other.transaction().await.unwrap();
    held.execute("select from orch.jobs where id <= 600 for update", &[]).await.unwrap();
    let mut reaper = reaper();
    let (first, second) = (reaper.tick(&db, false).await.unwrap(), reaper.tick(&db, false).await.unwrap());
    assert_eq!(first.reaped + second.reaped, 5000);
    held.rollback().await.unwrap();
    assert_eq!(reaper.tick(&db, false).await.unwrap().reaped, 600);
    no_violation(&client).await;
}

#[tokio::test]
async fn a_reaped_run_says_whose_it_was_and_since_when_its_lease_had_run_out() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    enqueue(&client, 1).await;
    let dead = register(&db).await;
    claim(&db, &dead, 1).await;
    no_outage(&client).await;
    client.batch_execute("update orch.replicas set lease_until = '2026-01-02 03:04:05Z'").await.unwrap();
    assert_eq!(tick(&db).await.reaped, 1);
    let said = format!(
        "lost: its replica test ({}) on host here was declared dead; its lease had run out at 2026-01-02T03:04:05Z",
        dead.replica_id
    );
    for table in ["agent_runs", "jobs"] {
        let error: String = client.query_one(&format!("select error from orch.{table}"), &[]).await.unwrap().get(0);
        assert_eq!(error, said, "{table}");
    }
}

#[tokio::test]
async fn a_loss_waits_from_the_second_on_and_the_agent_may_have_it_hold_or_fail_the_job() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    for (on_lost, lost, status, waits) in [
        ("requeue", 0, "queued", 0.0..=0.0),
        ("requeue", 1, "queued", 2.0..=8.0),
        ("requeue", 2, "failed", 0.0..=0.0),
        ("hold", 0, "held", 0.0..=0.0),
        ("fail", 0, "failed", 0.0..=0.0),
    ] {
        let set = format!(
            "delete from orch.jobs; insert into orch.agents (name, on_lost) values ('a', '{on_lost}')
                 on conflict (name) do update set on_lost = excluded.on_lost;
             select orch.enqueue('a'); update orch.jobs set lost_count = {lost}"
        );
        client.batch_execute(&set).await.unwrap();
        claim(&db, &register(&db).await, 1).await;
        no_outage(&client).await;
        expire_leases(&client).await;
        assert_eq!(tick(&db).await.reaped, 1);
        let sql = "select status, lost_count, case when status = 'queued' then
            greatest(extract(epoch from run_at - clock_timestamp()), 0)::float8 else 0 end from orch.jobs";
        let row = client.query_one(sql, &[]).await.unwrap();
        assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1)), (status, lost + 1), "{on_lost} {lost}");
        assert!(waits.contains(&row.get::<_, f64>(2)), "{on_lost} {lost}: {}", row.get::<_, f64>(2));
    }
}

#[tokio::test]
async fn a_declaration_that_arrives_after_an_outage_or_a_failover_declares_nobody() {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.client().await);
    register(&db).await;
    // A tick by which the timeline is known.
    tick(&db).await;
    for (since, dead) in [
        ("last_tick_at = now() - interval '31 s', wait_until = null", 0),
        ("last_tick_at = now(), timeline = '000000FF'", 0),
        ("last_tick_at = now(), timeline = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)", 1),
    ] {
        expire_leases(&client).await;
        client.batch_execute(&format!("update orch.meta set {since}")).await.unwrap();
        assert_eq!(db.declare_dead(TIMING).await.unwrap().len(), dead, "{since}");
    }
}
