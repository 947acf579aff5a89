//! Row 10: `kill -9` of a shim. Its run ends as lost, its tree is gone before the job is tried again.

use nix::sys::signal::Signal;

use crate::{
    case::{BOUND, Case},
    processes::{lock_holder, signal, with_environment},
    witness,
};

/// The first attempt leaves three processes that ignore TERM, one of them in a session of its own; the second succeeds.
const STUBBORN_ONCE: &str = r#"
    [ "$ORCH_ATTEMPT" = 1 ] || exit 0
    trap '' TERM
    setsid -f sleep 100000
    sleep 100000 &
    sleep 100000; wait"#;

pub(crate) async fn with_a_cgroup(case: &mut Case) {
    killed(case, "cgroup").await;
}

pub(crate) async fn with_a_pid_namespace(case: &mut Case) {
    killed(case, "pidns").await;
}

pub(crate) async fn with_a_sweep(case: &mut Case) {
    killed(case, "sweep").await;
}

async fn killed(case: &mut Case, containment: &str) {
    case.agent("stubborn", STUBBORN_ONCE, &format!("containment = \"{containment}\""));
    case.up().await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let job = case.enqueue("stubborn").await;
        case.until_alive(job).await;
        jobs.push(job);
    }
    for job in &jobs {
        let run: String = case.runs(*job).await[0].get("run");
        let shim =
            lock_holder(&case.orch.state_dir().join("runs").join(&run)).expect("a shim that holds the run's lock");
        assert_ne!(Some(shim), case.job(*job).await.get("pid"), "the lock is the shim's, not the job's");
        signal(shim, Signal::SIGKILL);
    }
    for job in jobs {
        case.until(job, "succeeded", BOUND).await;
        assert_eq!(case.outcomes(job).await, [Some("lost".to_owned()), Some("succeeded".to_owned())]);
        let runs = case.runs(job).await;
        assert_eq!(runs[0].get::<_, Option<&str>>("containment"), Some(containment));
        assert_eq!(case.job(job).await.get::<_, i32>("lost_count"), 1);
        let left = with_environment(&format!("ORCH_RUN_ID={}", runs[0].get::<_, &str>("run")));
        assert!(left.is_empty(), "job {job}: {left:?} of the lost run still live");
        // The second run got the lock at once: nothing of the first was left when it began.
        assert_eq!(witness::intervals(&case.witness(), job).len(), 2);
    }
}
