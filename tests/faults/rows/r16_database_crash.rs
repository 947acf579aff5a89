//! Row 16: Postgres crashes. Back within L - K - H it costs no run; later, the runs have ended by their lease, what ended by
//! itself is delivered all the same, and nobody is declared dead before it had time to renew.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::r42_deploy::{Gate, each_ran_once};
use crate::{
    bound::{BOUND_AFTER_OUTAGE, HEARTBEAT, IN_TIME, LEASE},
    case::{BOUND, Case},
    proxy::Proxy,
    support::{eventually, eventually_within, say},
    witness,
};

const MANY: usize = 300;

pub(crate) async fn back_after_a_second_after_half_a_lease_and_after_three(case: &mut Case) {
    case.move_to_own_server().await;
    let go = case.orch.path("go");
    case.agent(
        "long",
        &format!("[ \"$ORCH_ATTEMPT\" = 1 ] || exit 0; until [ -e {} ]; do sleep 0.2; done", go.display()),
        "",
    );
    // Ends while the database is away.
    let end = case.orch.path("end");
    let short = "until [ -e END ]; do sleep 0.1; done; echo '{\"data\": \"kept\"}' > \"$ORCH_RESULT_FILE\"";
    case.agent("short", &short.replace("END", &end.display().to_string()), "");
    case.add_node("a").up().await;
    // Its renewals can be kept away for longer than the other's ticks.
    let proxy = Proxy::before(case.config()).await;
    let renewals = proxy.url(&case.server().url());
    let node = case.add_node("b");
    node.orch.set("ORCH_RENEWAL_URL", renewals);
    node.up().await;

    let first = alive(case, "long").await;
    for (away, what) in [(Duration::from_secs(1), "a second"), (LEASE / 2, "half a lease")] {
        let short = alive(case, "short").await;
        let took = crash(case, away, &end).await;
        say(&format!("row 16: the database was away for {what}: {:.2} s", took.as_secs_f64()));
        assert!(took < IN_TIME, "the machine is too slow for this row: {took:?}");
        for job in short {
            case.until(job, "succeeded", BOUND).await;
            assert_eq!(case.outcomes(job).await, [Some("succeeded".to_owned())], "job {job} ran once");
        }
        for job in &first {
            assert!(witness::is_alive(&case.witness(), *job), "job {job} did not live through {what}");
        }
    }

    let short = alive(case, "short").await;
    proxy.refuse();
    crash(case, LEASE * 3, &end).await;
    tokio::time::sleep(HEARTBEAT * 2).await;
    proxy.heal();
    for job in &first {
        assert!(!witness::is_alive(&case.witness(), *job), "job {job} outlived its lease");
    }
    for job in short {
        case.until(job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.outcomes(job).await, [Some("succeeded".to_owned())], "job {job}: its result waited");
        let result: Option<serde_json::Value> = case.job(job).await.get("result");
        assert_eq!(result.and_then(|result| result.get("data").cloned()), Some(serde_json::json!("kept")));
    }
    for job in &first {
        case.until(*job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.outcomes(*job).await, [Some("interrupted".to_owned()), Some("succeeded".to_owned())]);
    }
    let states = case.sql.query("select name, state from orch.replicas order by name", &[]).await.unwrap();
    let states: Vec<(String, String)> = states.iter().map(|row| (row.get(0), row.get(1))).collect();
    let live = |name: &str| (name.to_owned(), "live".to_owned());
    assert_eq!(states, [live("a"), live("b")], "nobody was declared dead, nor had to register anew");
}

pub(crate) async fn under_three_hundred_live_runs_not_one_is_touched(case: &mut Case) {
    case.move_to_own_server().await;
    case.orch.set("ORCH_MAX_CONCURRENCY", MANY.to_string());
    let gate = Gate::new(case);
    case.agent("long", &format!("exec < {}", gate.path().display()), "");
    case.add_node("a").up().await;
    let mut jobs = Vec::new();
    for _ in 0..MANY {
        jobs.push(case.enqueue("long").await);
    }
    let witness = case.witness();
    eventually_within(Duration::from_mins(2), "all to be alive", async || {
        jobs.iter().all(|job| witness::is_alive(&witness, *job)).then_some(())
    })
    .await;
    let stamped = "select count(*) from orch.jobs where pid is not null";
    eventually_within(BOUND, "all to be stamped", async || {
        (case.sql.query_one(stamped, &[]).await.unwrap().get::<_, i64>(0) == MANY as i64).then_some(())
    })
    .await;
    let running = "select string_agg(concat_ws(' ', id, status, run_id, pid, replica_id, attempt), e'\n' order by id) from orch.jobs";
    let before: String = case.sql.query_one(running, &[]).await.unwrap().get(0);

    let began = Instant::now();
    case.server().crash();
    // Long enough for a renewal to fail.
    tokio::time::sleep((HEARTBEAT * 2).saturating_sub(began.elapsed())).await;
    case.server().come_back().await;
    let took = began.elapsed();
    say(&format!("row 16: the database was away from {MANY} live runs for {:.2} s", took.as_secs_f64()));
    assert!(took < IN_TIME, "the machine is too slow for this row: {took:?}");
    case.reconnect().await;
    // Longer than anything lives that was not renewed since.
    tokio::time::sleep((LEASE + HEARTBEAT).saturating_sub(began.elapsed())).await;
    let after: String = case.sql.query_one(running, &[]).await.unwrap().get(0);
    assert_eq!(after, before, "not one row of a job was touched");
    for job in &jobs {
        assert!(witness::is_alive(&witness, *job), "job {job} did not live through it");
    }
    gate.open(case, &jobs).await;
    for job in &jobs {
        case.until(*job, "succeeded", BOUND_AFTER_OUTAGE).await;
        assert_eq!(case.outcomes(*job).await, [Some("succeeded".to_owned())], "job {job} ran once");
    }
    each_ran_once(case, &jobs);
}

/// Four jobs of this agent, alive.
async fn alive(case: &Case, agent: &str) -> Vec<i64> {
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(case.enqueue(agent).await);
    }
    for job in &jobs {
        case.until_alive(*job).await;
    }
    jobs
}

/// Whoever tries again more and more seldom is told by who does so all the time: with the lease the claims and the reaper are
/// back as well, after however long.
pub(crate) async fn all_loops_are_back_with_the_renewals(case: &mut Case) {
    case.move_to_own_server().await;
    case.agent("quick", "exit 0", "");
    case.add_node("a").up().await;
    let first = case.enqueue("quick").await;
    case.until(first, "succeeded", BOUND).await;
    case.server().crash();
    tokio::time::sleep(LEASE * 3).await;
    case.server().come_back().await;
    case.reconnect().await;
    let job = case.enqueue("quick").await;
    case.until(job, "succeeded", BOUND_AFTER_OUTAGE).await;
    // The first tick after it finds an outage, and says so; the one before it was longer ago than a lease.
    let waited = "select extract(epoch from r.claimed_at - j.created_at)::float8,
            extract(epoch from m.wait_until_set_at - j.created_at)::float8
        from orch.meta m, orch.jobs j join orch.agent_runs r on r.job_id = j.id
        where j.id = $1 and m.wait_until_set_at > j.created_at - make_interval(secs => $2)";
    let (claimed, ticked): (f64, f64) = eventually_within(BOUND_AFTER_OUTAGE, "the reaper to tick again", async || {
        let row = case.sql.query_opt(waited, &[&job, &LEASE.as_secs_f64()]).await.unwrap()?;
        Some((row.get(0), row.get(1)))
    })
    .await;
    say(&format!("row 16: claimed {claimed:.2} s after the database was back, ticked after {ticked:.2} s"));
    // What the busy machine of a whole suite may need beside a heartbeat, far from what the pauses have grown to.
    let limit = (HEARTBEAT * 2).as_secs_f64();
    assert!(claimed < limit && ticked < limit, "claimed after {claimed:.2} s, ticked after {ticked:.2} s");
}

/// Crashes the server, lets the short jobs end, and has it back after so long. Returns how long nobody could reach it.
async fn crash(case: &mut Case, away: Duration, end: &Path) -> Duration {
    let begin = Instant::now();
    case.server().crash();
    std::fs::write(end, "").expect("a file");
    tokio::time::sleep(away.saturating_sub(begin.elapsed())).await;
    case.server().come_back().await;
    let took = begin.elapsed();
    case.reconnect().await;
    std::fs::remove_file(end).expect("the file");
    let looks = case.auditor.looks();
    eventually("the auditor to be back", async || (case.auditor.looks() > looks).then_some(())).await;
    took
}
