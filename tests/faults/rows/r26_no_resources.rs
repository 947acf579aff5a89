//! Row 26: the spawner cannot fork (EAGAIN), or has no descriptor left (EMFILE). The jobs are not to blame.

use std::{
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    case::{BOUND, Case},
    processes::{descriptors, spawner},
    spares,
    support::eventually_within,
};

pub(crate) async fn fork_says_eagain(case: &mut Case) {
    // The limit on processes counts a user's, and root is exempt: the replica is a user with no process but its own.
    let user = 61_000 + std::process::id() % 1000;
    let program = give_to(case, user);
    case.agent("quick", "exit 0", "max_attempts = 1");
    let id = user.to_string();
    let replica = case.orch.start_by(&["setpriv", "--clear-groups", "--reuid", &id, "--regid", &id], &program);
    case.adopt(replica);
    case.until_ready().await;
    let spawner = spawner(case.replica().pid()).expect("a spawner");
    spares::ready(case.orch.state_dir()).await;
    let limits = Limits { spawner, user: Some(user) };
    limits.set("--nproc=1:");
    starved_then_fed(case, &limits, "--nproc=4096:").await;
}

pub(crate) async fn no_descriptor_is_left(case: &mut Case) {
    // As many as it has open: the kernel drops the channel of the next request.
    with_more_descriptors(case, 0).await;
}

pub(crate) async fn descriptors_run_out_in_the_shim(case: &mut Case) {
    // The request arrives and a shim is born, which opens more than this.
    with_more_descriptors(case, 3).await;
}

async fn with_more_descriptors(case: &mut Case, more: usize) {
    case.agent("quick", "exit 0", "max_attempts = 1");
    case.up().await;
    let before = spawner(case.replica().pid()).expect("a spawner");
    spares::ready(case.orch.state_dir()).await;
    let limits = Limits { spawner: before, user: None };
    limits.set(&format!("--nofile={}:", descriptors(before) + more));
    starved_then_fed(case, &limits, "--nofile=1024:").await;
    assert_eq!(spawner(case.replica().pid()), Some(before), "the spawner lives through it");
}

/// While nothing can be started, jobs wait and nothing is counted against them; then all succeed.
async fn starved_then_fed(case: &mut Case, limits: &Limits, enough: &str) {
    // What was forked before there was nothing left starts its runs all the same.
    spares::use_up(case, "quick").await;
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(case.enqueue("quick").await);
    }
    let tried =
        "select coalesce(sum(attempt), 0)::bigint from orch.jobs where id >= (select max(id) - 4 from orch.jobs)";
    eventually_within(BOUND, "the replica to try", async || {
        (case.sql.query_one(tried, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    let interrupted = "select count(*) from orch.agent_runs where outcome = 'interrupted'";
    eventually_within(BOUND, "a run to be interrupted", async || {
        (case.sql.query_one(interrupted, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    // It backs off: in two seconds a replica with eight slots and a poll of 200 ms could try eighty times.
    let before: i64 = case.sql.query_one(tried, &[]).await.unwrap().get(0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after: i64 = case.sql.query_one(tried, &[]).await.unwrap().get(0);
    assert!(after - before <= 20, "{} tries in two seconds in which nothing could start", after - before);
    let blamed = "select id, status, failures, error from orch.jobs
          where id >= (select max(id) - 4 from orch.jobs) and (failures > 0 or status not in ('queued', 'running'))";
    let blamed = case.sql.query(blamed, &[]).await.unwrap();
    let blamed: Vec<String> = blamed
        .iter()
        .map(|row| {
            format!("job {}: {}, {:?}", row.get::<_, i64>(0), row.get::<_, &str>(1), row.get::<_, Option<&str>>(3))
        })
        .collect();
    assert!(blamed.is_empty(), "jobs ended, or were blamed for what the machine lacked: {blamed:#?}");

    limits.set(enough);
    for job in jobs {
        case.until(job, "succeeded", Duration::from_secs(40)).await;
        assert_eq!(case.job(job).await.get::<_, i32>("failures"), 0);
    }
}

/// Makes the case's directory that user's, with a copy of the binary that it can reach.
fn give_to(case: &Case, user: u32) -> PathBuf {
    let home = case.orch.path("");
    let program = home.join("orch");
    std::fs::copy(env!("CARGO_BIN_EXE_orch"), &program).unwrap();
    let witness = home.join("witness-program");
    std::fs::copy(std::env::current_exe().unwrap(), witness).unwrap();
    give(&home, user);
    program
}

fn give(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap().flatten() {
            give(&entry.path(), user);
        }
    }
}

/// The limits of the spawner, which change while it runs.
struct Limits {
    spawner: i32,
    /// Whose process it is, where it is not this user's: root may lack the right to limit others, they never do.
    user: Option<u32>,
}

impl Limits {
    fn set(&self, limit: &str) {
        let mut command = Command::new("prlimit");
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        let output = command.args(["--pid", &self.spawner.to_string(), limit]).output().unwrap();
        assert!(output.status.success(), "prlimit {limit}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
