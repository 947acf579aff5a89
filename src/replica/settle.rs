//! The loop that settles: whatever has ended by now, in one statement, again and again until the database answers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tracing::{error, info, warn};

use super::{Boot, outage::Outage};
use crate::{
    db::runs::{Answer, Answers, Settlement},
    failpoint::{self, Point},
    model::{JobId, JobStatus, Outcome, RunId},
};

/// The most runs of one settle.
const BATCH: usize = 200;
/// So many may be under way at a time: while one waits for the disk, the server works for the other.
const SIDE_BY_SIDE: usize = 2;
/// But only where so many runs wait for the second. Fewer wait for the first, and share the next.
const ENOUGH: usize = 50;

/// The pause before a settle whose row was busy is sent again doubles up to this: mostly another's claim had looked at the
/// row while it was queued, and lets go of it when it commits.
const AGAIN: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_millis(3);

/// The pause before a refused settle is sent again doubles up to five minutes.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
const MOST_DOUBLINGS: u32 = 6;

/// A settlement and who waits for its answer.
#[derive(Debug)]
pub(super) struct Request {
    settlement: Settlement,
    waiter: Waiter,
}

#[derive(Debug)]
struct Waiter {
    answer: oneshot::Sender<Settled>,
    /// How often the row was busy.
    busy: u32,
    /// How often the database refused.
    refusals: u32,
}

/// What became of a settlement; each is the end of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// In time: the job's next status.
    InTime(JobStatus),
    /// After a reap, and its job took it all the same: the job's next status.
    Late(JobStatus),
    /// After a reap, and too late for its job: written to the run only.
    Noted,
    /// Before: the answer had been lost.
    Already,
    /// The run was taken from this replica.
    NotOurs,
}

impl Settled {
    /// Tells the log. `error` is the run's.
    pub(super) fn say(self, job_id: JobId, run_id: RunId, outcome: Outcome, error: Option<&str>) {
        match self {
            Self::InTime(next) => info!(%job_id, %run_id, %outcome, %next, error, "run settled"),
            Self::Late(next) => warn!(%job_id, %run_id, %outcome, %next, error,
                "run settled late: a reaper had closed it as lost, and its job took the result all the same"),
            Self::Noted => warn!(%job_id, %run_id, %outcome, error,
                "run settled too late: a reaper had closed it as lost and its job has gone on; its row alone says how it ended"),
            Self::Already => {
                info!(%job_id, %run_id, %outcome, error, "run had been settled already; the answer was lost");
            }
            Self::NotOurs => info!(%job_id, %run_id, %outcome, error, "run ended, and is no longer this replica's"),
        }
    }
}

/// Settles one run, however long it takes.
pub(super) async fn settle(boot: &Boot, settlement: Settlement) -> Settled {
    let (answer, answered) = oneshot::channel();
    if boot.settlements().send(Request { settlement, waiter: Waiter { answer, busy: 0, refusals: 0 } }).is_ok()
        && let Ok(settled) = answered.await
    {
        return settled;
    }
    // The process is about to end and leaves this run to its successor.
    std::future::pending().await
}

/// Settles until nobody can ask any more.
pub(super) async fn run(boot: Arc<Boot>, mut requests: mpsc::UnboundedReceiver<Request>) -> &'static str {
    let outage = Mutex::new(Outage::new("settle runs; results wait in the state directory", Duration::from_secs(5)));
    let mut waiting: HashMap<RunId, Waiter> = HashMap::new();
    let mut pending = Vec::new();
    let mut under_way = FuturesUnordered::new();
    let mut is_open = true;
    while is_open || !pending.is_empty() || !under_way.is_empty() {
        let least = if under_way.is_empty() { 1 } else { ENOUGH };
        if pending.len() >= least && under_way.len() < SIDE_BY_SIDE {
            let few = pending.len().min(BATCH);
            let batch = begin(&boot, pending.drain(..few), &mut waiting);
            if !batch.is_empty() {
                under_way.push(settle_batch(&boot, &outage, batch));
            }
            continue;
        }
        tokio::select! {
            taken = requests.recv_many(&mut pending, BATCH), if is_open => is_open = taken > 0,
            Some(answers) = under_way.next(), if !under_way.is_empty() => {
                for answer in answers {
                    deal_with(&boot, answer, &mut waiting);
                }
            }
        }
    }
    "settle"
}

/// Notes who waits for these, and gives what is to be settled in the order in which rows are locked everywhere.
fn begin(
    boot: &Boot,
    requests: impl Iterator<Item = Request>,
    waiting: &mut HashMap<RunId, Waiter>,
) -> Vec<Settlement> {
    let mut batch = Vec::new();
    for Request { settlement, waiter } in requests {
        // Said twice, a run is settled by the first; the second hears so a little later.
        if waiting.contains_key(&settlement.run_id()) {
            send_later(boot, Request { settlement, waiter }, AGAIN);
            continue;
        }
        waiting.insert(settlement.run_id(), waiter);
        batch.push(settlement);
    }
    batch.sort_by_key(Settlement::job_id);
    batch
}

/// Sends a batch until the database answers. Said twice it counts once.
async fn settle_batch(boot: &Boot, outage: &Mutex<Outage>, mut batch: Vec<Settlement>) -> Answers {
    // Nothing that holds this lock can panic half-way through a change.
    let outage = || outage.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let patience = outage().patience();
        match boot.db().clone().answering_within(patience).settle_runs(batch).await {
            Ok(answers) => {
                failpoint::hit(Point::SettleCommitted);
                outage().worked();
                boot.resolve(&answers.awaited);
                boot.settles.add(answers.len());
                return answers;
            }
            Err((error, back)) => {
                batch = back;
                let pause = outage().failed(&error);
                tokio::select! {
                    () = sleep(pause) => {}
                    () = boot.settle_nudge.notified() => {}
                }
            }
        }
    }
}

/// Answers whoever waits, or has the settlement sent again a little later, beside those that come meanwhile.
fn deal_with(boot: &Boot, answer: Answer, waiting: &mut HashMap<RunId, Waiter>) {
    let (settlement, refused) = match answer {
        Answer::Settled(run_id, next) => return tell(waiting, run_id, Settled::InTime(next)),
        Answer::Late(run_id, next) => return tell(waiting, run_id, Settled::Late(next)),
        Answer::Noted(run_id) => return tell(waiting, run_id, Settled::Noted),
        Answer::Already(run_id) => return tell(waiting, run_id, Settled::Already),
        Answer::NotYours(run_id) => return tell(waiting, run_id, Settled::NotOurs),
        Answer::Busy(settlement) => (settlement, None),
        Answer::Refused(settlement, error) => (settlement, Some(error)),
    };
    if let Some(mut waiter) = waiting.remove(&settlement.run_id()) {
        let pause = match refused {
            None => {
                let pause = (SOON * 2_u32.pow(waiter.busy.min(MOST_DOUBLINGS))).min(AGAIN);
                waiter.busy += 1;
                pause
            }
            Some(error) => {
                let pause = REFUSED_PAUSE * 2_u32.pow(waiter.refusals.min(MOST_DOUBLINGS));
                waiter.refusals += 1;
                error!(run_id = %settlement.run_id(), job_id = %settlement.job_id(), %error,
                    "the database refuses to settle this run; trying again in {} s, look at the job's row", pause.as_secs());
                pause
            }
        };
        send_later(boot, Request { settlement, waiter }, pause);
    }
}

fn send_later(boot: &Boot, request: Request, pause: Duration) {
    let again = boot.settlements().clone();
    tokio::spawn(async move {
        sleep(pause).await;
        // The loop is gone only when the process is about to be.
        let _ = again.send(request);
    });
}

fn tell(waiting: &mut HashMap<RunId, Waiter>, run_id: RunId, settled: Settled) {
    if let Some(waiter) = waiting.remove(&run_id) {
        // Whoever waited may be gone in a shutdown; the run is settled all the same.
        let _ = waiter.answer.send(settled);
    }
}
