//! Row 45: a dump with running rows is restored elsewhere, and a replica is pointed at it. The jobs run for the original; the
//! replica must do nothing at all and say why, until somebody accepts the copy.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use nix::sys::signal::Signal;
use tokio_postgres::Client;

use crate::{
    bound::{BOUND_AFTER_OUTAGE, RECOVERY_AFTER_OUTAGE},
    case::Case,
    processes,
    support::{TestDb, eventually, eventually_within, http_get},
};

/// What a replica would change: jobs, runs, replicas, and the marks of the reaper.
const STATE: &str = "
    select jsonb_build_array(
        (select jsonb_agg(to_jsonb(j) order by j.id) from orch.jobs j),
        (select jsonb_agg(to_jsonb(r) order by r.run_id) from orch.agent_runs r),
        (select jsonb_agg(to_jsonb(p) order by p.replica_id) from orch.replicas p),
        (select jsonb_agg(to_jsonb(a) order by a.name) from orch.agents a),
        (select jsonb_agg(to_jsonb(c) order by c.name) from orch.counters c),
        (select to_jsonb(m) from orch.meta m), (select count(*) from orch.events))::text";

pub(crate) async fn starts_paused_and_touches_nothing(case: &mut Case) {
    let go = case.orch.path("go");
    case.agent("waits", &format!("until [ -e {} ]; do sleep 0.05; done; exit 0", go.display()), "");
    case.up().await;
    let running = case.enqueue("waits").await;
    let pid = case.until_alive(running).await;
    let later = "select orch.enqueue('waits', run_at => now() + interval '1 day')";
    let waiting: i64 = case.sql.query_one(later, &[]).await.unwrap().get(0);

    let copy = TestDb::empty().await;
    move_by_dump(&case.db, &copy);
    let sql = copy.client().await;
    sql.execute("update orch.jobs set run_at = now() where id = $1", &[&waiting]).await.unwrap();
    let before = state(&sql).await;

    // With an agent of its own, since the witness counts the original's runs.
    let mut place = case.orch.beside().with("DATABASE_URL", copy.url());
    place.set("ORCH_CONFIG", place.path("orch.toml").to_string_lossy());
    place.config("[agents.waits]\ncommand = [\"true\"]\n");
    let mut replica = place.start();
    let why = eventually("the replica to be paused", async || {
        let answer = http_get(place.listen(), "/readyz").await.ok()?;
        answer.body.contains("paused").then_some(answer)
    })
    .await;
    assert_eq!(why.status, 503);
    for word in ["restored dump", copy.name(), "orch doctor --accept-identity"] {
        assert!(why.body.contains(word), "{word} is missing: {}", why.body);
    }
    // Longer than after the worst outage: by then it would have reaped and claimed everything.
    let begin = Instant::now();
    eventually_within(RECOVERY_AFTER_OUTAGE * 2, "the time of an outage's recovery to pass", async || {
        assert!(!replica.is_ready().await, "it is ready:\n{}", replica.log());
        assert_eq!(state(&sql).await, before, "a paused replica changed something");
        (begin.elapsed() > RECOVERY_AFTER_OUTAGE).then_some(())
    })
    .await;
    assert_eq!(replica.log().matches("paused").count(), 1, "said once:\n{}", replica.log());
    assert!(processes::stat(pid).is_some(), "the original's run lives on");
    std::fs::write(&go, "").unwrap();
    case.until(running, "succeeded", BOUND_AFTER_OUTAGE).await;
    case.orch.run(["cancel", &waiting.to_string()]).await.ok();

    // Its word given, the copy goes its own way: what ran for the original is lost there, and both jobs run.
    place.run(["doctor", "--accept-identity"]).await.ok();
    eventually("the replica to go on", async || replica.is_ready().await.then_some(())).await;
    eventually_within(BOUND_AFTER_OUTAGE, "both jobs to run in the copy", async || {
        let done = "select count(*) from orch.jobs where status = 'succeeded'";
        (sql.query_one(done, &[]).await.unwrap().get::<_, i64>(0) == 2).then_some(())
    })
    .await;
    let lost = "select outcome, closed_by from orch.agent_runs where job_id = $1 order by attempt limit 1";
    let lost = sql.query_one(lost, &[&running]).await.unwrap();
    assert_eq!((lost.get(0), lost.get(1)), (Some("lost"), Some("reap")));
    replica.signal(Signal::SIGTERM);
    assert!(replica.ended().await.success(), "{}", replica.log());
}

async fn state(sql: &Client) -> String {
    sql.query_one(STATE, &[]).await.unwrap().get(0)
}

/// What `pg_dump` writes of one, `pg_restore` reads into the other.
fn move_by_dump(from: &TestDb, to: &TestDb) {
    let mut dump = Command::new(tool("pg_dump"))
        .args(["--format=custom", "--dbname", &from.url()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("pg_dump");
    let restored = Command::new(tool("pg_restore"))
        .args(["--exit-on-error", "--dbname", &to.url()])
        .stdin(dump.stdout.take().expect("it is piped"))
        .status()
        .expect("pg_restore");
    assert!(dump.wait().expect("its end").success(), "pg_dump fails: is it older than the test server?");
    assert!(restored.success(), "pg_restore fails");
}

/// The newest of those that are installed: one that is older than the server refuses it.
fn tool(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.filter_map(|version| version.file_name().to_str()?.parse::<u32>().ok()).max();
    let installed = newest.map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin/{name}")));
    installed.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(name))
}
