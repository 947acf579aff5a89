//! Row 30: floods of output. The cap holds, memory stays flat, heartbeats are on time.

use std::path::Path;

use crate::{
    case::{BOUND, Case, LEASE},
    processes::{descendants, resident},
};

const CAP: u64 = 1 << 20;
/// What a replica of the debug build may use, whatever its jobs write; the floods are a hundred times as much.
const MEMORY: u64 = 96 << 20;

pub(crate) async fn the_cap_holds_and_heartbeats_are_on_time(case: &mut Case) {
    case.orch.set("ORCH_LOG_CAP", "1MiB");
    let limits = "max_attempts = 1\ntimeout = \"5s\"";
    case.agent("endless", "echo first; yes", limits);
    case.agent("nul", "head -c 50000000 /dev/zero; echo last >&2", "");
    case.agent("one_line", "head -c 100000000 /dev/zero | tr '\\0' x; echo; echo last", "");
    case.agent("quiet", "exit 0", "");
    case.up().await;
    let (endless, nul, one_line) =
        (case.enqueue("endless").await, case.enqueue("nul").await, case.enqueue("one_line").await);

    let mut least = f64::MAX;
    let mut most = 0;
    let live =
        "select extract(epoch from lease_until - clock_timestamp())::float8 from orch.replicas where state = 'live'";
    let finished = "select count(*) from orch.jobs where finished_at is not null";
    crate::support::eventually_within(BOUND * 4, "the floods to end", async || {
        least = least.min(case.sql.query_one(live, &[]).await.unwrap().get(0));
        let replica = case.replica().pid();
        let own = descendants(replica).into_iter().filter(|process| is_orch(process.pid)).map(|process| process.pid);
        most = own.chain([replica]).filter_map(resident).max().unwrap_or(0).max(most);
        (case.sql.query_one(finished, &[]).await.unwrap().get::<_, i64>(0) == 3).then_some(())
    })
    .await;
    assert!(least > LEASE.as_secs_f64() / 2.0, "the lease was down to {least} s while jobs wrote");
    assert!(most < MEMORY, "a process of orch used {most} bytes");

    case.until(endless, "failed", BOUND).await;
    case.until(nul, "succeeded", BOUND).await;
    case.until(one_line, "succeeded", BOUND).await;
    for (job, least_dropped) in [(endless, CAP as i64), (nul, 48_000_000), (one_line, 98_000_000)] {
        let run = &case.runs(job).await[0];
        let (kept, dropped): (Option<i64>, Option<i64>) = (run.get("log_bytes_kept"), run.get("log_bytes_dropped"));
        assert!(kept.is_some_and(|kept| kept > 0 && kept as u64 <= CAP), "job {job} kept {kept:?}");
        assert!(dropped >= Some(least_dropped), "job {job} dropped {dropped:?}");
    }
    let on_disk = size(&case.orch.state_dir().join("runs"));
    assert!(on_disk < 3 * CAP + (1 << 18), "three runs' directories have {on_disk} bytes");
    // Head and tail are there, and what reads them copes with what was written.
    for (job, word) in [(endless, "first"), (nul, "last"), (one_line, "last")] {
        let log = case.orch.run(["logs", &job.to_string()]).await.ok();
        assert!(log.stdout.contains(word) || log.stderr.contains(word), "job {job}: no {word:?} in its log");
    }
    let after = case.enqueue("quiet").await;
    case.until(after, "succeeded", BOUND).await;
}

fn is_orch(pid: i32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("orch"))
}

fn size(path: &Path) -> u64 {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size(&entry.path())).sum()
}
