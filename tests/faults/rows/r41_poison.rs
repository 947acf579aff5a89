//! Row 41: jobs that take something down with them. One that kills its shim is lost, and poisoned after three losses; one
//! that crashes fails; one that is deaf to TERM is killed. The others flow all the while.

use crate::case::{BOUND, Case};

/// The shim is the parent of what it starts, whose end `kill -9` hides from it.
const KILLS_ITS_SHIM: &[&str] = &["sh", "-c", "kill -9 $PPID; sleep 1000"];

pub(crate) async fn in_a_cgroup(case: &mut Case) {
    others_progress(case, "cgroup").await;
}

pub(crate) async fn with_a_sweep(case: &mut Case) {
    others_progress(case, "sweep").await;
}

async fn others_progress(case: &mut Case, containment: &str) {
    let common = format!(
        "containment = \"{containment}\"\nmax_attempts = 1\nbackoff = {{ base = \"200ms\", factor = 2, max = \"1s\" }}"
    );
    case.plain_agent("poison", KILLS_ITS_SHIM, &common);
    case.agent("crash", "kill -SEGV $$", &common);
    case.agent("deaf", "trap '' TERM; while :; do sleep 1000; done", &format!("{common}\ntimeout = \"500ms\""));
    case.agent("quick", "exit 0", &common);
    case.up().await;
    let poison = case.enqueue("poison").await;
    let (crash, deaf) = (case.enqueue("crash").await, case.enqueue("deaf").await);
    let mut quick = Vec::new();
    for _ in 0..20 {
        quick.push(case.enqueue("quick").await);
    }
    for job in quick {
        case.until(job, "succeeded", BOUND).await;
    }
    case.until(poison, "failed", BOUND).await;
    assert_eq!(case.outcomes(poison).await, vec![Some("lost".to_owned()); 3]);
    let row = case.job(poison).await;
    let error: &str = row.get("error");
    assert!(error.contains("poisoned") && error.contains("shim died"), "{error}");
    assert_eq!((row.get::<_, i32>("lost_count"), row.get::<_, i32>("failures")), (3, 0));

    case.until(crash, "failed", BOUND).await;
    assert_eq!(case.outcomes(crash).await, [Some("failed".to_owned())]);
    case.until(deaf, "failed", BOUND).await;
    assert_eq!(case.outcomes(deaf).await, [Some("timed_out".to_owned())]);
}
