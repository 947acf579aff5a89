//! `orch replicas` and `orch drain`, and what HTTP says of the same: a replica that drains claims nothing more, and what it
//! runs goes on.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    replica::{place, script, text, until},
    support::{Orch, TestDb, eventually, http_request},
};

const BOOT: &str =
    "insert into orch.replicas (replica_id, name, host, state, lease_until, max_concurrency, agents, version)
                    values ($1::text::uuid, $2, 'elsewhere', $3, now() + interval '1 min', 3, '{a,b}', '9.9.9')";

/// Boots that nobody runs.
async fn boots(test: &TestDb, boots: &[(&str, &str, &str)]) {
    let client = test.client().await;
    for (id, name, state) in boots {
        client.execute(BOOT, &[id, name, state]).await.unwrap();
    }
}

const ONE: &str = "00000000-0000-0000-0000-000000000001";
const TWO: &str = "00000000-0000-0000-0000-000000000002";
const THREE: &str = "00000000-0000-0000-0000-000000000003";

async fn names(orch: &Orch, arguments: &[&str]) -> Vec<String> {
    let replicas = orch.run(arguments).await.ok().json()["replicas"].take();
    replicas.as_array().unwrap().iter().map(|replica| replica["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn live_replicas_are_listed_and_others_on_request() {
    let test = TestDb::new().await;
    let orch = Orch::on(&test);
    assert!(orch.run(["replicas"]).await.ok().stderr.contains("no replica is live"));
    boots(&test, &[(ONE, "near", "live"), (TWO, "gone", "dead"), (THREE, "went", "left")]).await;
    assert_eq!(names(&orch, &["replicas", "--json"]).await, ["near"]);
    let mut all = names(&orch, &["replicas", "--json", "--all"]).await;
    assert_eq!(all.first().map(String::as_str), Some("near"), "live ones come first");
    all.sort_unstable();
    assert_eq!(all, ["gone", "near", "went"]);

    let mut near = orch.run(["replicas", "--json"]).await.ok().json()["replicas"][0].take();
    let left = near["lease_left_seconds"].take().as_f64().unwrap();
    assert!((30.0..=60.0).contains(&left), "{left}");
    assert!(near["started_at"].take().is_string());
    assert_eq!(
        near,
        json!({
            "replica_id": ONE, "name": "near", "host": "elsewhere", "state": "live", "draining": false, "version": "9.9.9",
            "agents": ["a", "b"], "labels": {}, "max_concurrency": 3, "open_runs": 0, "started_at": null,
            "lease_left_seconds": null,
        })
    );
    let table = orch.run(["replicas"]).await.ok().stdout;
    for word in ["near", ONE, "elsewhere", "live", "0/3", "9.9.9", "a,b"] {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
    // A dead one that still owns something is somebody's business.
    let owned = format!(
        "insert into orch.agent_runs (run_id, job_id, attempt, replica_id, host, boot_id, claimed_at, rules)
         values (gen_random_uuid(), 1, 1, '{TWO}', 'elsewhere', 'b', now(), '{{}}')"
    );
    test.client().await.batch_execute(&owned).await.unwrap();
    assert_eq!(names(&orch, &["replicas", "--json"]).await, ["near", "gone"]);
}

#[tokio::test]
async fn a_name_that_is_nobodys_or_several_replicas_is_refused() {
    let test = TestDb::new().await;
    let orch = Orch::on(&test);
    boots(&test, &[(ONE, "twin", "live"), (TWO, "twin", "live"), (THREE, "gone", "dead")]).await;
    for (name, words) in [
        ("nobody", &["nobody", "live are twin"][..]),
        ("gone", &["is not live", "dead", "orch replicas"]),
        ("twin", &["2 live replicas", ONE, TWO]),
    ] {
        let output = orch.run(["drain", name]).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        for word in words {
            assert!(output.stderr.contains(word), "{word:?} is missing: {output:?}");
        }
    }
    let count = "select count(*)::text from orch.replicas where draining";
    let client = test.client().await;
    assert_eq!(text(&client, count).await.as_deref(), Some("0"), "a refusal changes nothing");

    let answer = orch.run(["drain", "--json", ONE, ONE]).await.ok().json();
    assert_eq!(answer, json!({"draining": true, "changed": [ONE], "not_live": []}));
    let again = orch.run(["drain", "--json", "--all"]).await.ok().json();
    assert_eq!(again["changed"], json!([TWO]), "only what was new to one is an act");
    assert_eq!(
        orch.run(["drain", "--json", "--all", "--off"]).await.ok().json()["changed"].as_array().unwrap().len(),
        2
    );
    let events = "select string_agg(kind || ' ' || (detail ->> 'replica_id'), ', ' order by id) from orch.events";
    let told = text(&client, events).await.unwrap();
    assert_eq!(told.matches("draining ").count(), 2, "{told}");
    assert_eq!(told.matches("drain_ended ").count(), 2, "{told}");
    let actor = "select bool_and(actor = session_user)::text from orch.events";
    assert_eq!(text(&client, actor).await.as_deref(), Some("true"));
}

#[tokio::test]
async fn a_drained_replica_ends_what_it_runs_claims_nothing_and_is_not_ready() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test).with("ORCH_NAME", "worker");
    let mut replica = orch.up().await;
    let gate = orch.path("gate");
    let running = script(&client, &format!("until test -e {}; do sleep 0.05; done", gate.display())).await;
    until(&client, running, "running").await;

    let drained = orch.run(["drain", "worker"]).await.ok();
    assert!(drained.stdout.contains("claims nothing more"), "{drained:?}");
    let answer = replica.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("draining"), "{}", answer.body);
    assert!(orch.run(["replicas"]).await.ok().stdout.contains("draining"));

    // The job before it ends, and frees the slot; the one after it stays where it is.
    let waiting = script(&client, "exit 0").await;
    let mut idle = orch.command(["drain", "worker", "--wait"]).spawn().unwrap();
    std::fs::write(&gate, "").unwrap();
    until(&client, running, "succeeded").await;
    let waited = tokio::time::timeout(std::time::Duration::from_secs(20), idle.wait()).await;
    assert!(waited.expect("--wait ends with the last run").unwrap().success());
    let renewed = "select lease_until::text from orch.replicas";
    let before = text(&client, renewed).await;
    eventually("some polls to pass", async || (text(&client, renewed).await != before).then_some(())).await;
    assert_eq!(
        text(&client, "select attempt::text from orch.jobs order by id desc limit 1").await.as_deref(),
        Some("0")
    );

    orch.run(["drain", "worker", "--off"]).await.ok();
    until(&client, waiting, "succeeded").await;
    assert!(replica.is_ready().await);
}

#[tokio::test]
async fn a_replica_that_was_told_to_stop_is_not_ready_while_its_runs_finish() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test).with("ORCH_DRAIN_GRACE", "30s");
    let mut replica = orch.up().await;
    let gate = orch.path("gate");
    let running = script(&client, &format!("until test -e {}; do sleep 0.05; done", gate.display())).await;
    until(&client, running, "running").await;
    replica.signal(Signal::SIGTERM);
    eventually("it to say that it is draining", async || {
        let answer = replica.get("/readyz").await;
        (answer.status == 503 && answer.body.contains("told to stop")).then_some(())
    })
    .await;
    std::fs::write(&gate, "").unwrap();
    assert!(replica.ended().await.success());
    until(&client, running, "succeeded").await;
}

#[tokio::test]
async fn http_lists_replicas_and_drains_one_for_its_own_page_alone() {
    let test = TestDb::new().await;
    let orch = place(&test);
    let replica = orch.up().await;
    boots(&test, &[(TWO, "gone", "dead")]).await;
    let listed = replica.get("/api/v1/replicas").await.json();
    assert_eq!(listed["replicas"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(replica.get("/api/v1/replicas?all=true").await.json()["replicas"].as_array().unwrap().len(), 2);
    assert_eq!(replica.get("/api/v1/replicas?every=1").await.status, 400);
    let id = listed["replicas"][0]["replica_id"].as_str().unwrap().to_owned();

    let address = orch.listen().to_string();
    let own = format!("http://{address}");
    let post = async |target: &str, origin: Option<&str>| {
        let mut headers = vec![("Host", address.as_str())];
        headers.extend(origin.map(|origin| ("Origin", origin)));
        http_request(orch.listen(), "POST", target, &headers, "").await.unwrap()
    };
    let drain = format!("/api/v1/replicas/{id}/drain");
    for stranger in ["http://evil.example", "null", "http://localhost:1", "https://evil.example"] {
        assert_eq!(post(&drain, Some(stranger)).await.status, 403, "{stranger}");
    }
    assert_eq!(replica.get("/readyz").await.status, 200);
    let drained = post(&drain, Some(&own)).await;
    assert_eq!(drained.json(), json!({"replica_id": id, "draining": true, "changed": true}));
    assert_eq!(replica.get("/readyz").await.status, 503);
    assert_eq!(post(&drain, None).await.json()["changed"], false);
    assert_eq!(post(&format!("{drain}?off=true"), None).await.json()["draining"], false);
    assert_eq!(replica.get("/readyz").await.status, 200);
    for (target, status) in [
        (format!("/api/v1/replicas/{TWO}/drain"), 404),
        ("/api/v1/replicas/worker/drain".to_owned(), 400),
        ("/api/v1/replicas".to_owned(), 405),
    ] {
        let answer = post(&target, None).await;
        assert_eq!(answer.status, status, "{target}: {}", answer.body);
        assert!(answer.json()["error"].is_string());
    }
    let get = replica.get(&drain).await;
    assert!(get.status == 405 && get.body.contains("POST"), "{}", get.body);
}
