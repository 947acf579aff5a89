//! A replica in trouble, as the real binary: what arrives late, what cannot be read, what somebody holds locked.

use std::{path::PathBuf, time::Duration};

use nix::sys::signal::Signal;
use tokio_postgres::Client;

use crate::{
    replica::{AGENTS, open_runs, place, script, stamped, text, until},
    runs::no_violation,
    support::{Orch, TestDb, eventually, eventually_within, processes_beneath},
};

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// The directory of the one run that is open.
async fn open_run(client: &Client, orch: &Orch) -> std::path::PathBuf {
    let run_id = text(client, "select run_id::text from orch.jobs where status = 'running'").await.unwrap();
    orch.state_dir().join("runs").join(run_id)
}

#[tokio::test]
async fn a_claim_that_is_answered_after_the_stop_leaves_no_run_behind() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    // The claim has begun, and its answer takes as long as somebody holds this lock.
    client
        .batch_execute(
            "create function slow() returns trigger language plpgsql as
                 'begin perform pg_advisory_xact_lock(7); return new; end';
             create trigger slow before update on orch.jobs
                 for each row when (old.status = 'queued' and new.status = 'running') execute function slow();
             select pg_advisory_lock(7);",
        )
        .await
        .unwrap();
    let mut replica = orch.up().await;
    let watcher = test.client().await;
    script(&watcher, "sleep 1000").await;
    eventually("the claim to wait", async || {
        let waiting = "select count(*) from pg_locks where locktype = 'advisory' and objid = 7 and not granted
                          and database = (select oid from pg_database where datname = current_database())";
        (number(&watcher, waiting).await > 0).then_some(())
    })
    .await;
    replica.signal(Signal::SIGTERM);
    eventually("the replica to be told", async || replica.log().contains("stopping").then_some(())).await;
    replica.signal(Signal::SIGTERM);
    eventually("the replica to be told again", async || replica.log().contains("stopping now").then_some(())).await;
    client.batch_execute("select pg_advisory_unlock(7)").await.unwrap();
    assert!(replica.ended().await.success(), "{}", replica.log());
    assert_eq!(text(&watcher, "select status from orch.jobs").await.as_deref(), Some("queued"), "{}", replica.log());
    assert_eq!(number(&watcher, "select count(*) from orch.agent_runs where ended_at is null").await, 0);
    assert_eq!(text(&watcher, "select state from orch.replicas").await.as_deref(), Some("left"), "{}", replica.log());
    no_violation(&watcher).await;
}

#[tokio::test]
async fn an_end_that_cannot_be_read_stops_no_start() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let replica = orch.up().await;
    let (begun, go) = (orch.path("begun"), orch.path("go"));
    let waits = format!("touch {}; until [ -e {} ]; do sleep 0.01; done", begun.display(), go.display());
    let job = script(&client, &waits).await;
    // Killed any earlier, the replica may not have asked for the start yet.
    eventually("the run to begin", async || begun.exists().then_some(())).await;
    replica.kill().await;
    std::fs::write(&go, "").unwrap();
    let exit = open_run(&client, &orch).await.join("exit.json");
    eventually("the run to end", async || exit.exists().then_some(())).await;
    // As after a loss of power: the name is there, and nothing behind it.
    std::fs::write(&exit, "").unwrap();
    let _replica = orch.up().await;
    until(&client, job, "succeeded").await;
    assert_eq!(number(&client, "select count(*) from orch.agent_runs where outcome = 'interrupted'").await, 1);
    no_violation(&client).await;
}

#[tokio::test]
async fn a_bad_row_behind_many_that_wait_for_their_gate_is_found_and_held() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let go = orch.path("go");
    let payload = serde_json::json!({ "script": format!("while ! test -e {}; do sleep 0.05; done", go.display()) });
    client.query_one("select orch.enqueue('sh', $1, gate => 'g')", &[&payload]).await.unwrap();
    let _replica = orch.up().await;
    until(&client, 1, "running").await;
    client
        .batch_execute(
            "alter table orch.jobs add constraint bad_luck check (id <> 52 or status <> 'running');
             begin;
             select orch.enqueue('true', gate => 'g') from generate_series(2, 51);
             select orch.enqueue('true') from generate_series(52, 53);
             commit;",
        )
        .await
        .unwrap();
    until(&client, 53, "succeeded").await;
    until(&client, 52, "held").await;
    std::fs::write(&go, "").unwrap();
    until(&client, 51, "succeeded").await;
    no_violation(&client).await;
}

#[tokio::test]
async fn while_jobs_is_locked_the_lease_is_renewed_and_the_server_keeps_no_statement_of_ours_waiting() {
    let test = TestDb::new().await;
    let (client, mut other) = (test.client().await, test.client().await);
    // What claims, reaps and cancels waits for the lock with every connection that there is but those of the renewals.
    let orch = place(&test).with("ORCH_POOL_SIZE", "2");
    let replica = orch.up().await;
    let migration = other.transaction().await.unwrap();
    migration.batch_execute("lock table orch.jobs").await.unwrap();
    let mut leases = std::collections::BTreeSet::new();
    eventually("the lease to be renewed again and again", async || {
        leases.insert(text(&client, "select lease_until::text from orch.replicas").await);
        (leases.len() > 5).then_some(())
    })
    .await;
    let waiting = "select count(*) from pg_stat_activity
                    where datname = current_database() and wait_event_type = 'Lock' and query like '%with renewed as%'";
    assert!(number(&client, waiting).await <= 1, "{}", replica.log());
    migration.rollback().await.unwrap();
    let job = script(&client, "true").await;
    until(&client, job, "succeeded").await;
    assert_eq!(replica.log().matches("failed to compare the live runs").count(), 1, "{}", replica.log());
}

#[tokio::test]
async fn a_pid_is_stamped_although_the_row_was_locked_at_first() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    // The first stamp finds no row, as if another transaction held it.
    client
        .batch_execute(
            "create sequence stamps;
             create function locked() returns trigger language plpgsql as
                 'begin if nextval(''stamps'') = 1 then return null; end if; return new; end';
             create trigger locked before update on orch.jobs
                 for each row when (old.pid is null and new.pid is not null) execute function locked();",
        )
        .await
        .unwrap();
    let _replica = orch.up().await;
    let job = script(&client, "sleep 1000").await;
    until(&client, job, "running").await;
    eventually("the pid to be stamped", async || {
        client.query_opt("select 1 from orch.running where pid is not null", &[]).await.unwrap().map(drop)
    })
    .await;
}

#[tokio::test]
async fn agents_read_again_while_the_database_refuses_are_registered_once_it_does_not() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let replica = orch.up().await;
    client.batch_execute("alter table orch.agents add constraint no_late check (name <> 'late')").await.unwrap();
    orch.config(&format!("{AGENTS}\n[agents.late]\ncommand = [\"true\"]\n"));
    replica.signal(Signal::SIGHUP);
    eventually("the refusal to be told", async || replica.log().contains("failed to register").then_some(())).await;
    client.batch_execute("alter table orch.agents drop constraint no_late").await.unwrap();
    eventually("the agent to be registered", async || {
        client.query_opt("select 1 from orch.agents where name = 'late'", &[]).await.unwrap().map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_run_of_an_earlier_boot_that_the_database_refuses_to_settle_keeps_no_start_waiting() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let replica = orch.up().await;
    let gate = orch.path("gate");
    let wait = format!("test \"$ORCH_ATTEMPT\" = 2 || while ! test -e {}; do sleep 0.05; done", gate.display());
    let bad = script(&client, &wait).await;
    until(&client, bad, "running").await;
    // Running is what the claim says; the run must have begun before its replica is killed.
    stamped(&client).await;
    let directory = open_run(&client, &orch).await;
    replica.kill().await;
    std::fs::write(&gate, "").unwrap();
    eventually("the run's shim to write how it ended", async || directory.join("exit.json").exists().then_some(()))
        .await;
    client
        .batch_execute(&format!(
            "alter table orch.jobs add constraint for_ever check (id <> {bad} or status = 'running') not valid"
        ))
        .await
        .unwrap();
    let job = script(&client, "true").await;
    let replica = orch.up().await;
    until(&client, job, "succeeded").await;
    eventually("the refusal to be logged", async || replica.log().contains("refuses to settle").then_some(())).await;
    client.batch_execute("alter table orch.jobs drop constraint for_ever").await.unwrap();
    // Tried further by two: the successor, as failed by the refusal, and, since the former boot's lease has run out, the
    // reaper, as lost, so that the job runs again. Whoever comes first, it ends.
    eventually_within(Duration::from_mins(2), "the refused run to be settled and its job to end", async || {
        let status = text(&client, "select status from orch.jobs where id = 1").await;
        matches!(status.as_deref(), Some("failed" | "succeeded")).then_some(())
    })
    .await;
    assert_eq!(number(&client, "select count(*) from orch.agent_runs where ended_at is null").await, 0);
    no_violation(&client).await;
}

#[tokio::test]
async fn a_replica_declared_dead_while_the_database_goes_away_is_there_again_when_it_is_back() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let replica = orch.up().await;
    let job = script(&client, "test \"$ORCH_ATTEMPT\" = 2 || sleep 1000").await;
    until(&client, job, "running").await;
    // Registering needs this table, renewing does not.
    let (mut other, watcher) = (test.client().await, test.client().await);
    let away = other.transaction().await.unwrap();
    away.batch_execute("lock table orch.agents").await.unwrap();
    client.batch_execute("update orch.replicas set state = 'dead'").await.unwrap();
    eventually("the replica to register anew", async || {
        let waiting =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
                          and query like '%orch.agents%'";
        (number(&watcher, waiting).await > 0).then_some(())
    })
    .await;
    let stop = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock'";
    number(&watcher, stop).await;
    eventually("the failure to be told", async || replica.log().contains("failed to register anew").then_some(()))
        .await;
    away.rollback().await.unwrap();
    until(&client, job, "succeeded").await;
    no_violation(&client).await;
}

/// The directories of the shims that were forked ahead.
fn spares(orch: &Orch) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(orch.state_dir().join("spares")).into_iter().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort_unstable();
    paths
}

/// The same, if both are ready.
fn all_ready(orch: &Orch) -> Option<Vec<PathBuf>> {
    let spares = spares(orch);
    (spares.len() == 2 && spares.iter().all(|dir| dir.join("exit.json.new").exists())).then_some(spares)
}

#[tokio::test]
async fn the_oldest_shim_that_was_forked_ahead_makes_way_for_a_new_one() {
    let test = TestDb::new().await;
    let orch = place(&test);
    let _replica = orch.up().await;
    let seen = eventually("two shims to be ready", async || all_ready(&orch)).await;
    let next = eventually_within(Duration::from_mins(2), "one of them to make way", async || {
        all_ready(&orch).filter(|spares| *spares != seen)
    })
    .await;
    assert_eq!(next.iter().filter(|spare| seen.contains(spare)).count(), 1, "one alone");
}

#[tokio::test]
async fn shims_that_were_forked_ahead_are_of_no_run_and_go_with_the_replica() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let spares = || spares(&orch);
    let all_ready = async || eventually("two shims to be ready", async || all_ready(&orch)).await;
    let replica = orch.up().await;
    let mut seen = all_ready().await;
    assert_eq!(open_runs(&orch), 0);
    for _ in 0..4 {
        let job = script(&client, "exit 0").await;
        until(&client, job, "succeeded").await;
        let run = "select run_id::text from orch.agent_runs where job_id = $1";
        let run: String = client.query_one(run, &[&job]).await.unwrap().get(0);
        assert!(seen.iter().any(|spare| spare.ends_with(&run)), "the run has the name of one of them");
        let ready = all_ready().await;
        let kept = ready.iter().filter(|spare| seen.contains(spare)).count();
        assert_eq!(kept, 1, "the one that the claim did not need was given back");
        seen = ready;
    }
    // One that was given to a run whose command cannot be made goes as well.
    let broken = "select orch.enqueue('sh')";
    let job: i64 = client.query_one(broken, &[]).await.unwrap().get(0);
    until(&client, job, "failed").await;
    eventually("its directory to go", async || (spares().len() == 2 && spares() != seen).then_some(())).await;
    seen = all_ready().await;
    replica.kill().await;
    eventually("all of its processes to go", async || processes_beneath(orch.state_dir()).is_empty().then_some(()))
        .await;
    assert_eq!(spares(), seen, "nobody is left who could take them away");

    let mut replica = orch.up().await;
    assert!(all_ready().await.iter().all(|spare| !seen.contains(spare)));
    replica.signal(Signal::SIGTERM);
    replica.ended().await;
    assert!(spares().is_empty() && open_runs(&orch) == 0);
}
