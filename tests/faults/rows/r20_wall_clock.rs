//! Row 20: the wall clocks of two replicas are wrong, one a day ahead, the other a day behind. Leases, schedules, retries,
//! timeouts and what is old are judged by the database's clock, or by one that nobody sets.

use std::time::SystemTime;

use jiff::fmt::rfc2822;

use crate::{
    bound::{BOUND, LEASE},
    case::Case,
    node::Node,
    support::fake_time_library,
};

const DAY: i64 = 86_400;
const BACKOFF: &str = "backoff = { base = \"3s\", factor = 1, max = \"3s\" }";

/// Name, script, settings, and the outcomes of a job's runs: the second one after a wait, or one that time ends.
const AGENTS: [(&str, &str, &str, &[&str]); 6] = [
    ("quick", "exit 0", "", &["succeeded"]),
    (
        "again",
        "[ $ORCH_ATTEMPT -gt 1 ] || echo '{\"retry_after\": \"3s\"}' > $ORCH_RESULT_FILE",
        "",
        &["transient", "succeeded"],
    ),
    ("later", "[ $ORCH_ATTEMPT -gt 1 ] || exit 75", BACKOFF, &["transient", "succeeded"]),
    ("fails", "[ $ORCH_ATTEMPT -gt 1 ]", BACKOFF, &["failed", "succeeded"]),
    ("slow", "sleep 100000", "timeout = \"3s\"\nmax_attempts = 1", &["timed_out"]),
    ("silent", "sleep 100000", "silence_timeout = \"3s\"\nmax_attempts = 1", &["timed_out"]),
];
/// The least wait of all these, in seconds: a backoff of 3 s with its jitter.
const LEAST: f64 = 1.4;

pub(crate) async fn of_two_replicas_is_a_day_off(case: &mut Case) {
    // Nothing here is that old, but by a clock that is a day ahead.
    case.orch.set("ORCH_KEEP_FINISHED", "12h");
    case.orch.set("ORCH_MAX_CONCURRENCY", "10");
    let (mut jobs, mut stays) = (Vec::new(), None);
    for (name, off) in [("ahead", "+1d"), ("behind", "-1d")] {
        let mut agents = case.agent("stays", "[ $ORCH_ATTEMPT -gt 1 ] || sleep 100000", "");
        // These are served by this node alone.
        for (agent, script, settings, _) in AGENTS {
            agents.push_str(&case.agent(&format!("{agent}_{name}"), script, settings));
        }
        let node = case.add_node(name);
        node.orch.config(&agents);
        node.orch.set("ORCH_CONFIG", node.orch.path("orch.toml").to_str().unwrap());
        node.orch.set("LD_PRELOAD", fake_time_library().expect("what the row needs").to_str().unwrap());
        node.orch.set("FAKETIME", off);
        // Those that nobody sets stay as they are.
        node.orch.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        node.up().await;
        if stays.is_none() {
            let job = case.enqueue("stays").await;
            case.until_alive(job).await;
            stays = Some(job);
        }
        for (agent, _, _, outcomes) in AGENTS {
            jobs.push((case.enqueue(&format!("{agent}_{name}")).await, format!("{agent}, {name}"), outcomes));
        }
        let due = "select orch.enqueue($1, run_at => clock_timestamp() + interval '3 s')";
        let due: i64 = case.sql.query_one(due, &[&format!("quick_{name}")]).await.unwrap().get(0);
        jobs.push((due, format!("due later, {name}"), &["succeeded"]));
    }
    let off = (days_off(case.node("ahead")).await, days_off(case.node("behind")).await);
    assert_eq!(off, (1, -1), "the row's own doing");

    for (job, what, outcomes) in &jobs {
        let status = if outcomes.last() == Some(&"succeeded") { "succeeded" } else { "failed" };
        case.until(*job, status, BOUND).await;
        let found: Vec<String> = case.outcomes(*job).await.into_iter().flatten().collect();
        assert_eq!(found, *outcomes, "{what}");
        let took = "select extract(epoch from finished_at - created_at)::float8 from orch.jobs where id = $1";
        let took: f64 = case.sql.query_one(took, &[job]).await.unwrap().get(0);
        assert!(took >= LEAST || what.starts_with("quick"), "{what}: it was over after {took} s");
    }
    let elsewhere = "select id from orch.jobs
        where not (created_at between now() - interval '1 hour' and now() and finished_at between created_at and now())";
    assert!(case.sql.query(elsewhere, &[]).await.unwrap().is_empty(), "times of day are the database's");
    for name in ["ahead", "behind"] {
        let queue = case.node(name).replica().get("/queue").await.json();
        let running = queue["running"].as_array().unwrap();
        assert_eq!(running.len(), 1, "{queue}");
        let (age, left) = (running[0]["age_seconds"].as_f64(), running[0]["lease_left_seconds"].as_f64());
        assert!(age.is_some_and(|age| (0.0..600.0).contains(&age)), "{name} says {queue}");
        assert!(left.is_some_and(|left| (0.0..=LEASE.as_secs_f64()).contains(&left)), "{name} says {queue}");
    }

    // One dies with its machine, and the other goes by the lease.
    case.node("ahead").kill_everything().await;
    let stays = stays.expect("a job");
    case.until(stays, "succeeded", BOUND).await;
    let early = "select r.outcome = 'lost' and r.ended_at > p.lease_until from orch.agent_runs r
        join orch.replicas p using (replica_id) where r.job_id = $1 and r.attempt = 1 and p.name = 'ahead'";
    assert!(
        case.sql.query_one(early, &[&stays]).await.unwrap().get::<_, bool>(0),
        "it was reaped when its lease was over"
    );
    let kept = "select count(*) from orch.jobs";
    assert_eq!(case.sql.query_one(kept, &[]).await.unwrap().get::<_, i64>(0), jobs.len() as i64 + 1, "nothing is old");
}

/// How many days its wall clock is off, as it tells everybody who asks it over HTTP.
async fn days_off(node: &Node) -> i64 {
    let answer = node.replica().get("/healthz").await;
    let date = answer.head.lines().find_map(|line| line.to_ascii_lowercase().starts_with("date: ").then(|| &line[6..]));
    let said = rfc2822::parse(date.expect("a date")).expect("a date").timestamp().as_second();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().cast_signed();
    (said - now + DAY / 2).div_euclid(DAY)
}
