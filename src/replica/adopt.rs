//! Adoption: live runs of an earlier boot of this state directory become this boot's, without being touched.
//!
//! Owns the order: the row moves by compare-and-swap, which raises this boot's lease to at least the former owner's; only
//! after the acknowledgement is the shim told to follow this boot's lease file, and until it does the old deadline stands.
//! Never settles, and never signals a process: what the database does not grant is ended by its shim.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{
    Boot, give_up, launch,
    local::Order,
    outage::{Outage, jittered},
    slots::Slot,
};
use crate::{
    db::runs::{Adoption, Owned},
    failpoint::{self, Point},
    model::RunId,
    shim::{client::RunHandle, protocol::RunDir},
};

/// The most runs of one statement.
const BATCH: usize = 500;

/// A run whose shim answers.
pub(super) struct Live {
    pub owned: Owned,
    /// The agent of its job, where that is known.
    pub agent: Option<String>,
    pub dir: RunDir,
    pub handle: RunHandle,
}

/// What is needed of a live run beside its token.
type Rest = (Option<String>, RunDir, RunHandle);

/// What came of runs that were to be adopted, but for those that were granted.
pub(super) struct Adopted {
    /// The directories of those that the database does not grant: they must end.
    pub refused: Vec<RunDir>,
    /// Those whose rows somebody keeps locked.
    pub busy: Vec<Live>,
}

/// Adopts these runs, and begins to look after those that were granted. Comes back when each is answered for, or its row was
/// locked for a heartbeat while nothing else was left to do; or when the boot is over.
pub(super) async fn adopt(boot: &Arc<Boot>, found: Vec<Live>) -> Adopted {
    let mut rest: HashMap<RunId, Rest> = HashMap::new();
    let mut owned = Vec::new();
    for live in found {
        rest.insert(live.owned.run_id(), (live.agent, live.dir, live.handle));
        owned.push(live.owned);
    }
    // Known before it is asked: a renewal may list them before the answer is heard here.
    let names: Vec<RunId> = rest.keys().copied().collect();
    boot.local().claiming(&names);
    // Rows are locked in this order, everywhere.
    owned.sort_by_key(Owned::job_id);
    let mut batches: VecDeque<Vec<Owned>> = VecDeque::new();
    while !owned.is_empty() {
        let tail = owned.split_off(owned.len().min(BATCH));
        batches.push_back(std::mem::replace(&mut owned, tail));
    }
    // As many looks as a heartbeat has room for.
    let mut looks = boot.settings().heartbeat.as_millis() / give_up::LOOK_AGAIN.as_millis();
    let mut busy: Vec<Vec<Owned>> = Vec::new();
    let mut refused = Vec::new();
    let mut outage = Outage::new("adopt live runs", boot.settings().heartbeat);
    while let Some(batch) = batches.pop_front() {
        if boot.is_over() {
            break;
        }
        failpoint::hit(Point::AdoptionBegun);
        match boot.db().adopt_runs(boot.replica_id(), batch).await {
            Ok(answers) => {
                failpoint::hit(Point::AdoptionCommitted);
                outage.worked();
                let locked = deal_with(boot, answers, &mut rest, &mut refused);
                busy.extend((!locked.is_empty()).then_some(locked));
                // After all others.
                if batches.is_empty() && !busy.is_empty() && looks > 0 {
                    looks -= 1;
                    sleep(jittered(give_up::LOOK_AGAIN)).await;
                    batches.extend(busy.drain(..));
                }
            }
            // One bad row stops nobody.
            Err((error, batch)) if error.is_about_data() => match <[Owned; 1]>::try_from(batch) {
                Ok([one]) => {
                    warn!(job_id = %one.job_id(), run_id = %one.run_id(), %error, "a run cannot be adopted; its lease decides");
                }
                Err(batch) => batches.extend(batch.into_iter().map(|one| vec![one])),
            },
            // Whether they were moved is unknown; asked again, the database says so.
            Err((error, batch)) => {
                batches.push_front(batch);
                sleep(outage.failed(&error)).await;
            }
        }
    }
    boot.local().claimed(&names);
    let live = busy.into_iter().flatten().filter_map(|owned| {
        let (agent, dir, handle) = rest.remove(&owned.run_id())?;
        Some(Live { owned, agent, dir, handle })
    });
    Adopted { refused, busy: live.collect() }
}

/// Begins what was granted, notes what was not, and returns what must be asked again.
fn deal_with(
    boot: &Arc<Boot>,
    answers: Vec<Adoption>,
    rest: &mut HashMap<RunId, Rest>,
    refused: &mut Vec<RunDir>,
) -> Vec<Owned> {
    let mut busy = Vec::new();
    for answer in answers {
        match answer {
            Adoption::Adopted(owned) => {
                let Some((agent, dir, handle)) = rest.remove(&owned.run_id()) else { continue };
                let orders = boot.local().begin(owned.run_id(), owned.job_id());
                let slot = boot.slots().take();
                tokio::spawn(look_after(boot.clone(), Live { owned, agent, dir, handle }, orders, slot));
            }
            Adoption::NotYours(owned) => {
                info!(job_id = %owned.job_id(), run_id = %owned.run_id(),
                    "a live run of an earlier boot is no longer granted; ending it");
                refused.extend(rest.remove(&owned.run_id()).map(|(_, dir, _)| dir));
            }
            Adoption::Busy(owned) => busy.push(owned),
        }
    }
    busy
}

/// Looks after a live run that is this boot's: has its shim follow this boot's lease, then watches it like any other.
pub(super) async fn look_after(boot: Arc<Boot>, live: Live, mut orders: watch::Receiver<Option<Order>>, slot: Slot) {
    let Live { owned, agent, dir, mut handle } = live;
    let run_id = owned.run_id();
    match timeout(boot.settings().kill_grace, handle.follow(boot.replica_id())).await {
        Ok(true) => info!(job_id = %owned.job_id(), %run_id, "adopted"),
        Ok(false) => info!(job_id = %owned.job_id(), %run_id, "adopted; it has just ended"),
        // It has been asked, and goes on by its former lease until it hears it.
        Err(_) => {
            warn!(job_id = %owned.job_id(), %run_id, "adopted, but its shim does not answer; its former lease stands");
        }
    }
    let agents = boot.agents();
    let success_codes = agent.and_then(|agent| agents.get(&agent)).map_or(&[0][..], |agent| &agent.success_codes);
    let watched = launch::Watched { owned: &owned, dir: &dir, success_codes, is_adopted: true };
    let (ending, handle) = launch::watch_run(&boot, watched, handle, &mut orders).await;
    launch::finish(&boot, owned, ending, handle, dir).await;
    drop(slot);
    boot.claim_nudge.notify_one();
}
