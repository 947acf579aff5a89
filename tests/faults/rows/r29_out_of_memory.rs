//! Row 29: a run takes more memory than `memory_max` gives its tree. The kernel ends it, the outcome says why, and the replica
//! and its other runs go on. The row has a bound of its own around everything, far above the agent's.

use crate::{
    bound::BUSY,
    case::{BOUND, Case},
    group::Group,
    support::eventually,
    witness,
};

/// One process that grows.
const GROWS: &str = "exec perl -e '$x .= \"x\" x 1048576 while 1'";
/// Several that are each far below the limit, and say when one of them was ended.
const MANY: &str = "for i in 1 2 3 4 5 6 7 8; do perl -e '$x = \"x\" x 16777216; sleep 2' & all=\"$all $!\"; done
    for one in $all; do wait $one || code=1; done; exit $code";
const MEMORY_MAX: i64 = 64 << 20;
/// What saves the machine where the product does not.
const ALL: &str = "1073741824";

pub(crate) async fn in_a_cgroup(case: &mut Case) {
    is_said(case, "cgroup").await;
}

pub(crate) async fn in_a_pid_namespace(case: &mut Case) {
    is_said(case, "pidns").await;
}

pub(crate) async fn with_a_sweep(case: &mut Case) {
    is_said(case, "sweep").await;
}

async fn is_said(case: &mut Case, containment: &str) {
    let bound = Group::new("memory", "r29");
    bound.set("memory.limit_in_bytes", ALL);
    let settings =
        format!("containment = \"{containment}\"\nmemory_max = \"{}MiB\"\nmax_attempts = 1", MEMORY_MAX >> 20);
    case.agent("grows", GROWS, &settings);
    case.agent("many", MANY, &settings);
    case.agent("beside", "sleep 100000", "");
    case.agent("frugal", "exit 0", &settings);
    Group::start(&[&bound], case.add_node("a")).await;
    let replica = case.replica_id("a").await;
    let beside = case.enqueue("beside").await;
    case.until_alive(beside).await;
    for agent in ["grows", "many"] {
        let job = case.enqueue(agent).await;
        case.until(job, "failed", BOUND).await;
        let run = case.runs(job).await.swap_remove(0);
        assert_eq!(run.get::<_, Option<&str>>("outcome"), Some("failed"), "{agent}");
        let error: &str = run.get("error");
        assert!(error.ends_with("out of memory"), "{agent}: {error}");
        let peak: i64 = run.get("peak_memory_bytes");
        assert!((MEMORY_MAX / 2..=MEMORY_MAX).contains(&peak), "{agent}: its tree had {peak} bytes");
    }
    let frugal = case.enqueue("frugal").await;
    case.until(frugal, "succeeded", BUSY).await;
    assert!(witness::is_alive(&case.witness(), beside), "what was beside it lives");
    assert_eq!(case.replica_id("a").await, replica, "the same replica");
    case.sql.execute("select orch.cancel($1)", &[&beside]).await.unwrap();
    case.until(beside, "cancelled", BOUND).await;
    eventually("the groups of the runs to be gone", async || bound.runs().is_empty().then_some(())).await;
    case.down().await;
}
