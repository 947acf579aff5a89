//! What a thousand live runs cost while they do nothing.

use std::fs;

use crate::support::{Orch, TestDb, eventually_within};

const RUNS: i64 = 1000;
/// Of the replica itself, and of each shim: proportional set size, in kilobytes.
const REPLICA_MAX: u64 = 40 * 1024;
const SHIM_MAX: u64 = 512;

#[tokio::test]
async fn a_replica_with_a_thousand_sleeping_runs_and_their_shims_stay_small() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = Orch::on(&test).with("ORCH_MAX_CONCURRENCY", RUNS.to_string()).with("ORCH_DRAIN_GRACE", "0s");
    orch.config("[agents.sleep]\ncommand = [\"sleep\", \"1000\"]\n");
    client.execute("select orch.enqueue('sleep') from generate_series(1::bigint, $1)", &[&RUNS]).await.unwrap();
    let replica = orch.up().await;
    eventually_within(std::time::Duration::from_mins(2), "all runs to be stamped", async || {
        let row = client.query_one("select count(*) from orch.running where pid is not null", &[]).await.unwrap();
        (row.get::<_, i64>(0) == RUNS).then_some(())
    })
    .await;
    let itself = proportional_kilobytes(replica.pid()).unwrap();
    let shims: Vec<u64> =
        all_named("orch-shim", orch.state_dir()).into_iter().filter_map(proportional_kilobytes).collect();
    assert_eq!(shims.len() as i64, RUNS);
    let mean = shims.iter().sum::<u64>() / shims.len() as u64;
    println!("replica {itself} kB, a shim {mean} kB");
    assert!(itself <= REPLICA_MAX, "the replica has {itself} kB");
    assert!(mean <= SHIM_MAX, "a shim has {mean} kB");
}

fn proportional_kilobytes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
}

/// The processes of this name that hold a lock below this state directory.
fn all_named(name: &str, state_dir: &std::path::Path) -> Vec<i32> {
    let runs = state_dir.join("runs");
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name))
        .filter(|pid| {
            fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| {
                fds.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.starts_with(&runs)))
            })
        })
        .collect()
}
