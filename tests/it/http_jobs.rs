//! HTTP: jobs are enqueued, read and changed as on the command line, and what is no wish is refused in one sentence.

use std::net::SocketAddr;

use orch::model::Outcome;
use serde_json::{Value, json};

use crate::{
    http::served,
    played::Played,
    support::{Answer, TestDb, http_get, http_request},
};

/// POST with a JSON body, or with none.
async fn post(address: SocketAddr, target: &str, body: &str) -> Answer {
    let host = address.to_string();
    let mut headers = vec![("Host", host.as_str())];
    if !body.is_empty() {
        headers.push(("Content-Type", "application/json"));
    }
    http_request(address, "POST", target, &headers, body).await.unwrap()
}

/// The ids of a page.
async fn ids(address: SocketAddr, target: &str) -> Vec<i64> {
    let page = http_get(address, target).await.unwrap().json();
    let jobs = page["jobs"].as_array().unwrap_or_else(|| panic!("{target}: {page}"));
    jobs.iter().map(|job| job["id"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn a_wish_becomes_a_job_with_all_that_it_says() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let served = served(&db, None).await;
    let wish = json!({
        "agent": "a", "payload": {"n": 1}, "project": "north", "priority": -3, "run_at": "10m", "gate": "g",
        "labels": {"team": "x"}, "dedupe_key": "k", "max_attempts": 7, "timeout": "90s",
    });
    let answer = post(served.address, "/api/v1/jobs", &wish.to_string()).await;
    assert_eq!((answer.status, answer.json()), (201, json!({"id": 1})));
    let job = http_get(served.address, "/api/v1/jobs/1").await.unwrap().json();
    for (key, value) in [
        ("id", json!(1)),
        ("status", json!("queued")),
        ("agent", json!("a")),
        ("payload", json!({"n": 1})),
        ("project", json!("north")),
        ("priority", json!(-3)),
        ("gate", json!("g")),
        ("labels", json!({"team": "x"})),
        ("dedupe_key", json!("k")),
        ("max_attempts", json!(7)),
        ("timeout_seconds", json!(90.0)),
        ("runs", json!([])),
    ] {
        assert_eq!(job[key], value, "{key}");
    }
    let at = |key: &str| job[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(at("run_at").duration_since(at("created_at")).as_secs(), 600);
    let again = post(served.address, "/api/v1/jobs", r#"{"agent": "a", "dedupe_key": "k"}"#).await;
    assert_eq!((again.status, again.json()), (201, json!({"id": 1})), "the live job's number");
    // Whatever JSON is, is a payload, with all its digits.
    for payload in ["null", "12345678901234567890123.4567", "[]"] {
        let id = post(served.address, "/api/v1/jobs", &format!(r#"{{"agent": "a", "payload": {payload}}}"#)).await;
        let id = id.json()["id"].clone();
        let job = http_get(served.address, &format!("/api/v1/jobs/{id}")).await.unwrap();
        assert!(job.body.contains(&format!(r#""payload":{payload}"#)), "{job:?}");
    }
}

#[tokio::test]
async fn what_is_no_wish_is_refused_in_a_sentence_and_enqueues_nothing() {
    let db = TestDb::new().await;
    Played::on(&db, &["lines"]).await;
    let served = served(&db, None).await;
    let large = format!(r#"{{"agent": "lines", "payload": "{}"}}"#, "x".repeat(1 << 20));
    let huge = format!(r#"{{"agent": "lines", "payload": "{}"}}"#, "x".repeat(2 << 20));
    for (body, status, words) in [
        ("{", 400, "EOF"),
        ("[]", 422, ""),
        ("{}", 422, "agent"),
        (r#"{"agent": "lnies"}"#, 422, "did you mean \"lines\"?"),
        (r#"{"agent": "lines", "priority": 99999}"#, 422, "99999"),
        (r#"{"agent": "lines", "piority": 9}"#, 422, "piority"),
        (r#"{"agent": "lines", "run_at": "soon"}"#, 400, "run_at \"soon\": it is neither"),
        (r#"{"agent": "lines", "timeout": "0s"}"#, 400, "longer than zero"),
        (r#"{"agent": "lines", "max_attempts": 0}"#, 422, "max_attempts 0 is not at least 1"),
        (r#"{"agent": "lines", "project": "a b"}"#, 422, "no well-formed name"),
        (r#"{"agent": "lines", "on_conflict": "refuse"}"#, 422, "needs a dedupe_key"),
        (r#"{"agent": "lines", "payload": "\u0000"}"#, 422, "Unicode"),
        (r#"{"agent": "li\u0000nes"}"#, 422, "no replica has registered"),
        (&large, 413, "payload_max"),
        (&huge, 413, "limit"),
    ] {
        let answer = post(served.address, "/api/v1/jobs", body).await;
        let shown = &body[..body.len().min(100)];
        assert_eq!(answer.status, status, "{shown}: {answer:?}");
        let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(error.contains(words), "{shown}: {error}");
        assert!(!error.is_empty() && !error.contains(char::is_control), "{shown}: {error:?}");
    }
    let host = served.address.to_string();
    let plain = [("Host", host.as_str()), ("Content-Type", "text/plain")];
    let answer = http_request(served.address, "POST", "/api/v1/jobs", &plain, r#"{"agent": "lines"}"#).await.unwrap();
    assert_eq!(answer.status, 415, "what a page of a stranger can send without asking: {answer:?}");
    let stranger = [("Host", host.as_str()), ("Content-Type", "application/json"), ("Origin", "http://evil.example")];
    let answer =
        http_request(served.address, "POST", "/api/v1/jobs", &stranger, r#"{"agent": "lines"}"#).await.unwrap();
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(ids(served.address, "/api/v1/jobs").await, Vec::<i64>::new());
    let anyway = post(served.address, "/api/v1/jobs?any_agent=true", r#"{"agent": "lnies"}"#).await;
    assert_eq!(anyway.status, 201, "{anyway:?}");
}

#[tokio::test]
async fn pages_and_filters_are_those_of_the_command_line() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a", "b"]).await;
    let served = served(&db, None).await;
    for wish in [
        json!({"agent": "a", "project": "north", "priority": 9}),
        json!({"agent": "b", "project": "north", "run_at": "1h"}),
        json!({"agent": "a", "project": "south", "priority": 8}),
    ] {
        assert_eq!(post(served.address, "/api/v1/jobs", &wish.to_string()).await.status, 201);
    }
    let first = played.claim().await.unwrap();
    played.settle(first, Outcome::Failed).await;
    for (query, expected) in [
        ("", vec![3, 2, 1]),
        ("?status=failed", vec![1]),
        ("?status=queued,failed", vec![3, 2, 1]),
        ("?project=north&agent=a", vec![1]),
        ("?created_before=1h", vec![]),
        ("?finished_within=1h", vec![1]),
        ("?limit=2", vec![3, 2]),
        ("?limit=2&before=2", vec![1]),
    ] {
        assert_eq!(ids(served.address, &format!("/api/v1/jobs{query}")).await, expected, "{query}");
    }
    let page = http_get(served.address, "/api/v1/jobs?limit=2").await.unwrap().json();
    assert_eq!(page["next"], 2);
    assert_eq!(http_get(served.address, "/api/v1/jobs?limit=3").await.unwrap().json()["next"], Value::Null);
    for (query, words) in [
        ("?status=done", "\"done\""),
        ("?stauts=queued", "stauts"),
        ("?limit=0", "limit 0"),
        ("?limit=x", "invalid digit"),
        ("?created_within=soon", "created_within \"soon\""),
    ] {
        let answer = http_get(served.address, &format!("/api/v1/jobs{query}")).await.unwrap();
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        assert!(answer.json()["error"].as_str().unwrap().contains(words), "{query}: {answer:?}");
    }
}

#[tokio::test]
async fn a_change_says_where_the_job_stands_and_a_refusal_why() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let served = served(&db, None).await;
    post(served.address, "/api/v1/jobs", r#"{"agent": "a"}"#).await;
    let change = async |target: &str| {
        let answer = post(served.address, &format!("/api/v1/jobs/{target}"), "").await;
        let json = answer.json();
        (answer.status, json["status"].as_str().or(json["error"].as_str()).unwrap().to_owned())
    };
    assert_eq!(change("1/hold").await, (200, "held".to_owned()));
    assert_eq!(change("1/release").await, (200, "queued".to_owned()));
    let running = played.claim().await.unwrap();
    assert_eq!(change("1/cancel").await, (200, "running".to_owned()));
    let (status, sentence) = change("1/retry").await;
    assert_eq!(status, 409);
    assert!(sentence.contains("job 1 is running"), "{sentence}");
    played.settle(running, Outcome::Cancelled).await;
    assert_eq!(change("1/retry").await, (200, "queued".to_owned()));
    assert_eq!(change("1/cancel").await, (200, "cancelled".to_owned()));
    for (target, status, words) in [
        ("1/cancel", 409, "already"),
        ("77/cancel", 404, "there is no job 77"),
        ("x/cancel", 400, "number"),
        ("99999999999999999999/hold", 400, "number"),
    ] {
        let (found, sentence) = change(target).await;
        assert_eq!(found, status, "{target}: {sentence}");
        assert!(sentence.contains(words), "{target}: {sentence}");
    }
    for (target, status) in [("77", 404), ("x", 400), ("1/", 404)] {
        let answer = http_get(served.address, &format!("/api/v1/jobs/{target}")).await.unwrap();
        assert_eq!(answer.status, status, "{target}: {answer:?}");
        assert!(answer.json()["error"].is_string());
    }
    let host = served.address.to_string();
    let answer = http_request(served.address, "DELETE", "/api/v1/jobs", &[("Host", &host)], "").await.unwrap();
    assert_eq!(answer.status, 405);
    assert!(answer.json()["error"].as_str().unwrap().ends_with("it takes GET and POST"), "{answer:?}");
}
