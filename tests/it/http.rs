//! HTTP: the shape and the figures of every answer, and who is refused.

use std::{net::SocketAddr, time::Duration};

use orch::{
    db::{
        jobs::{Change, NewJob},
        queue::Switches,
    },
    http::{Info, serve},
    model::{JobId, Outcome, ReplicaId},
};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    played::{LEASE, Played},
    support::{TestDb, eventually, http_get, http_request},
};

/// A server in this process; stopped with it.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    _stop: DropGuard,
}

pub(crate) async fn served(db: &TestDb, replica: Option<ReplicaId>) -> Served {
    served_on(db.db(), replica).await
}

async fn served_on(db: orch::db::Db, replica: Option<ReplicaId>) -> Served {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let info = Info {
        switches: Switches { reaper_enabled: true, sanitize_enabled: false, serial_gate_enabled: true },
        lease: Duration::from_secs_f64(LEASE),
        replica: watch::channel(replica).1,
        paused: watch::channel(None).1,
        unending: watch::channel(std::collections::BTreeSet::new()).1,
        stopping: CancellationToken::new(),
        payload_max: 1 << 20,
        tokens: None,
    };
    tokio::spawn(serve(listener, db, info, stop.clone()));
    Served { address, _stop: stop.drop_guard() }
}

fn job(project: &str) -> NewJob {
    NewJob { agent: "a".to_owned(), project: project.to_owned(), ..NewJob::default() }
}

fn keys(value: &serde_json::Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn an_empty_queue_has_the_whole_shape() {
    let db = TestDb::new().await;
    let served = served(&db, None).await;
    let answer = http_get(served.address, "/queue").await.unwrap();
    assert_eq!(answer.status, 200);
    let mut queue = answer.json();
    assert!(queue["counted_at"].take().is_string());
    assert_eq!(
        queue,
        json!({
            "counts": {"queued": 0, "held": 0, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0},
            "projects": {},
            "max_concurrency": 0,
            "running": [],
            "oldest_queued_seconds": null,
            "waiting": {},
            "replicas": [],
            "reaper": {
                "enabled": true,
                "last_tick_at": null,
                "reaped_total": 0,
                "impossible_queued_total": 0,
                "sanitize_enabled": false,
            },
            "counted_at": null,
        })
    );
}

#[tokio::test]
async fn the_queue_counts_what_there_is() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    for outcome in [Outcome::Succeeded, Outcome::Succeeded, Outcome::Failed] {
        played.db.enqueue_job(&job("north")).await.unwrap();
        let claimed = played.claim().await.unwrap();
        played.settle(claimed, outcome).await;
    }
    played.db.enqueue_job(&job("north")).await.unwrap();
    let running = played.claim().await.unwrap();
    played.stamp(&running, 4711).await;
    let held = played.db.enqueue_job(&job("south")).await.unwrap();
    played.db.change_jobs(Change::Hold, &[held]).await.unwrap();
    for _ in 0..3 {
        played.db.enqueue_job(&job("south")).await.unwrap();
    }
    let client = db.client().await;
    client
        .batch_execute(
            "update orch.jobs set run_at = now() - interval '90 seconds' where id = (select max(id) from orch.jobs)",
        )
        .await
        .unwrap();

    let served = served(&db, Some(played.replica_id)).await;
    let queue = http_get(served.address, "/queue").await.unwrap().json();
    assert_eq!(
        queue["counts"],
        json!({"queued": 3, "held": 1, "running": 1, "succeeded": 2, "failed": 1, "cancelled": 0})
    );
    assert_eq!(
        queue["projects"],
        json!({"north": {"running": 1, "succeeded": 2, "failed": 1}, "south": {"queued": 3, "held": 1}})
    );
    assert_eq!(queue["max_concurrency"], 4);
    let run = &queue["running"][0];
    assert_eq!(
        keys(run),
        [
            "age_seconds",
            "agent",
            "host",
            "job_id",
            "lease_left_seconds",
            "output_age_seconds",
            "pid",
            "project",
            "replica",
            "run_id"
        ]
    );
    assert_eq!(run["job_id"], running.owned.job_id().0);
    assert_eq!(run["run_id"], running.owned.run_id().to_string());
    assert_eq!(
        (&run["pid"], &run["agent"], &run["project"], &run["replica"], &run["host"]),
        (&json!(4711), &json!("a"), &json!("north"), &json!("played"), &json!("stage"))
    );
    assert!((0.0..=30.0).contains(&run["age_seconds"].as_f64().unwrap()), "{run}");
    assert!((LEASE - 30.0..=LEASE).contains(&run["lease_left_seconds"].as_f64().unwrap()), "{run}");
    assert!((90.0..120.0).contains(&queue["oldest_queued_seconds"].as_f64().unwrap()), "{queue}");
    let replica = &queue["replicas"][0];
    assert_eq!(
        (&replica["replica_id"], &replica["running"], &replica["agents"]),
        (&json!(played.replica_id), &json!(1), &json!(["a"]))
    );
}

#[tokio::test]
async fn a_job_that_is_not_due_is_not_the_oldest() {
    let db = TestDb::new().await;
    let mut later = job("p");
    later.run_at = Some(orch::db::jobs::When::In(Duration::from_hours(1)));
    db.db().enqueue_job(&later).await.unwrap();
    let served = served(&db, None).await;
    let queue = http_get(served.address, "/queue").await.unwrap().json();
    assert_eq!((&queue["counts"]["queued"], &queue["oldest_queued_seconds"]), (&json!(1), &json!(null)));
}

#[tokio::test]
async fn finished_jobs_older_than_a_day_are_not_counted() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    for _ in 0..2 {
        played.db.enqueue_job(&job("p")).await.unwrap();
        let claimed = played.claim().await.unwrap();
        played.settle(claimed, Outcome::Succeeded).await;
    }
    let client = db.client().await;
    let aged = "update orch.agent_runs set claimed_at = claimed_at - interval '25 hours', ended_at = ended_at - interval '25 hours' where job_id = 1";
    assert_eq!(client.execute(aged, &[]).await.unwrap(), 1);
    let served = served(&db, None).await;
    assert_eq!(http_get(served.address, "/queue").await.unwrap().json()["counts"]["succeeded"], 1);
}

#[tokio::test]
async fn a_count_is_good_for_a_second_and_no_longer() {
    let db = TestDb::new().await;
    let served = served(&db, None).await;
    let first = http_get(served.address, "/queue").await.unwrap().json();
    db.db().enqueue_job(&job("p")).await.unwrap();
    let later = eventually("the new job to be counted", async || {
        let queue = http_get(served.address, "/queue").await.unwrap().json();
        if queue["counted_at"] == first["counted_at"] {
            assert_eq!(queue["counts"]["queued"], first["counts"]["queued"]);
        }
        (queue["counts"]["queued"] == 1).then_some(queue)
    })
    .await;
    let at = |queue: &serde_json::Value| queue["counted_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(at(&later).duration_since(at(&first)).as_secs_f64() > 0.7, "counted again too soon");
}

#[tokio::test]
async fn metrics_speak_openmetrics() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    played.db.enqueue_job(&job("p")).await.unwrap();
    played.db.enqueue_job(&job("p")).await.unwrap();
    let _running = played.claim().await.unwrap();
    played.db.count_reaped(7).await.unwrap();
    let served = served(&db, Some(played.replica_id)).await;
    let answer = http_get(served.address, "/metrics").await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.head.to_ascii_lowercase().contains("content-type: application/openmetrics-text; version=1.0.0"));
    for line in [
        "orch_queued_jobs 1",
        "orch_held_jobs 0",
        "orch_running_jobs 1",
        "orch_unending_runs 0",
        "orch_old_snapshot_seconds 0.0",
        "orch_reaped_total 7",
        "orch_guard_repairs_total 0",
        "orch_impossible_queued_total 0",
        "# EOF",
    ] {
        assert!(answer.body.lines().any(|found| found == line), "{line} is missing in\n{}", answer.body);
    }
    let value = |name: &str| -> f64 {
        let line = answer.body.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{}", answer.body));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!((0.0..30.0).contains(&value("orch_oldest_queued_seconds")));
    assert!((0.0..30.0).contains(&value("orch_renewal_age_seconds{")));
}

#[tokio::test]
async fn a_replica_is_ready_while_it_holds_its_lease() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let served = served(&db, Some(played.replica_id)).await;
    assert_eq!(http_get(served.address, "/readyz").await.unwrap().status, 200);
    let client = db.client().await;
    client.batch_execute("update orch.replicas set lease_until = now() - interval '1 second'").await.unwrap();
    let answer = http_get(served.address, "/readyz").await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.json()["error"].as_str().unwrap().contains("lease"), "{answer:?}");
    assert_eq!(http_get(served.address, "/healthz").await.unwrap().status, 200);
}

#[tokio::test]
async fn nothing_is_ready_before_the_replica_has_registered_or_without_a_schema() {
    let db = TestDb::new().await;
    let unregistered = served(&db, None).await;
    assert_eq!(http_get(unregistered.address, "/readyz").await.unwrap().status, 503);
    let empty = TestDb::empty().await;
    let bare = served(&empty, Some(ReplicaId::new())).await;
    let answer = http_get(bare.address, "/readyz").await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.json()["error"].as_str().unwrap().contains("orch migrate"), "{answer:?}");
}

#[tokio::test]
async fn without_a_database_the_process_is_alive_and_says_what_is_missing() {
    let mut config = TestDb::empty().await.config();
    config.dbname("there_is_no_such_database");
    let served = served_on(orch::db::Db::new(config, 2, true).unwrap(), None).await;
    assert_eq!(http_get(served.address, "/healthz").await.unwrap().status, 200);
    for path in ["/readyz", "/queue", "/metrics"] {
        let answer = http_get(served.address, path).await.unwrap();
        assert!(answer.status >= 500, "{path}: {answer:?}");
        assert!(answer.json()["error"].is_string(), "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_as_json() {
    let db = TestDb::new().await;
    let served = served(&db, None).await;
    let address = served.address.to_string();
    let host = [("Host", address.as_str())];
    for (method, target, status) in [
        ("GET", "/", 404),
        ("GET", "/queue/", 404),
        ("GET", "/%2e%2e/etc/passwd", 404),
        ("POST", "/nowhere", 404),
        ("POST", "/queue", 405),
        ("DELETE", "/healthz", 405),
    ] {
        let answer = http_request(served.address, method, target, &host, "").await.unwrap();
        assert_eq!(answer.status, status, "{method} {target}");
        assert!(answer.json()["error"].is_string(), "{method} {target}: {answer:?}");
    }
}

#[tokio::test]
async fn a_request_for_a_strange_host_is_refused() {
    let db = TestDb::new().await;
    let served = served(&db, None).await;
    let port = served.address.port();
    for host in
        ["localhost".to_owned(), format!("localhost:{port}"), format!("[::1]:{port}"), format!("127.0.0.1:{port}")]
    {
        let answer = http_request(served.address, "GET", "/healthz", &[("Host", &host)], "").await.unwrap();
        assert_eq!(answer.status, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", ""] {
        let answer = http_request(served.address, "GET", "/queue", &[("Host", host)], "").await.unwrap();
        assert_eq!(answer.status, 403, "{host}");
        assert!(answer.json()["error"].is_string());
    }
    let target = "http://evil.example/queue";
    let answer = http_request(served.address, "GET", target, &[("Host", "localhost")], "").await.unwrap();
    assert_eq!(answer.status, 403);
    let twice = [("Host", "localhost"), ("Host", "evil.example")];
    let answer = http_request(served.address, "GET", "/queue", &twice, "").await.unwrap();
    assert!((400..500).contains(&answer.status), "{answer:?}");
}

#[tokio::test]
async fn a_cancelled_job_that_never_ran_leaves_the_live_counts() {
    let db = TestDb::new().await;
    let id: JobId = db.db().enqueue_job(&job("p")).await.unwrap();
    db.db().change_jobs(Change::Cancel, &[id]).await.unwrap();
    let served = served(&db, None).await;
    assert_eq!(http_get(served.address, "/queue").await.unwrap().json()["counts"]["queued"], 0);
}
