//! The end of a boot: `finish` waits for its runs and then interrupts them, `handover` leaves them running for the next
//! boot of this state directory, and one that was declared dead ends them at once.
//!
//! Never ends a run that is handed over, and never leaves the database as long as a run of this boot may be open.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{Boot, Shutdown, local::Order, renew::Renewals};
use crate::config::Drain;

/// How long a handover waits for runs whose start or settle is under way: they are safe without it, and a start that is
/// cut off costs a try.
const UNDER_WAY: Duration = Duration::from_secs(5);

/// Ends the boot as its setting says.
pub(super) async fn drain(boot: &Arc<Boot>, shutdown: &Shutdown, renewals: Renewals) {
    let is_told = shutdown.drain.is_cancelled() && !boot.declared_dead().is_cancelled();
    if is_told && boot.settings().drain == Drain::Handover {
        hand_over(boot, shutdown, renewals).await;
        return;
    }
    let all_over = finish(boot, shutdown).await;
    renewals.stop();
    // What still lives may be of a job that an operator took, whose row no longer says so: the lease decides then.
    if all_over && !boot.declared_dead().is_cancelled() {
        boot.leave().await;
    }
}

/// Tells whoever looks, beside what else is to be done.
fn announce(boot: &Boot) -> JoinHandle<()> {
    let (told, id) = (boot.db().clone(), boot.replica_id());
    // For people: what comes of it, the lease decides.
    tokio::spawn(async move { drop(told.drain_replica(id).await) })
}

/// Waits for the live runs: as long as `drain_grace` allows, then interrupts what is left and waits for its settle.
/// Whether nothing is left.
async fn finish(boot: &Arc<Boot>, shutdown: &Shutdown) -> bool {
    let live = boot.local().len();
    let grace = boot.settings().drain_grace;
    let dead = boot.declared_dead();
    if live > 0 && !dead.is_cancelled() {
        info!(live, grace_ms = grace.as_millis() as u64, "draining: waiting for live runs");
        // Nothing waits for it: there is time.
        drop(announce(boot));
        tokio::select! {
            () = boot.local().empty() => return true,
            () = sleep(grace) => {}
            () = shutdown.now.cancelled() => {}
            () = dead.cancelled() => {}
        }
        info!(live = boot.local().len(), "interrupting the runs that are still live");
    }
    boot.local().order_all(if dead.is_cancelled() { Order::Dead } else { Order::Stop });
    // The database may be away: what ended is in exit.json then, and the next boot settles it. One that was declared dead
    // registers anew soon: what the kernel does not end by then is ended, and takes a slot, under the new name.
    let k = boot.settings().kill_grace;
    let patience = if dead.is_cancelled() { k } else { k * 2 + Duration::from_secs(10) };
    let all_over = timeout(patience, boot.local().empty()).await.is_ok();
    if !all_over {
        warn!(runs = boot.local().len(), "leaving runs unsettled; the next boot on this state directory settles them");
    }
    all_over
}

/// Leaves the live runs to the next boot, with a lease that lasts until it can be expected.
async fn hand_over(boot: &Arc<Boot>, shutdown: &Shutdown, renewals: Renewals) {
    let announced = announce(boot);
    tokio::select! {
        ended = timeout(UNDER_WAY, boot.local().settled_in()) => drop(ended),
        () = shutdown.now.cancelled() => {}
    }
    let lease = boot.settings().handover_lease;
    let granted = tokio::select! {
        granted = renewals.hand_over(lease) => granted,
        // Whether it was granted is unknown then; the lease file says what the runs may rely on.
        () = shutdown.now.cancelled() => false,
    };
    let live = boot.local().live();
    tokio::select! {
        ended = timeout(UNDER_WAY, boot.local().settled()) => drop(ended),
        () = shutdown.now.cancelled() => {}
    }
    // It would end with this process.
    tokio::select! {
        told = timeout(UNDER_WAY, announced) => drop(told),
        () = shutdown.now.cancelled() => {}
    }
    if boot.local().len() == 0 {
        boot.leave().await;
    } else if granted {
        info!(live, lease_s = lease.as_secs(), "handing the live runs over to the next boot of this state directory");
    } else {
        warn!(live, "going without the database's word for a longer lease; the live runs go on by the one they have");
    }
}
