//! Row 40: a herd. Fifty replicas wait for one job; ten thousand jobs are due at the same moment; the database comes back
//! after an outage. What they ask of it in a second stays bounded, and nobody meets a deadlock.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::{
    case::{BOUND, Case},
    support::{eventually_within, say},
    witness,
};

const REPLICAS: usize = 50;
const JOBS: i64 = 10_000;
const WATCHED: Duration = Duration::from_secs(8);
const AWAY: Duration = Duration::from_secs(4);

/// What an idle replica asks in a second at the default settings: a claim, a fifth of a renewal, a fifth of a tick; and
/// half of it again, for the jitter of polls.
const IDLE: f64 = 2.1;
/// Statements for one run, from its claim to its end, where each replica has two slots.
const A_RUN: f64 = 6.0;
/// Statements of a replica in the first seconds of a database that is back, beyond what it asks at rest: each of its five
/// connections asks who is there and where, the one that listens begins its wait, and each loop looks once. Who asked again at
/// once until it was answered would ask hundreds.
const A_RETURN: f64 = 20.0;

/// Statements that the server has executed, but for the row's own and the auditor's.
struct Meter {
    at: Instant,
    statements: i64,
    looks: u64,
}

impl Meter {
    async fn read(case: &Case) -> Self {
        let calls = "select coalesce(sum(calls), 0)::bigint from pg_stat_statements where query not like '%pg_stat_statements%'";
        let statements = case.sql.query_one(calls, &[]).await.unwrap().get(0);
        Self { at: Instant::now(), statements, looks: case.auditor.looks() }
    }

    /// Statements since then, and in a second.
    async fn since(&self, case: &Case) -> (f64, f64) {
        let now = Self::read(case).await;
        let statements = (now.statements - self.statements) as f64 - (now.looks - self.looks) as f64;
        (statements, statements / (now.at - self.at).as_secs_f64())
    }
}

/// What was asked most, for whoever has to find out why it was so much.
async fn top(case: &Case) -> String {
    let top = "select calls, left(regexp_replace(query, '\\s+', ' ', 'g'), 100) from pg_stat_statements order by calls desc limit 8";
    let rows = case.sql.query(top, &[]).await.unwrap();
    let lines = rows.iter().map(|row| format!("{:6} {}", row.get::<_, i64>(0), row.get::<_, &str>(1)));
    lines.collect::<Vec<_>>().join("\n")
}

async fn one(case: &Case, sql: &str) -> i64 {
    case.sql.query_one(sql, &[]).await.unwrap().get(0)
}

pub(crate) async fn of_fifty_replicas_asks_for_a_bounded_amount(case: &mut Case) {
    let settings =
        "max_connections = 400\nshared_preload_libraries = 'pg_stat_statements'\npg_stat_statements.track = top";
    case.move_to_own_server_with(settings).await;
    case.sql.batch_execute("create extension pg_stat_statements").await.unwrap();
    for (setting, value) in [
        ("ORCH_LEASE", "60s"),
        ("ORCH_HEARTBEAT", "5s"),
        ("ORCH_KILL_GRACE", "10s"),
        ("ORCH_REAP_GRACE", "5s"),
        ("ORCH_REAP_INTERVAL", "5s"),
        ("ORCH_POLL_INTERVAL", "1s"),
        ("ORCH_MAX_CONCURRENCY", "2"),
        ("ORCH_POOL_SIZE", "3"),
    ] {
        case.orch.set(setting, value);
    }
    case.agent("quick", "exit 0", "");
    // These are too many for the witness.
    case.plain_agent("true", &["true"], "");
    let names: Vec<String> = (0..REPLICAS).map(|number| format!("n{number}")).collect();
    for name in &names {
        case.add_node(name).start();
    }
    let live = "select count(*) from orch.replicas where state = 'live'";
    eventually_within(Duration::from_mins(3), "fifty replicas to be live", async || {
        (one(case, live).await == REPLICAS as i64).then_some(())
    })
    .await;

    let meter = Meter::read(case).await;
    tokio::time::sleep(WATCHED).await;
    let (_, idle) = meter.since(case).await;
    say(&format!("row 40: {REPLICAS} idle replicas: {idle:.0} statements a second"));
    assert!(idle < IDLE * REPLICAS as f64, "{idle:.0} statements a second, and nothing to do:\n{}", top(case).await);

    let meter = Meter::read(case).await;
    let began = Instant::now();
    let job = case.enqueue("quick").await;
    case.until(job, "succeeded", BOUND).await;
    let (statements, _) = meter.since(case).await;
    say(&format!(
        "row 40: one job for all of them: {statements:.0} statements in {:.2} s",
        began.elapsed().as_secs_f64()
    ));
    let expected = (idle * 1.5).mul_add(began.elapsed().as_secs_f64().max(1.0), 10.0);
    assert!(statements < expected, "{statements:.0} statements for one job, beside {idle:.0} a second without");
    assert_eq!(witness::intervals(&case.witness(), job).len(), 1);

    ten_thousand_at_once(case, idle).await;
    back_after_an_outage(case, idle).await;
    assert_eq!(one(case, live).await, REPLICAS as i64);
    assert_eq!(one(case, "select count(*) from orch.replicas").await, REPLICAS as i64, "nobody had to register anew");
    let deadlocks = case.server().log().matches("deadlock detected").count();
    assert_eq!(deadlocks, 0, "the server's log says so");

    // All at once: one after the other they would take a minute.
    for name in &names {
        case.node(name).replica().signal(Signal::SIGTERM);
    }
    for name in &names {
        let status = case.node(name).ended().await;
        assert!(status.success(), "{name} ended with {status}");
    }
}

async fn ten_thousand_at_once(case: &Case, idle: f64) {
    let many = "select count(orch.enqueue('true', run_at => now() + interval '3 s')) from generate_series(1, $1)";
    assert_eq!(case.sql.query_one(many, &[&(JOBS as i32)]).await.unwrap().get::<_, i64>(0), JOBS);
    let due = "select count(*) from orch.jobs where agent = 'true' and run_at <= now()";
    eventually_within(BOUND, "all to be due", async || (one(case, due).await == JOBS).then_some(())).await;
    let done = "select count(*) from orch.jobs where agent = 'true' and status = 'succeeded'";
    let before = one(case, done).await;
    let meter = Meter::read(case).await;
    tokio::time::sleep(WATCHED).await;
    let runs = (one(case, done).await - before) as f64;
    let (statements, rate) = meter.since(case).await;
    say(&format!(
        "row 40: {JOBS} jobs due at once: {rate:.0} statements a second, {:.0} runs a second, {:.1} statements a run",
        runs / WATCHED.as_secs_f64(),
        statements / runs
    ));
    let bound = A_RUN.mul_add(runs, idle * WATCHED.as_secs_f64());
    assert!(runs > 0.0 && statements < bound, "{statements:.0} statements for {runs:.0} runs");
    // The others would take their time, and show nothing more.
    // A job that a replica has in its hands just now may have ended before the cancel gets to it, and is let go.
    let waiting = "select count(orch.cancel(id)) from (select id from orch.jobs where status = 'queued' for update skip locked) as waiting";
    case.sql.query_one(waiting, &[]).await.unwrap();
    let left = "select count(*) from orch.jobs where finished_at is null";
    eventually_within(BOUND, "the queue to be empty", async || (one(case, left).await == 0).then_some(())).await;
}

async fn back_after_an_outage(case: &mut Case, idle: f64) {
    // Whether the server's counts outlive a crash depends on its version.
    case.sql.query_one("select pg_stat_statements_reset()", &[]).await.unwrap();
    case.server().crash();
    tokio::time::sleep(AWAY).await;
    case.server().come_back().await;
    case.reconnect().await;
    let meter = Meter { at: Instant::now(), statements: 0, looks: case.auditor.looks() };
    tokio::time::sleep(WATCHED).await;
    let (statements, rate) = meter.since(case).await;
    say(&format!("row 40: back after an outage: {rate:.0} statements a second in the first {WATCHED:?}"));
    let bound = A_RETURN.mul_add(REPLICAS as f64, idle * WATCHED.as_secs_f64());
    assert!(statements < bound, "{statements:.0} statements in the first {WATCHED:?}:\n{}", top(case).await);
    let job = case.enqueue("quick").await;
    case.until(job, "succeeded", BOUND).await;
}
