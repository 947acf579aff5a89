//! A run outlives its replica: adoption, handover, takeover by another, through the real binary.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio_postgres::Client;

use crate::{
    replica::{open_runs, place, script, stamped, text, until},
    runs::no_violation,
    support::{Orch, TestDb, eventually, processes_beneath},
};

/// A job that waits for a file, and the file.
async fn gated(client: &Client, orch: &Orch, name: &str) -> (i64, std::path::PathBuf) {
    let gate = orch.path(name);
    let job = script(client, &format!("while ! test -e {}; do sleep 0.05; done", gate.display())).await;
    (job, gate)
}

/// The run, the pid and the owner of a running job.
async fn owner(client: &Client, job: i64) -> (String, i32, String) {
    let row = client
        .query_one("select run_id::text, pid, replica_id::text from orch.jobs where id = $1", &[&job])
        .await
        .unwrap();
    (row.get(0), row.get(1), row.get(2))
}

/// Attempt, outcome and closer of each run of a job.
async fn history(client: &Client, job: i64) -> Vec<(i32, String, String)> {
    let runs = "select attempt, outcome, closed_by from orch.agent_runs where job_id = $1 order by attempt";
    let rows = client.query(runs, &[&job]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

fn leases(orch: &Orch) -> usize {
    std::fs::read_dir(orch.state_dir().join("leases")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_live_run_of_a_killed_replica_is_adopted_and_one_that_ended_meanwhile_is_settled() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let replica = orch.up().await;
    let (ends, first) = gated(&client, &orch, "first").await;
    let (lives, second) = gated(&client, &orch, "second").await;
    eventually("both pids to be stamped", async || {
        let both = "select count(*) from orch.running where pid is not null";
        (client.query_one(both, &[]).await.unwrap().get::<_, i64>(0) == 2).then_some(())
    })
    .await;
    let (before, ended) = (owner(&client, lives).await, owner(&client, ends).await.0);
    replica.kill().await;
    std::fs::write(&first, "").unwrap();
    eventually("the first run's shim to write how it ended", async || {
        orch.state_dir().join("runs").join(&ended).join("exit.json").exists().then_some(())
    })
    .await;

    let replica = orch.up().await;
    until(&client, ends, "succeeded").await;
    let after = owner(&client, lives).await;
    assert_eq!((&after.0, after.1), (&before.0, before.1), "the same run and the same process");
    assert_ne!(after.2, before.2, "under the new boot's name");
    eventually("the earlier boot to be dead", async || {
        let dead = "select 1 from orch.replicas where state = 'dead' and replica_id::text = $1";
        client.query_opt(dead, &[&before.2]).await.unwrap().map(drop)
    })
    .await;
    eventually("its lease to be gone", async || (leases(&orch) == 1).then_some(())).await;
    std::fs::write(&second, "").unwrap();
    until(&client, lives, "succeeded").await;
    assert_eq!(history(&client, ends).await, [(1, "succeeded".into(), "successor".into())]);
    assert_eq!(history(&client, lives).await, [(1, "succeeded".into(), "owner".into())]);
    eventually("the directories to be gone", async || (open_runs(&orch) == 0).then_some(())).await;
    assert!(replica.log().contains("adopted"), "{}", replica.log());
    no_violation(&client).await;
}

#[tokio::test]
async fn a_handover_leaves_the_runs_a_long_lease_and_the_next_boot_adopts_them() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test).with("ORCH_DRAIN", "handover").with("ORCH_HANDOVER_LEASE", "5m");
    let mut replica = orch.up().await;
    let (job, gate) = gated(&client, &orch, "gate").await;
    stamped(&client).await;
    let before = owner(&client, job).await;
    replica.signal(Signal::SIGTERM);
    assert!(replica.ended().await.success(), "{}", replica.log());
    let row = client
        .query_one(
            "select state, draining, extract(epoch from lease_until - clock_timestamp())::float8 from orch.replicas",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1)), ("live", true), "it is not gone as long as it owns a run");
    assert!(row.get::<_, f64>(2) > 240.0, "{row:?}");
    assert_eq!(owner(&client, job).await, before);

    let _replica = orch.up().await;
    assert_eq!(owner(&client, job).await.1, before.1, "the same process");
    std::fs::write(&gate, "").unwrap();
    until(&client, job, "succeeded").await;
    assert_eq!(history(&client, job).await, [(1, "succeeded".into(), "owner".into())]);
    no_violation(&client).await;
}

#[tokio::test]
async fn a_second_signal_ends_a_handover_at_once_and_its_runs_go_on() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test).with("ORCH_DRAIN", "handover").with("ORCH_LEASE", "2m").with("ORCH_HEARTBEAT", "15s");
    let mut replica = orch.up().await;
    let (job, gate) = gated(&client, &orch, "gate").await;
    stamped(&client).await;
    let before = owner(&client, job).await;
    // No renewal is answered, for half a minute.
    let mut locker = test.client().await;
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("lock table orch.replicas in access exclusive mode").await.unwrap();
    replica.signal(Signal::SIGTERM);
    eventually("the stop to begin", async || replica.log().contains("stopping:").then_some(())).await;
    replica.signal(Signal::SIGTERM);
    let ended = tokio::time::timeout(Duration::from_secs(10), replica.ended()).await;
    assert!(ended.expect("an end at once").success(), "{}", replica.log());
    lock.rollback().await.unwrap();
    assert!(!replica.log().contains("interrupt"), "{}", replica.log());

    let _replica = orch.up().await;
    assert_eq!(owner(&client, job).await.1, before.1, "the same process");
    std::fs::write(&gate, "").unwrap();
    until(&client, job, "succeeded").await;
    no_violation(&client).await;
}

#[tokio::test]
async fn a_handover_without_runs_leaves() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test).with("ORCH_DRAIN", "handover");
    let mut replica = orch.up().await;
    replica.signal(Signal::SIGTERM);
    assert!(replica.ended().await.success());
    assert_eq!(text(&client, "select state from orch.replicas").await.as_deref(), Some("left"));
    assert_eq!(leases(&orch), 0);
}

#[tokio::test]
async fn a_live_run_that_the_database_no_longer_grants_is_ended_by_the_next_boot() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let replica = orch.up().await;
    let job = script(&client, "test \"$ORCH_ATTEMPT\" = 2 || sleep 1000").await;
    stamped(&client).await;
    let before = owner(&client, job).await;
    replica.kill().await;
    // As a reaper elsewhere would, long after.
    client.batch_execute("update orch.replicas set state = 'dead'").await.unwrap();
    let _replica = orch.up().await;
    until(&client, job, "succeeded").await;
    assert!(!std::path::Path::new(&format!("/proc/{}", before.1)).exists(), "the old process is gone");
    let runs = history(&client, job).await;
    assert_eq!(runs.len(), 2, "{runs:?}");
    eventually("the directories to be gone", async || (open_runs(&orch) == 0).then_some(())).await;
    no_violation(&client).await;
}

#[tokio::test]
async fn several_replicas_share_the_queue_and_one_that_dies_for_good_is_replaced() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let (one, other) = (place(&test).with("ORCH_NAME", "one"), place(&test).with("ORCH_NAME", "other"));
    let first = one.up().await;
    let job = script(&client, "test \"$ORCH_ATTEMPT\" = 2 || sleep 1000").await;
    stamped(&client).await;
    let _second = other.up().await;
    first.kill().await;
    until(&client, job, "succeeded").await;
    let runs = history(&client, job).await;
    assert_eq!(runs[0].1, "lost", "{runs:?}");
    assert_eq!(runs[1].1, "succeeded", "{runs:?}");
    // By the time that another may start the job, nothing of the first run lives.
    assert!(processes_beneath(one.state_dir()).is_empty(), "no process is left of the dead replica");
    no_violation(&client).await;
}

#[tokio::test]
async fn a_draining_replica_claims_nothing_until_it_drains_no_longer() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let replica = orch.up().await;
    client.batch_execute("update orch.replicas set draining = true").await.unwrap();
    eventually("the replica to hear of it", async || replica.log().contains("draining: nothing more").then_some(()))
        .await;
    let job = script(&client, "true").await;
    let off = "update orch.replicas set draining = false returning clock_timestamp()";
    let off: std::time::SystemTime = client.query_one(off, &[]).await.unwrap().get(0);
    until(&client, job, "succeeded").await;
    let claimed = "select claimed_at from orch.agent_runs where job_id = $1";
    let claimed: std::time::SystemTime = client.query_one(claimed, &[&job]).await.unwrap().get(0);
    assert!(off < claimed, "it was claimed while the replica drained");
}
