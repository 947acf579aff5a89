//! Row 12: a partition that resets: each packet is answered by the end of its connection. For good it is as row 11; fifty
//! times a minute it costs no run. Either way nobody storms the server with connections.

use std::time::{Duration, Instant};

use super::r11_black_hole::cut_off;
use crate::{
    bound::IN_TIME,
    case::{BOUND, Case},
    network::Place,
    support::say,
    witness,
};

/// How often a replica with the suite's timings may ask for a connection, in a second.
const STORM: f64 = 20.0;

const FLAPS: u32 = 20;
/// Half of it without a network.
const FLAP: Duration = Duration::from_millis(1200);

pub(crate) async fn its_trees_end_before_the_deadline_and_nobody_storms(case: &mut Case) {
    let rate = cut_off(case, 12, Place::reset).await;
    assert!(rate < STORM, "{rate:.1} connections asked for a second");
}

pub(crate) async fn fifty_flaps_a_minute_cost_no_run(case: &mut Case) {
    assert!(FLAP < IN_TIME);
    case.move_to_network().await;
    let go = case.orch.path("go");
    case.agent("long", &format!("until [ -e {} ]; do sleep 0.2; done", go.display()), "");
    case.agent("short", "sleep 0.3", "");
    case.add_node_apart("flapping").up().await;
    let mut long = Vec::new();
    for _ in 0..4 {
        long.push(case.enqueue("long").await);
    }
    for job in &long {
        case.until_alive(*job).await;
    }
    case.add_node_apart("other").up().await;
    let former = case.replica_id("flapping").await;

    let place = case.node("flapping").place();
    let asked_before = place.connects();
    let began = Instant::now();
    let mut short = Vec::new();
    for flap in 0..FLAPS {
        place.reset();
        short.push(case.enqueue("short").await);
        tokio::time::sleep((FLAP * flap + FLAP / 2).saturating_sub(began.elapsed())).await;
        place.heal();
        tokio::time::sleep((FLAP * (flap + 1)).saturating_sub(began.elapsed())).await;
    }
    let rate = (place.connects() - asked_before) as f64 / began.elapsed().as_secs_f64();
    say(&format!(
        "row 12: {FLAPS} flaps in {:.1} s; {rate:.1} connections asked for a second",
        began.elapsed().as_secs_f64()
    ));
    assert!(rate < STORM, "{rate:.1} connections asked for a second");

    for job in &short {
        case.until(*job, "succeeded", BOUND).await;
        // A claim whose answer was lost is given up: that is a run which never began.
        assert_eq!(witness::intervals(&case.witness(), *job).len(), 1, "job {job} was started once");
    }
    std::fs::write(&go, "").unwrap();
    for job in &long {
        case.until(*job, "succeeded", BOUND).await;
        assert_eq!(case.outcomes(*job).await, [Some("succeeded".to_owned())], "job {job} was not touched");
    }
    assert_eq!(case.replica_id("flapping").await, former, "it did not have to register anew");
}
