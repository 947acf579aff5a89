//! Row 33: the disk below Postgres is full. First tables cannot grow: what needs room waits, and everything else goes on.
//! Then the log of transactions cannot either, and the server is gone: an outage. Once there is room nothing was lost, no
//! result was taken for a bad one, and no job is to blame.

use std::time::{Duration, Instant};

use tokio_postgres::NoTls;

use crate::{
    bound::{BOUND_AFTER_OUTAGE, LEASE},
    case::{BOUND, Case},
    support::{eventually, eventually_within},
    witness,
};

/// A result that no page at hand has room for.
const RESULT: usize = 400_000;

pub(crate) async fn an_outage_and_no_more(case: &mut Case) {
    case.move_to_own_server().await;
    case.move_server_to_small_disk("160m").await;
    let (go, end) = (case.orch.path("go"), case.orch.path("end"));
    case.agent("long", &format!("[ $ORCH_ATTEMPT -gt 1 ] || until [ -e {} ]; do sleep 0.2; done", go.display()), "");
    let script = format!(
        "until [ -e {} ]; do sleep 0.1; done; data=$(head -c {} /dev/urandom | od -An -v -tx1 | tr -d ' \\n')
         printf '{{\"data\": \"%s\"}}' \"$data\" > \"$ORCH_RESULT_FILE\"",
        end.display(),
        RESULT / 2
    );
    case.agent("large", &script, "");
    for name in ["a", "b"] {
        case.add_node(name).up().await;
    }
    let (mut long, mut large) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        long.push(case.enqueue("long").await);
        large.push(case.enqueue("large").await);
    }
    for job in long.iter().chain(&large) {
        case.until_alive(*job).await;
    }

    case.disk().fill();
    std::fs::write(&end, "").unwrap();
    eventually_within(BOUND, "the replicas to say what is wrong", async || {
        let said = |name: &str, case: &mut Case| case.node(name).log().contains("No space left on device");
        (said("a", case) || said("b", case)).then_some(())
    })
    .await;
    let since = Instant::now();
    while since.elapsed() < LEASE * 2 {
        let alive = long.iter().filter(|job| witness::is_alive(&case.witness(), **job)).count();
        assert_eq!(alive, long.len(), "renewals need no room");
        let blamed = "select id from orch.jobs where failures > 0 or status <> 'running'";
        let blamed = case.sql.query(blamed, &[]).await.unwrap();
        assert!(blamed.is_empty(), "settled without room for it: {blamed:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    // No further segment can be made, so the server ends at the next one, and at each start.
    let since = Instant::now();
    let mut was_away = false;
    while since.elapsed() < LEASE * 2 {
        if let Ok((client, connection)) = case.config().connect(NoTls).await {
            tokio::spawn(connection);
            was_away |= client.batch_execute("create temporary table t (); select pg_switch_wal()").await.is_err();
        } else {
            was_away = true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(was_away, "the row's own doing:\n{}", case.server().log());

    case.disk().make_room();
    if !case.server().is_running() {
        case.server().come_back().await;
    }
    eventually("the server to be back", async || case.config().connect(NoTls).await.is_ok().then_some(())).await;
    case.reconnect().await;
    let looks = case.auditor.looks();
    eventually("the auditor to be back", async || (case.auditor.looks() > looks).then_some(())).await;
    for job in large {
        case.until(job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.outcomes(job).await, [Some("succeeded".to_owned())], "job {job}: its result waited");
        let result: serde_json::Value = case.job(job).await.get("result");
        assert_eq!(result["data"].as_str().map(str::len), Some(RESULT), "job {job}: its result is whole");
    }
    std::fs::write(&go, "").unwrap();
    for job in long {
        case.until(job, "succeeded", BOUND_AFTER_OUTAGE).await;
        let mut outcomes = case.outcomes(job).await;
        assert_eq!(outcomes.pop(), Some(Some("succeeded".to_owned())));
        assert!(outcomes.iter().all(|outcome| outcome.as_deref() == Some("interrupted")), "job {job}: {outcomes:?}");
    }
    let dead = case.sql.query("select name from orch.replicas where state <> 'live'", &[]).await.unwrap();
    assert!(dead.is_empty(), "somebody was declared dead: {dead:?}");
}
