//! Why a job waits: each reason, with what would let it run; what one does that runs; how one ended.

mod alike;
mod blockers;
mod many;
mod property;

use orch::model::Outcome;
use serde_json::{Value, json};

use crate::{
    http::served,
    played::Played,
    support::{Orch, TestDb, http_get},
};

async fn enqueue(orch: &Orch, arguments: &[&str]) -> i64 {
    let mut all = vec!["enqueue"];
    all.extend(arguments);
    orch.run(all).await.ok().stdout.trim().parse().unwrap()
}

async fn why(orch: &Orch, id: i64) -> Value {
    orch.run(["--json", "why", &id.to_string()]).await.ok().json()
}

/// That the job waits for this, said with these words, and with these for what would let it run.
#[track_caller]
fn says(why: &Value, reason: &str, words: &[&str], unblock: &str) {
    assert_eq!(why["reason"], reason, "{why}");
    let sentence = why["sentence"].as_str().unwrap();
    for word in words {
        assert!(sentence.contains(word), "{word:?} is missing: {sentence}");
    }
    assert!(!sentence.chars().any(char::is_control), "{sentence:?}");
    assert!(why["unblock"].as_str().unwrap().contains(unblock), "{why}");
    assert!(why["since"].is_string(), "{why}");
}

#[tokio::test]
async fn each_reason_is_told_with_what_would_let_the_job_run() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    orch.run(["limits", "set", "acct", "1"]).await.ok();

    let keeper = enqueue(&orch, &["a", "--gate", "g\u{1b}[31m"]).await;
    let claimed = played.claim().await.unwrap();
    played.stamp(&claimed, 4711).await;

    let held = enqueue(&orch, &["a"]).await;
    orch.run(["hold", &held.to_string()]).await.ok();
    let later = enqueue(&orch, &["a", "--run-at", "10h"]).await;
    let paused = enqueue(&orch, &["a", "--project", "north"]).await;
    orch.run(["pause", "--project", "north", "--until", "1h", "--reason", "deploy\u{7}"]).await.ok();
    let unserved = enqueue(&orch, &["b", "--any-agent"]).await;
    let unmatched = enqueue(&orch, &["a", "--require", "zone=eu"]).await;
    let gated = enqueue(&orch, &["a", "--gate", "g\u{1b}[31m"]).await;
    let closed = enqueue(&orch, &["a", "--limit", "acct"]).await;
    orch.run(["limits", "close", "acct", "--until", "5m", "--reason", "quota"]).await.ok();
    let free = enqueue(&orch, &["a", "--gate", "h"]).await;
    let second = enqueue(&orch, &["a", "--gate", "h"]).await;

    says(&why(&orch, held).await, "held", &["held, for"], &format!("orch release {held}"));
    // Of the ten hours, "10h" are left or "9h59m", by the half second.
    says(&why(&orch, later).await, "not_due", &["it is not due for another ", "h", ", until 20"], "--run-at 0s");
    let told = why(&orch, paused).await;
    says(&told, "paused", &["project north is paused until 20", "deploy\\u0007"], "orch resume --project north");
    assert_eq!(told["detail"]["limit"]["reason"], "deploy\u{7}");
    says(&why(&orch, unserved).await, "no_replica_serves_agent", &["agent b", "\"played\" 1/4"], "[agents.b]");
    says(&why(&orch, unmatched).await, "no_replica_matches_labels", &["{\"zone\": \"eu\"}", "\"played\" {}"], "labels");
    let told = why(&orch, gated).await;
    let keeps =
        format!("gate \"g\\u001b[31m\" is kept by job {keeper} (pid 4711 on \"stage\", replica \"played\", for");
    says(&told, "serial_gate", &[&keeps], &format!("orch cancel {keeper}"));
    let holder = &told["detail"]["gate"]["held_by"];
    assert_eq!((&holder["job_id"], &holder["run_id"]), (&json!(keeper), &json!(claimed.owned.run_id())));
    assert_eq!(
        (&holder["pid"], &holder["host"], &holder["replica"]),
        (&json!(4711), &json!("stage"), &json!("played"))
    );
    assert_eq!(holder["replica_id"], json!(played.replica_id));
    let text = orch.run(["why", &gated.to_string()]).await.ok().stdout;
    assert!(text.lines().any(|line| line.contains("  stage  played   20") && line.ends_with('Z')), "{text}");
    let told = why(&orch, closed).await;
    says(&told, "limit_closed", &["limit acct is closed until 20", "\"quota\""], "orch limits open acct");
    assert!(told["until"].is_string(), "{told}");
    says(&why(&orch, free).await, "next", &["next", "\"played\" 1/4"], "poll_interval");
    says(
        &why(&orch, second).await,
        "serial_gate",
        &["gate \"h\" is free", &format!("job {free} comes first")],
        "that job",
    );

    orch.run(["pause", "--all"]).await.ok();
    says(&why(&orch, free).await, "paused", &["everything is paused until further notice"], "orch resume --all");
    let text = orch.run(["why", &free.to_string()]).await.ok().stdout;
    assert!(text.contains("\nuntil     further notice\n"), "{text}");
    orch.run(["resume", "--all"]).await.ok();
    orch.run(["pause", "--agent", "a"]).await.ok();
    says(&why(&orch, free).await, "paused", &["agent a is paused"], "orch resume --agent a");
    orch.run(["resume", "--agent", "a"]).await.ok();
    orch.run(["drain", "--all"]).await.ok();
    says(&why(&orch, free).await, "no_replica_serves_agent", &["(draining)"], "orch drain --off");
    orch.run(["drain", "--all", "--off"]).await.ok();

    // The lists say of all what is said of each.
    let client = db.client().await;
    alike::agree(&client).await;
    let served = served(&db, None).await;
    let queue = http_get(served.address, "/queue").await.unwrap().json();
    let counts = json!({
        "held": 1, "not_due": 1, "paused": 1, "no_replica_serves_agent": 1, "no_replica_matches_labels": 1, "serial_gate": 2,
        "limit_closed": 1, "next": 1,
    });
    assert_eq!(queue["waiting"], counts);
    assert_eq!(orch.run(["--json", "queue"]).await.ok().json()["waiting"], counts);
    let table = orch.run(["queue"]).await.ok().stdout;
    assert!(table.contains("WAITING FOR") && table.contains("limit_closed"), "{table}");
    let metrics = http_get(served.address, "/metrics").await.unwrap().body;
    for line in [r#"orch_waiting_jobs{reason="serial_gate"} 2"#, r#"orch_waiting_jobs{reason="limit_full"} 0"#] {
        assert!(metrics.lines().any(|found| found == line), "{line} is missing in\n{metrics}");
    }
    let told = http_get(served.address, &format!("/api/v1/jobs/{gated}/why")).await.unwrap().json();
    assert_eq!((&told["job_id"], &told["reason"]), (&json!(gated), &json!("serial_gate")));
    assert_eq!(told["detail"]["gate"]["held_by"]["job_id"], keeper);
    let text = orch.run(["job", &gated.to_string()]).await.ok().stdout;
    assert!(text.contains("is kept by job"), "{text}");
}

#[tokio::test]
async fn a_full_replica_is_told_with_its_slots_and_how_many_are_ahead() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    let client = db.client().await;
    for _ in 0..6 {
        enqueue(&orch, &["a"]).await;
    }
    says(&why(&orch, 4).await, "next", &["next"], "poll");
    says(&why(&orch, 6).await, "fair_share", &["5 jobs are ahead of it in fair order: \"played\" 0/4"], "--priority");
    let urgent = enqueue(&orch, &["a", "--priority", "5"]).await;
    says(&why(&orch, urgent).await, "next", &[], "");
    says(&why(&orch, 4).await, "fair_share", &["4 jobs are ahead"], "");
    client.batch_execute("update orch.replicas set max_concurrency = 1").await.unwrap();
    let running = played.claim().await.unwrap();
    assert_eq!(running.owned.job_id().0, urgent);
    says(&why(&orch, 1).await, "no_free_slot", &["full: \"played\" 1/1"], "another replica");
    says(&why(&orch, 2).await, "no_free_slot", &["1 job is ahead of it"], "");
    assert_eq!(why(&orch, 2).await["detail"]["ahead_of_it"], 1);
}

#[tokio::test]
async fn the_old_process_of_a_job_that_was_taken_has_a_slot_until_it_has_ended() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    let client = db.client().await;
    client.batch_execute("update orch.replicas set max_concurrency = 1").await.unwrap();
    let taken = enqueue(&orch, &["a"]).await;
    let claimed = played.claim().await.unwrap();
    client.execute("update orch.jobs set status = 'queued' where id = $1", &[&taken]).await.unwrap();
    let next = enqueue(&orch, &["a"]).await;
    says(&why(&orch, taken).await, "old_process_ending", &[], "");
    says(&why(&orch, next).await, "no_free_slot", &["full: \"played\" 1/1"], "");
    let run_id = Some(claimed.owned.run_id());
    assert!(played.db.acknowledge_ended(played.replica_id, claimed.owned.job_id(), run_id).await.unwrap());
    says(&why(&orch, taken).await, "next", &[], "");
}

#[tokio::test]
async fn what_runs_is_told_with_its_process_and_what_ended_with_what_was_tried() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    let id = enqueue(&orch, &["a"]).await;
    let claimed = played.claim().await.unwrap();
    played.stamp(&claimed, 4711).await;
    let told = why(&orch, id).await;
    says(
        &told,
        "running",
        &["runs: pid 4711 on \"stage\", replica \"played\"", "attempt 1", "never heard since its start", "lease left"],
        "orch cancel 1",
    );
    assert_eq!(told["detail"]["run"]["run_id"], json!(claimed.owned.run_id()));
    let text = orch.run(["why", "1"]).await.ok().stdout;
    assert!(text.starts_with("job 1 runs: ") && text.contains("4711") && text.contains("unblock"), "{text}");
    orch.run(["cancel", "1"]).await.ok();
    says(&why(&orch, id).await, "running", &["is being cancelled"], "");
    let client = db.client().await;
    client.batch_execute("update orch.jobs set cancel_requested_at = null; update orch.replicas set lease_until = now() - interval '7 s'").await.unwrap();
    says(&why(&orch, id).await, "running", &["lease is over for"], "");
    client.batch_execute("update orch.replicas set lease_until = now() + interval '1 min'").await.unwrap();

    played.settle(claimed, Outcome::Failed).await;
    let told = why(&orch, id).await;
    says(&told, "failed", &["job 1 failed", "after 1 run: ", "as played"], "orch retry 1");
    assert_eq!(told["detail"]["runs"][0]["outcome"], "failed");
    let text = orch.run(["why", "1"]).await.ok().stdout;
    assert!(text.contains("OUTCOME") && text.contains("as played"), "{text}");
    orch.run(["retry", "1"]).await.ok();
    let again = played.claim().await.unwrap();
    played.settle(again, Outcome::Succeeded).await;
    says(&why(&orch, id).await, "succeeded", &["succeeded", "after 2 runs"], "nothing");
    let never = enqueue(&orch, &["a"]).await;
    orch.run(["cancel", &never.to_string()]).await.ok();
    says(&why(&orch, never).await, "cancelled", &["was cancelled", "after no run"], "orch retry");
}

#[tokio::test]
async fn a_job_whose_old_process_still_ends_says_where_that_is() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    let id = enqueue(&orch, &["a"]).await;
    let claimed = played.claim().await.unwrap();
    played.stamp(&claimed, 4711).await;
    db.client().await.batch_execute("update orch.jobs set status = 'queued' where id = 1").await.unwrap();
    let told = why(&orch, id).await;
    says(&told, "old_process_ending", &["pid 4711 on \"stage\""], "ends the process");
    assert_eq!(told["detail"]["old_run"]["run_id"], json!(claimed.owned.run_id()));
}

#[tokio::test]
async fn a_job_that_is_not_there_has_no_reason() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db);
    let output = orch.run(["why", "77"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stderr, "orch: there is no job 77: `orch jobs` lists them\n");
    assert_eq!(orch.run(["why", "x"]).await.status.code(), Some(2));
    let served = served(&db, None).await;
    for (target, status) in [("77", 404), ("x", 400), ("-1", 404)] {
        let answer = http_get(served.address, &format!("/api/v1/jobs/{target}/why")).await.unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.json()["error"].is_string());
    }
    for bad in ["select orch.why(77)", "select orch.why(null)"] {
        let error = db.client().await.query(bad, &[]).await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code().to_owned()).as_deref(), Some("OR005"), "{bad}");
    }
}
