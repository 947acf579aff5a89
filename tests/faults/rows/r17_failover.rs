//! Row 17: failover to a synchronous standby. Replicas that know both hosts find the new primary within L - K - H: no run is
//! touched, no job runs twice, and nothing that was acknowledged is lost.

use std::time::Instant;

use crate::{
    bound::{BOUND_AFTER_OUTAGE, IN_TIME},
    case::Case,
    support::{eventually, say},
    witness,
};

const OF_EACH: usize = 4;

pub(crate) async fn to_a_synchronous_standby_costs_no_run(case: &mut Case) {
    case.move_to_replicated_servers().await;
    let go = case.orch.path("go");
    case.agent("long", &format!("until [ -e {} ]; do sleep 0.2; done", go.display()), "");
    case.agent("short", "sleep 2; echo '{\"data\": \"kept\"}' > \"$ORCH_RESULT_FILE\"", "");
    for name in ["a", "b"] {
        case.add_node(name).up().await;
    }
    let (mut long, mut short) = (Vec::new(), Vec::new());
    for _ in 0..OF_EACH {
        long.push(case.enqueue("long").await);
        short.push(case.enqueue("short").await);
    }
    for job in long.iter().chain(&short) {
        case.until_alive(*job).await;
    }
    // Acknowledged at the last moment, and perhaps being claimed at the next.
    for _ in 0..OF_EACH {
        short.push(case.enqueue("short").await);
    }

    let began = Instant::now();
    case.fail_over().await;
    let took = began.elapsed();
    say(&format!("row 17: nobody took writes for {:.2} s", took.as_secs_f64()));
    assert!(took < IN_TIME, "the machine is too slow for this row: {took:?}");
    case.reconnect().await;
    let looks = case.auditor.looks();
    eventually("the auditor to look at the new primary", async || (case.auditor.looks() > looks).then_some(())).await;

    for job in &short {
        case.until(*job, "succeeded", BOUND_AFTER_OUTAGE).await;
        let result: Option<serde_json::Value> = case.job(*job).await.get("result");
        assert_eq!(result.and_then(|result| result.get("data").cloned()), Some(serde_json::json!("kept")), "job {job}");
    }
    for job in &long {
        assert!(witness::is_alive(&case.witness(), *job), "job {job} did not live through the failover");
    }
    std::fs::write(&go, "").unwrap();
    for job in &long {
        case.until(*job, "succeeded", BOUND_AFTER_OUTAGE).await;
    }
    // One that was claimed and whose answer was lost is given up and claimed again; it never started twice.
    for job in long.iter().chain(&short[..OF_EACH]) {
        assert_eq!(case.outcomes(*job).await, [Some("succeeded".to_owned())], "job {job} ran once");
    }
    for job in &short {
        let started = witness::intervals(&case.witness(), *job).len();
        assert_eq!(started, 1, "job {job} was started {started} times");
    }
    let states = case.sql.query("select name, state from orch.replicas order by name", &[]).await.unwrap();
    let states: Vec<(String, String)> = states.iter().map(|row| (row.get(0), row.get(1))).collect();
    let live = |name: &str| (name.to_owned(), "live".to_owned());
    assert_eq!(states, [live("a"), live("b")], "nobody was declared dead");
}
