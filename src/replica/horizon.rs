//! The loop that warns of an old snapshot: whoever holds one keeps dead rows in the way of every claim. It only looks, and
//! says who it is, once for each and again when it is over.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::{info, warn};

use super::{Boot, outage::jittered};

/// From one look to the next: a statement that reads the server's views.
const EVERY: Duration = Duration::from_secs(15);

/// Looks until the boot is over.
pub(super) async fn run(boot: Arc<Boot>) -> &'static str {
    let mut known = None;
    loop {
        tokio::select! {
            () = sleep(jittered(EVERY)) => {}
            () = boot.over() => return "horizon",
        }
        // What is wrong with the database, the other loops say.
        let Ok(horizon) = boot.db().horizon().await else { continue };
        let alarm = horizon.alarm();
        let holder = alarm.is_some().then(|| horizon.holder.map(|holder| (holder.pid, holder.name))).flatten();
        match alarm {
            Some(alarm) if known != holder => warn!(dead_rows = horizon.dead_rows, "an old snapshot: {alarm}"),
            None if known.is_some() => info!(dead_rows = horizon.dead_rows, "no old snapshot is held any more"),
            _ => {}
        }
        known = holder;
    }
}
