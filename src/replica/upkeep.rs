//! The loop that keeps the busy tables in shape: every so many settles it looks whether their statistics are out of date or
//! dead rows have piled up, and does what autovacuum would do a minute later. At ten thousand jobs a second that minute
//! leaves a million dead rows; and plans that were made for an empty table are kept until its statistics change.
//!
//! Only a matter of speed: whatever fails here is the autovacuum's to do, and nothing waits for it. An idle replica asks
//! nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};
use tracing::{debug, warn};

use super::Boot;
use crate::db::Db;

/// Settles of this replica between two looks.
const SETTLES: usize = 2_000;
/// The shortest time between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Dead rows from which on a table is vacuumed.
const DEAD_ROWS: i64 = 50_000;
/// The shortest time between two vacuums of a table.
const REST: Duration = Duration::from_secs(10);
/// How long one may take; then it is the autovacuum's.
const WITHIN: Duration = Duration::from_mins(10);

/// Counts settles.
#[derive(Debug, Default)]
pub(super) struct Settles {
    count: AtomicUsize,
    many: Notify,
}

impl Settles {
    /// So many more were answered.
    pub(super) fn add(&self, settles: usize) {
        let before = self.count.fetch_add(settles, Ordering::Relaxed);
        if before / SETTLES != (before + settles) / SETTLES {
            self.many.notify_one();
        }
    }
}

/// Keeps up until the boot is over.
pub(super) async fn run(boot: Arc<Boot>) -> &'static str {
    let db = boot.db().clone().answering_within(WITHIN);
    loop {
        tokio::select! {
            () = boot.settles.many.notified() => {}
            () = boot.over() => return "upkeep",
        }
        tokio::select! {
            () = keep_up(&db) => {}
            () = boot.over() => return "upkeep",
        }
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = boot.over() => return "upkeep",
        }
    }
}

async fn keep_up(db: &Db) {
    let wanted = match db.wanted_upkeep(DEAD_ROWS, REST).await {
        Ok(wanted) => wanted,
        Err(error) => {
            debug!(%error, "failed to look at the tables' statistics; the autovacuum does");
            return;
        }
    };
    for wanted in wanted {
        if let Err(error) = db.keep_up(wanted).await {
            warn!(%error, ?wanted, "failed to keep a table in shape; the autovacuum has to");
        }
    }
}
