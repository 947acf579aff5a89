//! The loop that settles: whatever has ended by now, in one statement, again and again until the database answers.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tracing::error;

use super::{Boot, outage::Outage};
use crate::{
    db::runs::{Answer, Settlement},
    failpoint::{self, Point},
    model::{JobStatus, RunId},
};

/// The most runs of one settle.
const BATCH: usize = 200;

/// The pause before a refused settle is sent again doubles up to five minutes.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
const MOST_DOUBLINGS: u32 = 6;

/// A settlement and who waits for its answer: the next status, or `None` if the run was no longer ours.
#[derive(Debug)]
pub(super) struct Request {
    settlement: Settlement,
    waiter: Waiter,
}

#[derive(Debug)]
struct Waiter {
    answer: oneshot::Sender<Option<JobStatus>>,
    /// How often the database refused.
    refusals: u32,
}

/// Settles one run, however long it takes. `None`: it was no longer this replica's.
pub(super) async fn settle(boot: &Boot, settlement: Settlement) -> Option<JobStatus> {
    let (answer, answered) = oneshot::channel();
    if boot.settlements().send(Request { settlement, waiter: Waiter { answer, refusals: 0 } }).is_ok()
        && let Ok(status) = answered.await
    {
        return status;
    }
    // The process is about to end and leaves this run to its successor.
    std::future::pending().await
}

/// Settles until nobody can ask any more.
pub(super) async fn run(boot: Arc<Boot>, mut requests: mpsc::UnboundedReceiver<Request>) -> &'static str {
    let mut outage = Outage::new("settle runs; results wait in the state directory", Duration::from_secs(5));
    let mut waiting: HashMap<RunId, Waiter> = HashMap::new();
    let mut fresh = Vec::new();
    while requests.recv_many(&mut fresh, BATCH).await > 0 {
        let mut batch = Vec::with_capacity(fresh.len());
        for Request { settlement, waiter } in fresh.drain(..) {
            waiting.insert(settlement.run_id(), waiter);
            batch.push(settlement);
        }
        // Rows are locked in this order, everywhere.
        batch.sort_by_key(Settlement::job_id);
        loop {
            match boot.db().settle_runs(batch).await {
                Ok(answers) => {
                    failpoint::hit(Point::SettleCommitted);
                    outage.worked();
                    for answer in answers {
                        deal_with(&boot, answer, &mut waiting);
                    }
                    break;
                }
                Err((error, back)) => {
                    batch = back;
                    sleep(outage.failed(&error)).await;
                }
            }
        }
    }
    "settle"
}

/// Answers whoever waits, or has the settlement sent again a little later, beside those that come meanwhile.
fn deal_with(boot: &Boot, answer: Answer, waiting: &mut HashMap<RunId, Waiter>) {
    let (settlement, refused) = match answer {
        Answer::Settled(run_id, status) => return tell(waiting, run_id, Some(status)),
        Answer::NotYours(run_id) => return tell(waiting, run_id, None),
        Answer::Busy(settlement) => (settlement, None),
        Answer::Refused(settlement, error) => (settlement, Some(error)),
    };
    if let Some(mut waiter) = waiting.remove(&settlement.run_id()) {
        let pause = match refused {
            None => Duration::from_millis(100),
            Some(error) => {
                let pause = REFUSED_PAUSE * 2_u32.pow(waiter.refusals.min(MOST_DOUBLINGS));
                waiter.refusals += 1;
                error!(run_id = %settlement.run_id(), job_id = %settlement.job_id(), %error,
                    "the database refuses to settle this run; trying again in {} s, look at the job's row", pause.as_secs());
                pause
            }
        };
        let again = boot.settlements().clone();
        tokio::spawn(async move {
            sleep(pause).await;
            // The loop is gone only when the process is about to be.
            let _ = again.send(Request { settlement, waiter });
        });
    }
}

fn tell(waiting: &mut HashMap<RunId, Waiter>, run_id: RunId, status: Option<JobStatus>) {
    if let Some(waiter) = waiting.remove(&run_id) {
        // Whoever waited may be gone in a shutdown; the run is settled all the same.
        let _ = waiter.answer.send(status);
    }
}
