//! Limits, pauses and projects on the command line and by HTTP: both say the same, and what is wrong is said in one sentence.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::{
    http::served,
    played::Played,
    support::{Orch, Output, TestDb, http_get, http_request},
};

/// POST with a JSON body.
async fn post(address: SocketAddr, target: &str, body: &Value) -> (u16, Value) {
    let host = address.to_string();
    let headers = [("Host", host.as_str()), ("Content-Type", "application/json")];
    let answer = http_request(address, "POST", target, &headers, &body.to_string()).await.unwrap();
    (answer.status, answer.json())
}

/// Asserts one sentence on stderr that contains all of `words`, and nothing on stdout.
#[track_caller]
fn refused(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(output.stdout, "", "{output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "one sentence: {output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "{word:?} is missing: {output:?}");
    }
}

async fn limit(orch: &Orch, name: &str) -> Value {
    let limits = orch.run(["--json", "limits", "list"]).await.ok().json()["limits"].take();
    limits.as_array().unwrap().iter().find(|limit| limit["name"] == name).cloned().unwrap_or(Value::Null)
}

#[tokio::test]
async fn a_limit_is_made_closed_opened_and_dropped() {
    let db = TestDb::new().await;
    let orch = Orch::on(&db);
    let none = orch.run(["limits", "list"]).await.ok();
    assert!(none.stdout.is_empty() && none.stderr.contains("orch limits set"), "{none:?}");

    let set = orch.run(["limits", "set", "acct/a:1", "2"]).await.ok();
    assert_eq!(set.stdout, "limit acct/a:1: at most 2 at the same time\n");
    let open = json!({
        "name": "acct/a:1", "max_running": 2, "running": 0, "room": 2, "closed_until": null, "probing": false, "reason": null,
    });
    assert_eq!(limit(&orch, "acct/a:1").await, open);
    let again = orch.run(["--json", "limits", "set", "acct/a:1", "2"]).await.ok().json();
    assert_eq!(again, json!({"name": "acct/a:1", "max_running": 2, "changed": false}));

    let closed = orch.run(["limits", "close", "acct/a:1", "--reason", "quota \u{1b}[31m"]).await.ok();
    assert_eq!(closed.stdout, "limit acct/a:1 is closed until further notice; what runs goes on\n");
    let found = limit(&orch, "acct/a:1").await;
    assert_eq!((&found["closed_until"], &found["room"]), (&json!("infinity"), &json!(0)));
    let table = orch.run(["limits", "list"]).await.ok().stdout;
    assert!(table.contains("closed until further notice") && table.contains("quota \\u{1b}[31m"), "{table}");
    let closed = orch.run(["--json", "limits", "close", "acct/a:1", "--until", "10m"]).await.ok().json();
    let until: jiff::Timestamp = closed["closed_until"].as_str().unwrap().parse().unwrap();
    assert!(
        limit(&orch, "acct/a:1").await["closed_until"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap() == until
    );

    assert_eq!(orch.run(["limits", "open", "acct/a:1"]).await.ok().stdout, "limit acct/a:1 is open\n");
    assert_eq!(limit(&orch, "acct/a:1").await, open);
    assert_eq!(orch.run(["limits", "open", "acct/a:1"]).await.ok().stdout, "limit acct/a:1 was not closed\n");
    let any = orch.run(["limits", "set", "acct/a:1", "none"]).await.ok();
    assert_eq!(any.stdout, "limit acct/a:1: any number at the same time\n");
    assert_eq!(limit(&orch, "acct/a:1").await["room"], Value::Null);
    orch.run(["limits", "drop", "acct/a:1"]).await.ok();
    assert_eq!(limit(&orch, "acct/a:1").await, Value::Null);
}

#[tokio::test]
async fn what_is_no_limit_is_refused_with_the_nearest_that_is_one() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    for (arguments, code, words) in [
        (&["limits", "set", "gpu", "0"][..], 2, &["at least 1", "close"][..]),
        (&["limits", "set", "gpu", "-1"], 2, &["at least 1"]),
        (&["limits", "set", "gpu", "many"], 2, &["none"]),
        (&["limits", "set", "gpu"], 2, &["MAX_RUNNING"]),
        (&["limits", "set", "", "1"], 1, &["no well-formed name"]),
        (&["limits", "set", "a b\u{1b}", "1"], 1, &["no well-formed name"]),
        (&["limits", "set", "project:a b", "1"], 1, &["no well-formed project"]),
        (&["limits", "open", "gpu"], 1, &["limit \"gpu\" is unknown", "there are none yet"]),
        (&["limits", "open", "project:zzz/"], 1, &["limit \"project:zzz/\" names no well-formed project"]),
        (&["limits", "close", "project:zzz/"], 1, &["limit \"project:zzz/\" names no well-formed project"]),
        (&["limits", "drop", "agent:"], 1, &["limit \"agent:\" names no well-formed agent"]),
        (&["limits", "open", "a b"], 1, &["no well-formed name"]),
        (&["enqueue", "a", "--limit", "gpu"], 1, &["is unknown"]),
        (&["enqueue", "a", "--limit", "all"], 1, &["every job needs it unsaid"]),
        (&["enqueue", "a", "--require", "gpu"], 2, &["KEY=VALUE"]),
        (&["limits", "close", "gpu", "--until", "yesterday"], 2, &["--until", "RFC 3339"]),
    ] {
        refused(&orch.run(arguments).await, code, words);
    }
    orch.run(["limits", "set", "gpu-a100", "1"]).await.ok();
    refused(&orch.run(["enqueue", "a", "--limit", "gpu-a10"]).await, 1, &["the nearest is", "gpu-a100"]);
    refused(&orch.run(["limits", "close", "gpu-a10"]).await, 1, &["gpu-a100", "orch.set_limit"]);
    refused(
        &orch.run(["limits", "open", "gpu-a10"]).await,
        1,
        &["limit \"gpu-a10\" is unknown", "the nearest is", "gpu-a100"],
    );
    // There without a row, as every job needs them.
    assert_eq!(orch.run(["limits", "open", "project:zzz"]).await.ok().stdout, "limit project:zzz was not closed\n");
    refused(&orch.run(["limits", "close", "gpu-a100", "--until", "2020-01-01T00:00:00Z"]).await, 1, &["past"]);
    orch.run(["enqueue", "a", "--limit", "gpu-a100", "--require", "zone=eu"]).await.ok();
    refused(&orch.run(["limits", "drop", "gpu-a100"]).await, 1, &["in use", "job 1"]);
    let client = db.client().await;
    let row = client.query_one("select limits, require from orch.jobs", &[]).await.unwrap();
    assert_eq!(row.get::<_, Vec<String>>(0), ["gpu-a100"]);
    assert_eq!(row.get::<_, Value>(1), json!({"zone": "eu"}));
}

#[tokio::test]
async fn what_is_paused_is_shown_until_it_goes_on() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    orch.run(["enqueue", "a", "--project", "north"]).await.ok();
    let paused = orch.run(["pause", "--project", "north", "--reason", "deploy"]).await.ok();
    assert_eq!(paused.stdout, "project north is paused until further notice; what runs goes on\n");
    assert!(paused.stderr.is_empty(), "{paused:?}");
    let projects = orch.run(["--json", "project", "list"]).await.ok().json();
    assert_eq!(
        projects["projects"],
        json!([{
            "name": "north", "weight": 1, "serial": false, "queued": 1, "held": 0, "running": 0,
            "paused_until": "infinity", "reason": "deploy",
        }])
    );
    assert!(orch.run(["project", "list"]).await.ok().stdout.contains("paused until further notice: deploy"));
    assert_eq!(orch.run(["resume", "--project", "north"]).await.ok().stdout, "project north goes on\n");
    assert_eq!(orch.run(["resume", "--project", "north"]).await.ok().stdout, "project north was not paused\n");
    // What nobody uses may be to come, or a typo.
    let typo = orch.run(["pause", "--project", "nroth", "--until", "1h"]).await.ok();
    assert!(typo.stderr.contains("did you mean \"north\"?"), "{typo:?}");
    let typo = orch.run(["pause", "--agent", "b"]).await.ok();
    assert!(typo.stderr.contains("no replica has registered agent \"b\""), "{typo:?}");
    let all = orch.run(["--json", "pause", "--all"]).await.ok().json();
    assert_eq!(all, json!({"what": "all", "paused_until": "infinity", "reason": null, "changed": true}));
    assert_eq!(orch.run(["resume", "--all"]).await.ok().stdout, "everything goes on\n");
    for (arguments, code, words) in [
        (&["pause"][..], 2, &["--project", "--agent", "--all"][..]),
        (&["pause", "--all", "--project", "x"], 2, &["cannot be used"]),
        (&["pause", "--project", "a b"], 1, &["no well-formed project"]),
        (&["resume", "--agent", ""], 1, &["nothing to resume"]),
    ] {
        refused(&orch.run(arguments).await, code, words);
    }
}

#[tokio::test]
async fn a_project_has_a_weight_and_may_be_serial() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let orch = Orch::on(&db);
    let set = orch.run(["project", "set", "north", "--weight", "3"]).await.ok();
    assert_eq!(set.stdout, "project north: weight 3, not serial\n");
    let set = orch.run(["--json", "project", "set", "north", "--serial"]).await.ok().json();
    assert_eq!(set, json!({"name": "north", "weight": 3, "serial": true, "changed": true}));
    orch.run(["enqueue", "a", "--project", "north"]).await.ok();
    assert_eq!(orch.run(["--json", "job", "1"]).await.ok().json()["gate"], "project:north");
    let set = orch.run(["project", "set", "north", "--serial=false"]).await.ok();
    assert_eq!(set.stdout, "project north: weight 3, not serial\n");
    for (arguments, code, words) in [
        (&["project", "set", "north"][..], 2, &["--weight"][..]),
        (&["project", "set", "north", "--weight", "0"], 1, &["not between 1 and 1000000"]),
        (&["project", "set", "north", "--weight", "-1"], 1, &["not between 1 and 1000000"]),
        (&["project", "set", "a b", "--weight", "1"], 1, &["no well-formed name"]),
        (&["project", "set", "north", "--serial=maybe"], 2, &["--serial"]),
    ] {
        refused(&orch.run(arguments).await, code, words);
    }
}

#[tokio::test]
async fn http_says_and_does_the_same() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let served = served(&db, None).await;
    let at = served.address;
    let get = async |target: &str| http_get(at, target).await.unwrap().json();
    assert_eq!(get("/api/v1/limits").await, json!({"limits": []}));
    let set = post(at, "/api/v1/limits", &json!({"name": "acct/a", "max_running": 2})).await;
    assert_eq!(set, (200, json!({"name": "acct/a", "max_running": 2, "changed": true})));
    let close = post(at, "/api/v1/limits/close", &json!({"name": "acct/a", "reason": "quota"})).await;
    assert_eq!(close, (200, json!({"name": "acct/a", "closed_until": "infinity", "reason": "quota", "changed": true})));
    let limits = get("/api/v1/limits").await;
    assert_eq!((&limits["limits"][0]["closed_until"], &limits["limits"][0]["room"]), (&json!("infinity"), &json!(0)));
    assert_eq!(post(at, "/api/v1/limits/open", &json!({"name": "acct/a"})).await.1["changed"], true);
    assert_eq!(post(at, "/api/v1/limits/drop", &json!({"name": "acct/a"})).await.0, 200);
    let pause = post(at, "/api/v1/pause", &json!({"what": "project:north", "until": "1h"})).await;
    assert_eq!((pause.0, &pause.1["changed"]), (200, &json!(true)));
    assert_eq!(get("/api/v1/projects").await["projects"][0]["name"], "north");
    assert_eq!(post(at, "/api/v1/resume", &json!({"what": "project:north"})).await.1["changed"], true);
    let rules = post(at, "/api/v1/projects", &json!({"name": "north", "weight": 3})).await;
    assert_eq!(rules, (200, json!({"name": "north", "weight": 3, "serial": false, "changed": true})));

    for (target, body, status, words) in [
        ("/api/v1/limits", json!({"name": "a"}), 422, "max_running"),
        ("/api/v1/limits", json!({"name": "a", "max_running": 0}), 422, "max_running 0 is not at least 1"),
        ("/api/v1/limits", json!({"name": "a b", "max_running": 1}), 422, "no well-formed name"),
        ("/api/v1/limits", json!({"name": "a", "max_running": 99_999_999_999_i64}), 422, "99999999999"),
        ("/api/v1/limits/close", json!({"name": "b"}), 422, "is unknown"),
        ("/api/v1/limits/close", json!({"name": "b", "until": "soon"}), 400, "until \"soon\""),
        ("/api/v1/limits/open", json!({"name": "b"}), 422, "is unknown"),
        ("/api/v1/limits/drop", json!({"nam": "b"}), 422, "nam"),
        ("/api/v1/pause", json!({"what": "north"}), 422, "nothing to pause"),
        ("/api/v1/resume", json!({"what": "limit:x"}), 422, "nothing to resume"),
        ("/api/v1/projects", json!({"name": "north", "weight": -1}), 422, "not between 1 and 1000000"),
    ] {
        let (found, answer) = post(at, target, &body).await;
        assert_eq!(found, status, "{target} {body}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(words), "{target} {body}: {answer}");
    }
    // A page of a stranger pauses nothing.
    let host = at.to_string();
    let headers = [("Host", host.as_str()), ("Content-Type", "application/json"), ("Origin", "http://evil.example")];
    let answer = http_request(at, "POST", "/api/v1/pause", &headers, r#"{"what": "all"}"#).await.unwrap();
    assert_eq!(answer.status, 403);
    assert_eq!(get("/api/v1/limits").await, json!({"limits": []}));
}
