//! The shims that a replica has forked ahead: they start runs whatever has become of their spawner.

use std::path::Path;

use crate::{
    case::{BOUND, Case},
    support::eventually,
};

/// How many a replica keeps.
pub(crate) const SPARES: usize = 2;

/// Waits until they are there.
pub(crate) async fn ready(state_dir: &Path) {
    eventually("the shims to be forked ahead", async || {
        let spares = std::fs::read_dir(state_dir.join("spares")).into_iter().flatten().flatten();
        (spares.filter(|spare| spare.path().join("exit.json.new").exists()).count() == SPARES).then_some(())
    })
    .await;
}

/// Has jobs of this agent, which end at once, use them up. Where no more can be forked, the next run needs the spawner.
pub(crate) async fn use_up(case: &Case, agent: &str) {
    // In one claim: where one is used another is asked for soon.
    let enqueue = "select orch.enqueue($1) from generate_series(1, $2)";
    for job in case.sql.query(enqueue, &[&agent, &(SPARES as i32)]).await.unwrap() {
        case.until(job.get(0), "succeeded", BOUND).await;
    }
}
