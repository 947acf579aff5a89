//! Row 39: the server has no transaction ids left, since a forgotten replication slot kept it from giving old ones free, and
//! refuses every write. Runs end by their lease, the log says what is wrong and what to do, no result is taken for a bad one,
//! and once the slot is dropped everything goes on.

use crate::{
    bound::{BOUND_AFTER_OUTAGE, BUSY, LEASE},
    case::Case,
    support::{eventually, eventually_within},
    witness,
};

/// How many ids before the end of all the server stops to give any.
const KEPT_BACK: i64 = 3_000_000;
/// Ids that a file of `pg_xact` has room for.
const IDS_A_FILE: i64 = 1 << 20;
/// What is left to be used up.
const LEFT: i64 = 500;

pub(crate) async fn an_outage_and_no_more(case: &mut Case) {
    case.move_to_own_server_with("wal_level = logical\nautovacuum_naptime = 1s").await;
    case.sql.batch_execute("select pg_create_logical_replication_slot('forgotten', 'pgoutput')").await.unwrap();
    case.agent("long", "[ $ORCH_ATTEMPT -gt 1 ] || sleep 100000", "");
    let end = case.orch.path("end");
    let script = "until [ -e END ]; do sleep 0.1; done; echo '{\"data\": \"kept\"}' > \"$ORCH_RESULT_FILE\"";
    case.agent("short", &script.replace("END", &end.display().to_string()), "");
    grow_old(case).await;
    for name in ["a", "b"] {
        case.add_node(name).up().await;
    }
    let (mut long, mut short) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        long.push(case.enqueue("long").await);
        short.push(case.enqueue("short").await);
    }
    for job in long.iter().chain(&short) {
        case.until_alive(*job).await;
    }

    use_up(case).await;
    std::fs::write(&end, "").unwrap();
    eventually_within(LEASE + BUSY, "the runs to end by their lease", async || {
        long.iter().all(|job| !witness::is_alive(&case.witness(), *job)).then_some(())
    })
    .await;
    for name in ["a", "b"] {
        let said = case.node(name).log();
        assert!(
            said.contains("wraparound") && said.contains("stale replication slots"),
            "what is wrong, and what helps: {said}"
        );
    }
    let refused = case.orch.run(["enqueue", "short"]).await;
    assert!(!refused.status.success() && refused.stderr.contains("wraparound"), "{refused:?}");
    let running = case.sql.query("select from orch.jobs where status = 'running'", &[]).await.unwrap();
    assert_eq!(running.len(), long.len() + short.len(), "nothing can be written");

    case.sql.batch_execute("select pg_drop_replication_slot('forgotten')").await.unwrap();
    eventually("the server to have cleaned up", async || case.sql.query(WRITE, &[]).await.is_ok().then_some(())).await;
    for job in short {
        case.until(job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.outcomes(job).await, [Some("succeeded".to_owned())], "job {job}: its result waited");
        let result: serde_json::Value = case.job(job).await.get("result");
        assert_eq!(result["data"], "kept");
    }
    for job in long {
        case.until(job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.outcomes(job).await, [Some("interrupted".to_owned()), Some("succeeded".to_owned())]);
    }
    let dead = case.sql.query("select name from orch.replicas where state <> 'live'", &[]).await.unwrap();
    assert!(dead.is_empty(), "somebody was declared dead: {dead:?}");
}

/// Takes one transaction id.
const WRITE: &str = "select txid_current()";

/// Makes the server as old as two thousand million transactions make it.
async fn grow_old(case: &mut Case) {
    let oldest = "select catalog_xmin::text::bigint from pg_replication_slots";
    let oldest: i64 = case.sql.query_one(oldest, &[]).await.unwrap().get(0);
    let next = oldest + i64::from(i32::MAX) - KEPT_BACK - LEFT;
    let server = case.server();
    server.stop();
    let file = server.data().join(format!("pg_xact/{:04X}", next / IDS_A_FILE));
    std::fs::write(&file, vec![0; 256 * 1024]).unwrap();
    server.give_away(&file);
    server.must("pg_resetwal", &["-x", &next.to_string(), "-D", server.data().to_str().unwrap()]);
    server.come_back().await;
    case.reconnect().await;
    let looks = case.auditor.looks();
    eventually("the auditor to be back", async || (case.auditor.looks() > looks).then_some(())).await;
}

/// Takes ids until there is none, also after the server has given free what it could.
async fn use_up(case: &Case) {
    let oldest = "select min(datfrozenxid::text::bigint) >= (select catalog_xmin::text::bigint from pg_replication_slots) from pg_database";
    eventually("the server to have no ids left", async || {
        while case.sql.query(WRITE, &[]).await.is_ok() {}
        case.sql.query_one(oldest, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    while case.sql.query(WRITE, &[]).await.is_ok() {}
}
