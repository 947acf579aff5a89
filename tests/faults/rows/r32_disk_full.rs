//! Row 32: the disk below the state directory is full. Nothing succeeds that did not, nothing is stuck, the log says what is
//! wrong, and everything goes on once there is room.

use std::time::Duration;

use crate::{
    case::{BOUND, Case},
    disk::SmallDisk,
    support::{eventually, eventually_within},
};

pub(crate) async fn nothing_is_lost_or_stuck(case: &mut Case) {
    let disk = SmallDisk::over(case.orch.state_dir(), "8m", "0711");
    let again = "max_attempts = 1000\nbackoff = { base = \"200ms\", factor = 1, max = \"200ms\" }";
    case.agent("result", r#"printf '{"verdict": "done"}' > "$ORCH_RESULT_FILE""#, again);
    // More output than the disk is large, all of which may be kept.
    case.agent("flood", "yes; sleep 1000", "max_attempts = 1");
    case.orch.set("ORCH_LOG_CAP", "64MiB");
    case.up().await;
    let flood = case.enqueue("flood").await;
    eventually_within(BOUND, "the disk to be full", async || (disk.free() < 4096).then_some(())).await;

    let mut jobs = Vec::new();
    for _ in 0..6 {
        jobs.push(case.enqueue("result").await);
    }
    eventually("the log to say what is wrong", async || {
        case.replica().log().contains("No space left on device").then_some(())
    })
    .await;
    let honest = "select id, result::text from orch.jobs where agent = 'result' and status = 'succeeded'";
    for row in case.sql.query(honest, &[]).await.unwrap() {
        assert!(row.get::<_, Option<&str>>(1).is_some_and(|result| result.contains("done")), "{row:?}");
    }
    let given_up =
        "select count(*) from orch.jobs where agent = 'result' and status not in ('queued', 'running', 'succeeded')";
    assert_eq!(case.sql.query_one(given_up, &[]).await.unwrap().get::<_, i64>(0), 0);

    case.sql.execute("select orch.cancel($1)", &[&flood]).await.unwrap();
    case.until(flood, "cancelled", BOUND).await;
    for job in jobs {
        case.until(job, "succeeded", BOUND + Duration::from_secs(20)).await;
        let result: serde_json::Value = case.job(job).await.get("result");
        assert_eq!(result["verdict"], "done");
    }
    case.down().await;
}
