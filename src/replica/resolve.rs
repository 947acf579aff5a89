//! The loop that resolves waits: a settle has ended jobs that others run after, and these are let go or cancelled at once.
//!
//! Only a matter of speed. Whatever is lost here, with the process or with the database away, the tick of any replica
//! finds by its walk over the jobs that wait. So nothing is sent again, and nothing waits for this.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};
use tracing::{info, warn};

use super::Boot;
use crate::{
    db::{Db, Result, dependencies::Round},
    model::JobId,
};

/// The most jobs of one statement.
const BATCH: i32 = 500;
/// The most statements of one go: with all that follows from one another, a hundred thousand jobs.
const ROUNDS: usize = 200;
/// The pause before rows that were in other hands are looked at again.
const AGAIN: Duration = Duration::from_millis(50);

/// What came of it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Resolved {
    /// Jobs that wait for nobody any more.
    pub released: usize,
    /// Jobs that were cancelled because one that they were to run after has not succeeded.
    pub cancelled: usize,
}

/// Resolves what it is told of, for as long as anybody can tell it.
pub(super) async fn run(boot: Arc<Boot>, mut ended: mpsc::UnboundedReceiver<JobId>) -> &'static str {
    const MOST: usize = 1000;
    let mut jobs = Vec::new();
    while ended.recv_many(&mut jobs, MOST).await > 0 {
        match resolve(boot.db(), std::mem::take(&mut jobs), Vec::new()).await {
            Ok(resolved) if resolved.released > 0 => boot.claim_nudge.notify_one(),
            Ok(_) => {}
            Err(error) => {
                warn!(%error, "failed to let go the jobs that wait for those that ended; the next tick does it");
            }
        }
    }
    "resolve"
}

/// Looks at the jobs that wait for `ended`, and at the jobs `waiting`, and then at those that wait for what was cancelled
/// by that, until nothing is left, or all that is left is in other hands for long.
pub async fn resolve(db: &Db, mut ended: Vec<JobId>, mut waiting: Vec<JobId>) -> Result<Resolved> {
    let mut resolved = Resolved::default();
    for _ in 0..ROUNDS {
        if ended.is_empty() && waiting.is_empty() {
            break;
        }
        let Round { released, cancelled, shortened, more } = db.resolve_waits(&ended, &waiting, BATCH).await?;
        let idle = released == 0 && cancelled.is_empty() && shortened.is_empty();
        resolved.released += released;
        resolved.cancelled += cancelled.len();
        if !more {
            ended.clear();
            waiting.clear();
        } else if idle {
            sleep(AGAIN).await;
        }
        ended.extend(cancelled);
        waiting.extend(shortened);
    }
    if resolved.cancelled > 0 {
        info!(cancelled = resolved.cancelled, "cancelled jobs that were to run after one that has not succeeded");
    }
    Ok(resolved)
}
