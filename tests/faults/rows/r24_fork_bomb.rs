//! Row 24: a job is a fork bomb. `pids_max` bounds its tree, its timeout ends it whole, and meanwhile the replica and its other
//! runs go on. The row has a bound of its own around everything, far above the agent's.

use std::{fs, time::Duration};

use crate::{
    bound::{BOUND, BUSY},
    case::Case,
    group::Group,
    processes::with_environment,
    support::eventually_within,
};

/// Doubles every hundredth of a second, never gives up, and is deaf to TERM.
const BOMB: &str = "exec perl -e '$SIG{TERM} = \"IGNORE\"; while (1) { fork; select(undef, undef, undef, 0.01) }'";
const PIDS_MAX: usize = 40;
/// Replica, spawner, shims and the other jobs.
const OTHERS: usize = 60;
/// What saves the machine where the product does not.
const ALL: usize = 600;

pub(crate) async fn in_a_cgroup(case: &mut Case) {
    explodes(case, "cgroup").await;
}

pub(crate) async fn in_a_pid_namespace(case: &mut Case) {
    explodes(case, "pidns").await;
}

pub(crate) async fn with_a_sweep(case: &mut Case) {
    explodes(case, "sweep").await;
}

async fn explodes(case: &mut Case, containment: &str) {
    let bound = Group::new("pids", "r24");
    bound.set("pids.max", &ALL.to_string());
    let settings =
        format!("containment = \"{containment}\"\npids_max = {PIDS_MAX}\ntimeout = \"3s\"\nmax_attempts = 1");
    case.agent("bomb", BOMB, &settings);
    case.agent("quick", "exit 0", "");
    Group::start(&[&bound], case.add_node("a")).await;
    let replica = case.replica_id("a").await;
    let bomb = case.enqueue("bomb").await;
    case.until_alive(bomb).await;
    let count =
        |file: &str| -> usize { fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0) };
    let all = bound.path().join("pids.current").to_str().unwrap().to_owned();
    eventually_within(BUSY, "the bomb to come to its limit", async || {
        let events = bound.runs().first().and_then(|run| fs::read_to_string(run.join("pids.events")).ok())?;
        events.lines().any(|line| line.strip_prefix("max ").is_some_and(|times| times != "0")).then_some(())
    })
    .await;
    // Beside it everything goes on.
    for _ in 0..3 {
        let quick = case.enqueue("quick").await;
        case.until(quick, "succeeded", BUSY).await;
        assert!(count(&all) <= PIDS_MAX + OTHERS, "{} processes", count(&all));
    }
    case.until(bomb, "failed", Duration::from_secs(3) + BOUND).await;
    let run = case.runs(bomb).await.swap_remove(0);
    assert_eq!(run.get::<_, Option<&str>>("outcome"), Some("timed_out"));
    assert_eq!(run.get::<_, Option<&str>>("containment"), Some(containment));
    assert!(run.get::<_, Option<i32>>("processes_killed") > Some(1), "it had many processes");
    let word = format!("ORCH_RUN_ID={}", run.get::<_, &str>("run"));
    assert!(with_environment(&word).is_empty(), "all of it is gone");
    assert!(bound.runs().iter().all(|group| !group.ends_with(run.get::<_, &str>("run"))), "its group as well");
    assert_eq!(case.replica_id("a").await, replica, "the same replica");
    case.down().await;
}
