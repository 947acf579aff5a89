//! The renewal: every heartbeat, on a thread, a runtime and a connection of its own, so that nothing else that this
//! process does can make a lease run out. In the same statement the database says which runs it knows as ours.

use std::{io, sync::Arc, thread};

use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{
    Boot, give_up,
    local::{Known, Order},
    outage::Outage,
};
use crate::db::{
    Db, Result,
    replicas::{Reconcile, Renewal},
};

/// The renewal thread of one boot.
#[derive(Debug)]
pub(super) struct Renewals {
    stop: CancellationToken,
}

impl Renewals {
    /// Renews no more.
    pub(super) fn stop(self) {
        self.stop.cancel();
    }
}

impl Drop for Renewals {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Starts the thread. What the answers ask for is done on the caller's runtime, never on the thread.
pub(super) fn spawn(boot: &Arc<Boot>, db: Db) -> io::Result<Renewals> {
    let stop = CancellationToken::new();
    let db = db.answering_within(boot.settings().heartbeat * 2);
    let (boot, main, stopped) = (boot.clone(), Handle::current(), stop.clone());
    thread::Builder::new().name("renewal".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                // Without renewals the lease runs out, so nothing may go on as if it did not.
                error!(%error, "failed to start the renewal thread's runtime");
                boot.declared_dead().cancel();
                return;
            }
        };
        runtime.block_on(run(&boot, &db, &main, &stopped));
    })?;
    Ok(Renewals { stop })
}

async fn run(boot: &Arc<Boot>, db: &Db, main: &Handle, stopped: &CancellationToken) {
    let heartbeat = boot.settings().heartbeat;
    let mut outage = Outage::new("renew the lease", heartbeat);
    let mut reconciling = Outage::new("compare the live runs with the database", heartbeat);
    let mut mode = Reconcile::Full;
    loop {
        let begun = Instant::now();
        let next = match tick(boot, db, main, mode).await {
            Ok(()) => {
                outage.worked();
                if mode == Reconcile::Full {
                    reconciling.worked();
                }
                mode = Reconcile::Full;
                begun + heartbeat
            }
            // Perhaps only `jobs` is locked, by a migration: the row alone can be renewed all the same.
            Err(error) if mode == Reconcile::Full => {
                mode = Reconcile::LeaseOnly;
                Instant::now() + reconciling.failed(&error)
            }
            Err(error) => Instant::now() + outage.failed(&error),
        };
        tokio::select! {
            () = sleep_until(next) => {}
            () = boot.renew_nudge.notified() => {}
            () = stopped.cancelled() => return,
            () = boot.declared_dead().cancelled() => return,
        }
    }
}

/// One renewal, and what its answer asks for.
pub(super) async fn tick(boot: &Arc<Boot>, db: &Db, main: &Handle, mode: Reconcile) -> Result<()> {
    let lease = boot.settings().lease.as_secs_f64();
    let known = boot.local().known();
    let renewal = db.renew_replica(boot.replica_id(), lease, mode).await?;
    reconcile(boot, known, renewal, main);
    Ok(())
}

/// Compares what the database says with what was known here before it was asked, and acts on the differences.
fn reconcile(boot: &Arc<Boot>, known: Known, renewal: Renewal, main: &Handle) {
    if !renewal.live {
        warn!(replica_id = %boot.replica_id(), "the database declared this replica dead; ending every run");
        boot.local().order_all(Order::Fence);
        boot.declared_dead().cancel();
        return;
    }
    if let Some(runs) = renewal.runs {
        let listed: std::collections::HashSet<_> = runs.iter().map(|(owned, _)| owned.run_id()).collect();
        for run_id in known.live.into_iter().filter(|run_id| !listed.contains(run_id)) {
            if boot.local().order(run_id, Order::Fence) {
                warn!(%run_id, "the database does not list this run as ours; ending it");
            }
        }
        for (owned, cancel_requested) in runs {
            if cancel_requested {
                boot.local().order(owned.run_id(), Order::Cancel);
            }
            if !known.all.contains(&owned.run_id()) && !boot.local().has_known(owned.run_id()) {
                main.spawn(give_up::give_up(boot.clone(), owned));
            }
        }
    }
    for (job_id, run_id) in renewal.ending {
        main.spawn(give_up::end_taken(boot.clone(), job_id, run_id));
    }
}
