//! The command line against a real replica with real processes.

use serde_json::json;

use crate::support::{Orch, Replica, TestDb, eventually};

const AGENTS: &str = r#"
[agents.ok]
command = ["sh", "-c", "echo out; echo err >&2; cat; printf '{\"verdict\": \"fine\"}' > \"$ORCH_RESULT_FILE\""]
[agents.bad]
command = ["sh", "-c", "echo before the fall; exit 3"]
max_attempts = 1
[agents.slow]
command = ["sleep", "600"]
max_attempts = 1
[agents.chatty]
command = ["sh", "-c", "for i in 1 2 3; do echo line $i; sleep 0.2; done"]
"#;

async fn running(db: &TestDb) -> (Orch, Replica) {
    let orch = Orch::on(db).with("ORCH_POLL_INTERVAL", "100ms");
    orch.config(AGENTS);
    let replica = orch.up().await;
    (orch, replica)
}

#[tokio::test]
async fn a_job_that_succeeds_is_waited_for_and_its_output_is_there() {
    let db = TestDb::new().await;
    let (orch, _replica) = running(&db).await;
    let id = orch.run(["enqueue", "ok", r#"{"n": 1}"#, "--wait"]).await.ok().stdout.trim().to_owned();
    let output = orch.run(["logs", &id]).await.ok().stdout;
    assert!(output.contains("out\n") && output.contains("err\n") && output.contains(r#"{"n": 1}"#), "{output}");
    let job = orch.run(["--json", "job", &id]).await.ok().json();
    assert_eq!((&job["status"], &job["result"]), (&json!("succeeded"), &json!({"verdict": "fine"})));
    let run = &job["runs"][0];
    assert_eq!(
        (&run["outcome"], &run["exit_code"], &run["closed_by"]),
        (&json!("succeeded"), &json!(0), &json!("owner"))
    );
    assert!(run["log_bytes_kept"].as_i64().unwrap() > 0, "{run}");
}

#[tokio::test]
async fn the_exit_code_of_a_wait_is_the_jobs() {
    let db = TestDb::new().await;
    let (orch, _replica) = running(&db).await;
    let failed = orch.run(["enqueue", "bad", "--follow"]).await;
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert_eq!(failed.stdout, "before the fall\n");
    assert!(failed.stderr.contains("failed"), "{failed:?}");
    let late = orch.run(["enqueue", "slow", "--timeout", "200ms", "--wait"]).await;
    assert_eq!(late.status.code(), Some(124), "{late:?}");
    let waiting = orch.run(["enqueue", "slow", "--label", "who=me", "--wait"]);
    let (cancelled, ()) = tokio::join!(waiting, async {
        let id = eventually("the job to run", async || {
            let page = orch.run(["--json", "jobs", "--status", "running"]).await.ok().json();
            page["jobs"][0]["pid"].as_i64().and(page["jobs"][0]["id"].as_i64())
        })
        .await;
        orch.run(["cancel", &id.to_string()]).await.ok();
    });
    assert_eq!(cancelled.status.code(), Some(130), "{cancelled:?}");
}

#[tokio::test]
async fn output_is_followed_while_the_run_writes_it() {
    let db = TestDb::new().await;
    let (orch, _replica) = running(&db).await;
    let output = orch.run(["enqueue", "chatty", "--follow"]).await.ok();
    assert_eq!(output.stdout, "line 1\nline 2\nline 3\n");
    let id = output.stderr.trim().strip_prefix("job ").unwrap();
    assert_eq!(orch.run(["logs", "-f", id]).await.ok().stdout, output.stdout);
}

#[tokio::test]
async fn a_running_job_stands_in_the_queue_with_its_process() {
    let db = TestDb::new().await;
    let (orch, replica) = running(&db).await;
    let id: i64 = orch.run(["enqueue", "slow"]).await.ok().stdout.trim().parse().unwrap();
    let job = eventually("the job to run", async || {
        let queue = replica.get("/queue").await.json();
        queue["running"][0]["pid"].is_number().then(|| queue["running"][0].clone())
    })
    .await;
    assert_eq!((&job["job_id"], &job["agent"], &job["project"]), (&json!(id), &json!("slow"), &json!("default")));
    let line = std::fs::read(format!("/proc/{}/cmdline", job["pid"])).unwrap();
    assert_eq!(line, b"sleep\x00600\x00");
    orch.run(["cancel", &id.to_string()]).await.ok();
}
