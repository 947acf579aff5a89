//! Lists, single jobs, `set`, and changes by number and by filter.

use serde_json::{Value, json};

use orch::model::Outcome;

use crate::{
    played::Played,
    support::{Orch, TestDb},
};

async fn enqueue(orch: &Orch, arguments: &[&str]) -> i64 {
    let mut all = vec!["enqueue"];
    all.extend(arguments);
    orch.run(all).await.ok().stdout.trim().parse().unwrap()
}

fn ids(page: &Value) -> Vec<i64> {
    page["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_i64().unwrap()).collect()
}

async fn statuses(orch: &Orch) -> Vec<String> {
    let page = orch.run(["--json", "jobs"]).await.ok().json();
    let mut jobs: Vec<(i64, String)> = page["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| (job["id"].as_i64().unwrap(), job["status"].as_str().unwrap().to_owned()))
        .collect();
    jobs.sort();
    jobs.into_iter().map(|(_, status)| status).collect()
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    for _ in 0..5 {
        enqueue(&orch, &["a"]).await;
    }
    let first = orch.run(["--json", "jobs", "--limit", "2"]).await.ok().json();
    assert_eq!((ids(&first), &first["next"]), (vec![5, 4], &json!(4)));
    let second = orch.run(["--json", "jobs", "--limit", "2", "--before", "4"]).await.ok().json();
    assert_eq!((ids(&second), &second["next"]), (vec![3, 2], &json!(2)));
    let last = orch.run(["--json", "jobs", "--limit", "2", "--before", "2"]).await.ok().json();
    assert_eq!((ids(&last), &last["next"]), (vec![1], &Value::Null));
    let text = orch.run(["jobs", "--limit", "2"]).await.ok();
    assert!(text.stderr.contains("--before 4"), "{text:?}");
    assert_eq!(text.stdout.lines().count(), 3, "{text:?}");
}

#[tokio::test]
async fn filters_name_exactly_what_they_say() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a", "b"]).await;
    let orch = Orch::on(&db);
    enqueue(&orch, &["a", "--project", "north", "--priority", "9"]).await;
    enqueue(&orch, &["b", "--project", "north", "--run-at", "1h"]).await;
    enqueue(&orch, &["a", "--project", "south", "--priority", "8"]).await;
    let first = played.claim().await.unwrap();
    played.settle(first, Outcome::Failed).await;
    let client = db.client().await;
    client
        .batch_execute("update orch.jobs set created_at = created_at - interval '2 days' where id = 2")
        .await
        .unwrap();
    for (flags, expected) in [
        (&["--status", "failed"][..], vec![1]),
        (&["--status", "queued"], vec![3, 2]),
        (&["--status", "queued,failed"], vec![3, 2, 1]),
        (&["--project", "north"], vec![2, 1]),
        (&["--agent", "a"], vec![3, 1]),
        (&["--agent", "a", "--project", "north"], vec![1]),
        (&["--created-within", "1d"], vec![3, 1]),
        (&["--created-before", "1d"], vec![2]),
        (&["--finished-within", "1h"], vec![1]),
        (&["--finished-before", "1h"], vec![]),
        (&["--project", "nowhere"], vec![]),
    ] {
        let mut all = vec!["--json", "jobs"];
        all.extend(flags);
        assert_eq!(ids(&orch.run(all).await.ok().json()), expected, "{flags:?}");
    }
}

#[tokio::test]
async fn a_job_is_shown_whole_with_its_runs() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    let arguments = [
        "a",
        r#"{"n": 1}"#,
        "--priority",
        "-3",
        "--label",
        "team=x",
        "--dedupe-key",
        "k",
        "--timeout",
        "90s",
        "--max-attempts",
        "1",
    ];
    let id = enqueue(&orch, &arguments).await;
    let claimed = played.claim().await.unwrap();
    let run_id = claimed.owned.run_id().to_string();
    played.stamp(&claimed, 99).await;
    let running = orch.run(["--json", "job", "1"]).await.ok().json();
    assert_eq!(
        (&running["status"], &running["run_id"], &running["pid"]),
        (&json!("running"), &json!(run_id), &json!(99))
    );
    assert_eq!((&running["replica"], &running["host"]), (&json!("played"), &json!("stage")));
    played.settle(claimed, Outcome::Failed).await;
    let job = orch.run(["--json", "job", &id.to_string()]).await.ok().json();
    for (key, value) in [
        ("id", json!(id)),
        ("status", json!("failed")),
        ("project", json!("default")),
        ("agent", json!("a")),
        ("priority", json!(-3)),
        ("attempt", json!(1)),
        ("failures", json!(1)),
        ("max_attempts", json!(1)),
        ("labels", json!({"team": "x"})),
        ("dedupe_key", json!("k")),
        ("timeout_seconds", json!(90.0)),
        ("payload", json!({"n": 1})),
        ("run_id", Value::Null),
        ("pid", Value::Null),
        ("last_run_id", json!(run_id)),
    ] {
        assert_eq!(job[key], value, "{key}");
    }
    let run = &job["runs"][0];
    assert_eq!(
        (&run["run_id"], &run["outcome"], &run["closed_by"]),
        (&json!(run_id), &json!("failed"), &json!("owner"))
    );
    assert_eq!((&run["pid"], &run["containment"], &run["attempt"]), (&json!(99), &json!("sweep"), &json!(1)));
    let text = orch.run(["job", "1"]).await.ok().stdout;
    assert!(text.contains(&run_id) && text.contains("as played"), "{text}");
}

#[tokio::test]
async fn only_a_job_that_does_not_run_can_be_set() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    enqueue(&orch, &["a"]).await;
    let set = orch.run(["--json", "set", "1", "--priority", "7", "--run-at", "2030-01-01T00:00:00Z"]).await.ok().json();
    assert_eq!(set, json!({"id": 1, "priority": 7, "run_at": "2030-01-01T00:00:00Z"}));
    let set = orch.run(["--json", "set", "1", "--run-at", "0s"]).await.ok().json();
    assert_eq!(set["priority"], 7);
    let _running = played.claim().await.unwrap();
    let refused = orch.run(["set", "1", "--priority", "8"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("job 1 is running"), "{refused:?}");
}

#[tokio::test]
async fn a_change_by_number_does_what_it_can_and_names_what_it_cannot() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    for _ in 0..3 {
        enqueue(&orch, &["a"]).await;
    }
    orch.run(["hold", "1", "2"]).await.ok();
    assert_eq!(statuses(&orch).await, ["held", "held", "queued"]);
    orch.run(["release", "2"]).await.ok();
    assert_eq!(statuses(&orch).await, ["held", "queued", "queued"]);
    let cancelled = orch.run(["--json", "cancel", "3", "77", "1", "3"]).await;
    assert_eq!(cancelled.status.code(), Some(1), "{cancelled:?}");
    let answer = cancelled.json();
    assert_eq!(answer["changed"], json!([1, 3]));
    assert_eq!(answer["refused"][0]["id"], 77);
    assert!(answer["refused"][0]["error"].as_str().unwrap().contains("77"));
    assert_eq!(statuses(&orch).await, ["cancelled", "queued", "cancelled"]);
    orch.run(["retry", "1"]).await.ok();
    assert_eq!(statuses(&orch).await, ["queued", "queued", "cancelled"]);
    let nothing = orch.run(["release", "1"]).await;
    assert!(!nothing.stderr.contains("panicked"), "{nothing:?}");
}

#[tokio::test]
async fn a_running_job_is_cancelled_by_its_owner() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    enqueue(&orch, &["a"]).await;
    let claimed = played.claim().await.unwrap();
    orch.run(["cancel", "1"]).await.ok();
    assert_eq!(statuses(&orch).await, ["running"]);
    assert_eq!(played.db.list_cancelled(played.replica_id).await.unwrap(), [claimed.owned.run_id()]);
    played.settle(claimed, Outcome::Cancelled).await;
    assert_eq!(statuses(&orch).await, ["cancelled"]);
}

#[tokio::test]
async fn a_change_by_filter_takes_what_it_names_and_a_dry_run_takes_nothing() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    let client = db.client().await;
    let many = "select orch.enqueue('a', project => case when n % 2 = 0 then 'even' else 'odd' end) from generate_series(1, 2500) n";
    client.query(many, &[]).await.unwrap();
    let dry = orch.run(["--json", "cancel", "--project", "even", "--dry-run"]).await.ok().json();
    assert_eq!((dry["changed"].as_array().unwrap().len(), &dry["dry_run"]), (1250, &json!(true)));
    let counts = "select project, status, count(*) from orch.jobs group by 1, 2 order by 1, 2";
    let count = async || -> Vec<(String, String, i64)> {
        client.query(counts, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    };
    let line = |project: &str, status: &str, n: i64| (project.to_owned(), status.to_owned(), n);
    assert_eq!(count().await, [line("even", "queued", 1250), line("odd", "queued", 1250)]);
    let text = orch.run(["cancel", "--project", "even", "--dry-run"]).await.ok();
    assert_eq!(text.stdout.lines().count(), 1250);
    assert!(text.stderr.contains("1250 jobs would be cancelled"), "{}", text.stderr);
    orch.run(["cancel", "--project", "even"]).await.ok();
    assert_eq!(count().await, [line("even", "cancelled", 1250), line("odd", "queued", 1250)]);
    orch.run(["retry", "--status", "cancelled", "--created-within", "1h"]).await.ok();
    assert_eq!(count().await, [line("even", "queued", 1250), line("odd", "queued", 1250)]);
    let none = orch.run(["release", "--project", "even"]).await.ok();
    assert!(none.stderr.contains("no job matches"), "{none:?}");
}

#[tokio::test]
async fn a_change_needs_to_know_of_what() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db);
    for arguments in [&["cancel"][..], &["cancel", "1", "--project", "x"], &["hold", "1", "--dry-run"]] {
        let output = orch.run(arguments).await;
        assert!(!output.status.success() && output.stderr.lines().count() == 1, "{output:?}");
    }
}

#[tokio::test]
async fn a_closed_pipe_ends_a_command_without_a_word() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db);
    db.client().await.query("select orch.enqueue('a') from generate_series(1, 3000)", &[]).await.unwrap();
    let mut command = orch.command(["jobs", "--limit", "3000"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(141));
}

#[tokio::test]
async fn the_queue_is_shown_as_http_shows_it() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    enqueue(&orch, &["a", "--project", "north"]).await;
    enqueue(&orch, &["a", "--project", "south"]).await;
    let _running = played.claim().await.unwrap();
    let queue = orch.run(["--json", "queue"]).await.ok().json();
    assert_eq!((&queue["counts"]["queued"], &queue["counts"]["running"]), (&json!(1), &json!(1)));
    assert_eq!((&queue["waiting"], &queue["reaper"]["enabled"]), (&json!({"next": 1}), &json!(true)));
    let text = orch.run(["queue"]).await.ok().stdout;
    for word in ["north", "south", "played", "stage", "QUEUED", "1/4"] {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
}
