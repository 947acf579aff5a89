//! The loop that stamps pids, in batches, once the processes exist. For people: nothing waits for a stamp, and a run
//! that ends before its stamp is written carries it into the settle.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::sleep};
use tracing::warn;

use super::{Boot, outage::Outage};
use crate::{
    db::runs::Process,
    failpoint::{self, Point},
    model::{JobId, RunId},
};

/// A run and its process.
pub(super) type Stamp = (JobId, RunId, Process);

/// The most runs of one statement.
const BATCH: usize = 200;
/// Before a statement: a short run that is over by then carries its pid into its settle, and costs no stamp; and a program
/// that begins does not share the machine with one.
const REST: Duration = Duration::from_millis(50);
/// Before a row that another transaction held is tried again.
const LOCKED_PAUSE: Duration = Duration::from_secs(1);

/// Sends what another transaction kept from being stamped once more, a little later, beside what comes meanwhile; a run
/// that is no longer ours is ended by the next renewal, and then it is dropped.
fn again(boot: &Boot, locked: Vec<Stamp>) {
    if !locked.is_empty() {
        let stamps = boot.stamps().clone();
        tokio::spawn(async move {
            sleep(LOCKED_PAUSE).await;
            for stamp in locked {
                // The loop is gone only when the process is about to be.
                let _ = stamps.send(stamp);
            }
        });
    }
}

/// Stamps until nobody sends any more.
pub(super) async fn run(boot: Arc<Boot>, mut stamps: mpsc::UnboundedReceiver<Stamp>) -> &'static str {
    let mut outage = Outage::new("stamp pids", Duration::from_secs(5));
    let mut batch: Vec<Stamp> = Vec::new();
    loop {
        if stamps.recv_many(&mut batch, BATCH).await == 0 {
            return "stamp";
        }
        sleep(REST).await;
        while batch.len() < BATCH
            && let Ok(stamp) = stamps.try_recv()
        {
            batch.push(stamp);
        }
        while !batch.is_empty() {
            batch.retain(|(_, run_id, _)| boot.local().is_live(*run_id));
            if batch.is_empty() {
                break;
            }
            batch.sort_by_key(|(job_id, ..)| *job_id);
            match boot.db().stamp_runs(boot.replica_id(), &batch).await {
                Ok(stamped) => {
                    failpoint::hit(Point::PidStamped);
                    outage.worked();
                    batch.retain(|(_, run_id, _)| !stamped.contains(run_id));
                    again(&boot, std::mem::take(&mut batch));
                }
                // One bad row stops nobody: it goes without a pid, which its settle brings.
                Err(error) if error.is_about_data() => {
                    for stamp in batch.drain(..) {
                        if let Err(error) = boot.db().stamp_runs(boot.replica_id(), std::slice::from_ref(&stamp)).await
                        {
                            warn!(job_id = %stamp.0, run_id = %stamp.1, %error, "failed to stamp a pid");
                        }
                    }
                }
                Err(error) => sleep(outage.failed(&error)).await,
            }
        }
    }
}
