//! Row 25: the processes of a run are frozen, so that no KILL ends them. The run is cancelled and stays what it is, running and
//! in its slot, for as long as they live and its replica holds the lease; the doctor and the metrics say so.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    bound::{BUSY, KILL_GRACE, LEASE},
    case::{BOUND, Case},
    group::Group,
    processes::with_environment,
    support::{eventually, eventually_within},
    witness,
};

/// Who of the run is frozen.
#[derive(Clone, Copy, PartialEq)]
enum Frozen {
    All,
    /// All but the main process, which ends when it is told to.
    Children,
}

pub(crate) async fn in_a_cgroup(case: &mut Case) {
    is_waited_for(case, "cgroup", Frozen::All).await;
}

pub(crate) async fn in_a_pid_namespace(case: &mut Case) {
    is_waited_for(case, "pidns", Frozen::All).await;
}

pub(crate) async fn with_a_sweep(case: &mut Case) {
    is_waited_for(case, "sweep", Frozen::All).await;
}

/// The shim gives such a sweep up and goes; its replica goes on.
pub(crate) async fn with_a_sweep_and_its_main_process_gone(case: &mut Case) {
    is_waited_for(case, "sweep", Frozen::Children).await;
}

async fn is_waited_for(case: &mut Case, containment: &str, frozen: Frozen) {
    let freezer = Group::new("freezer", "r25");
    case.orch.set("ORCH_MAX_CONCURRENCY", "1");
    case.agent("stuck", "[ $ORCH_ATTEMPT -gt 1 ] || sleep 100000", &format!("containment = \"{containment}\""));
    case.agent("quick", "exit 0", "");
    case.add_node("a").up().await;
    let stuck = case.enqueue("stuck").await;
    case.until_alive(stuck).await;
    let run: String = case.runs(stuck).await[0].get("run");
    let main: i32 = eventually("its pid", async || case.job(stuck).await.get("pid")).await;
    for pid in with_environment(&format!("ORCH_RUN_ID={run}")) {
        if frozen == Frozen::All || pid != main {
            freezer.take(pid);
        }
    }
    freezer.set("freezer.state", "FROZEN");
    eventually("the run to be frozen", async || {
        let state = fs::read_to_string(freezer.path().join("freezer.state")).unwrap();
        (state.trim() == "FROZEN").then_some(())
    })
    .await;
    assert_eq!(unending(case).await, "0");

    case.sql.execute("select orch.cancel($1)", &[&stuck]).await.unwrap();
    let next = case.enqueue("quick").await;
    eventually_within(KILL_GRACE + BUSY, "the metrics to count it", async || {
        (unending(case).await == "1").then_some(())
    })
    .await;
    let told = case.node("a").orch.run(["doctor"]).await;
    assert!(!told.status.success(), "the doctor is content: {told:?}");
    assert!(told.stdout.lines().any(|line| line.contains(&run) && line.contains("no KILL ends")), "{}", told.stdout);
    // Longer than its lease was, and than any containment tries by itself.
    let since = Instant::now();
    while since.elapsed() < LEASE * 2 + Duration::from_secs(2) {
        let status: String = case.job(stuck).await.get("status");
        assert_eq!(status, "running", "settled after {:?} while its processes live", since.elapsed());
        assert_eq!(case.job(next).await.get::<_, String>("status"), "queued", "its slot is taken");
        assert!(witness::is_alive(&case.witness(), stuck), "the row's own doing");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(unending(case).await, "1", "it is counted for as long as it lasts");

    freezer.set("freezer.state", "THAWED");
    case.until(stuck, "cancelled", BOUND).await;
    case.until(next, "succeeded", BOUND).await;
    assert!(!witness::is_alive(&case.witness(), stuck), "it was settled when it was gone");
    assert_eq!(unending(case).await, "0", "it is over");
    case.node("a").orch.run(["doctor"]).await.ok();
}

/// How many runs of the node no KILL ends, as its metrics say.
async fn unending(case: &mut Case) -> String {
    let metrics = case.node("a").replica().get("/metrics").await.body;
    let line = metrics.lines().find_map(|line| line.strip_prefix("orch_unending_runs "));
    line.unwrap_or_else(|| panic!("no such figure:\n{metrics}")).to_owned()
}
