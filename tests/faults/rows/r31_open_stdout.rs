//! Row 31: a grandchild keeps the run's standard output open after the main process has ended.

use std::time::{Duration, Instant};

use crate::case::{BOUND, Case, KILL_GRACE};

pub(crate) async fn a_grandchild_cannot_hold_a_run_open(case: &mut Case) {
    case.agent("leaves_one", "sleep 1000000 & echo said; exit 3", "success_codes = [3]");
    case.agent(
        "leaves_a_deaf_one",
        "(trap '' TERM; while :; do sleep 1000; done) & echo said; exit 3",
        "success_codes = [3]",
    );
    case.up().await;
    for agent in ["leaves_one", "leaves_a_deaf_one"] {
        let start = Instant::now();
        let job = case.enqueue(agent).await;
        case.until(job, "succeeded", BOUND).await;
        let bound = KILL_GRACE + Duration::from_secs(5);
        assert!(start.elapsed() < bound, "{agent}: ended only after {:?}", start.elapsed());
        let run = &case.runs(job).await[0];
        assert_eq!(run.get::<_, Option<i32>>("exit_code"), Some(3), "the main process's own status");
        assert!(run.get::<_, Option<i32>>("processes_killed") >= Some(1));
        let log = case.orch.run(["logs", &job.to_string()]).await.ok();
        assert!(log.stdout.contains("said"), "{agent}: what was written before is kept: {log:?}");
    }
}
