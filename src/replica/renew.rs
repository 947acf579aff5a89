//! The renewal: every heartbeat, on a thread, a runtime and a connection of its own, so that nothing else that this
//! process does can make a lease run out. In the same statement the database says which runs it knows as ours.
//!
//! Owns the boot's lease file. The clock is read before a renewal is sent, and the deadline that follows from it is
//! written only once the answer is there: what a run reads is never later than what the database granted.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant as Moment},
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{
    Boot,
    ask::{Asked, Asking},
    give_up,
    local::{Known, Order},
    outage::Outage,
};
use crate::{
    db::{
        Db, Result,
        replicas::{Reconcile, Renewal},
    },
    shim::client::LeaseFile,
};

/// Asks for one last, longer lease; answered with whether the database granted it.
type Handover = (Duration, oneshot::Sender<bool>);

/// The renewal thread of one boot.
#[derive(Debug)]
pub(super) struct Renewals {
    stop: CancellationToken,
    handovers: mpsc::Sender<Handover>,
}

impl Renewals {
    /// Renews no more.
    pub(super) fn stop(self) {
        self.stop.cancel();
    }

    /// Renews once more, for `lease`, and then no more: the runs live by that until a successor has adopted them. Whether
    /// it was granted; otherwise the lease before it stands.
    pub(super) async fn hand_over(self, lease: Duration) -> bool {
        let (answer, answered) = oneshot::channel();
        self.handovers.send((lease, answer)).await.is_ok() && answered.await.unwrap_or(false)
    }
}

impl Drop for Renewals {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Starts the thread. What the answers ask for is done on the caller's runtime, never on the thread.
pub(super) fn spawn(boot: &Arc<Boot>, db: Db, lease: LeaseFile) -> io::Result<Renewals> {
    let stop = CancellationToken::new();
    let (handovers, asked) = mpsc::channel(1);
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
        runtime.block_on(Renewing { boot, db, main, lease }.run(&stopped, asked));
    })?;
    Ok(Renewals { stop, handovers })
}

struct Renewing {
    boot: Arc<Boot>,
    db: Db,
    main: Handle,
    lease: LeaseFile,
}

impl Renewing {
    async fn run(mut self, stopped: &CancellationToken, mut handovers: mpsc::Receiver<Handover>) {
        let heartbeat = self.boot.settings().heartbeat;
        let longest = self.longest_pause();
        let mut outage = Outage::new("renew the lease", longest);
        let mut reconciling = Outage::new("compare the live runs with the database", longest);
        let mut mode = Reconcile::Full;
        let mut asking = Asking::new(self.boot.clone(), self.db.clone());
        let mut next = Instant::now();
        loop {
            tokio::select! {
                (asked, answer) = asking.answer() => match answer {
                    Ok(renewal) => {
                        let mut is_back = outage.worked();
                        if asked.mode == Reconcile::Full {
                            is_back |= reconciling.worked();
                        }
                        mode = Reconcile::Full;
                        next = asked.begun + heartbeat;
                        // What is still under way was asked because this took so long, or is on a connection that is dead.
                        asking.give_up();
                        self.apply(asked, renewal, self.boot.settings().lease);
                        if is_back {
                            self.boot.nudge_all();
                        }
                    }
                    // Perhaps only `jobs` is locked, by a migration: the row alone can be renewed all the same.
                    Err(error) => {
                        let trouble = if asked.mode == Reconcile::Full { &mut reconciling } else { &mut outage };
                        mode = Reconcile::LeaseOnly;
                        next = next.min(Instant::now() + trouble.failed(&error));
                    }
                },
                () = sleep_until(next) => {
                    if let Some(stuck) = self.boot.pulses().stuck() {
                        // A replica that can neither claim nor reap must not keep others from its jobs.
                        error!("the {stuck} loop is stuck; not renewing the lease, so that others take over what runs here");
                        next = Instant::now() + heartbeat;
                        continue;
                    }
                    if !asking.is_idle() {
                        let trouble = if mode == Reconcile::Full { &mut reconciling } else { &mut outage };
                        trouble.failed(&"no answer for twice the heartbeat; asking again on another connection");
                        mode = Reconcile::LeaseOnly;
                    }
                    asking.begin(mode);
                    next = Instant::now() + heartbeat * 2;
                }
                () = self.boot.renew_nudge.notified(), if asking.is_idle() => next = Instant::now(),
                () = stopped.cancelled() => return,
                () = self.boot.declared_dead().cancelled() => return,
                Some((longer, answer)) = handovers.recv() => {
                    self.until_idle(&mut asking).await;
                    // Nobody may wait for the answer any more.
                    let _ = answer.send(self.hand_over(longer).await);
                    return;
                }
            }
        }
    }

    /// Waits for what is under way while it may come soon: its connection is the one to use next.
    async fn until_idle(&mut self, asking: &mut Asking) {
        if asking.is_idle() {
            return;
        }
        if let Ok((asked, Ok(renewal))) = timeout(self.boot.settings().heartbeat * 2, asking.answer()).await {
            self.apply(asked, renewal, self.boot.settings().lease);
        }
        asking.give_up();
    }

    /// Between two tries while the database is away. It comes off what runs may live through (L - K - H), so it is short.
    fn longest_pause(&self) -> Duration {
        (self.boot.settings().heartbeat / 8).min(Duration::from_millis(500))
    }

    /// What an answer grants and asks for.
    fn apply(&mut self, asked: Asked, renewal: Renewal, lease: Duration) {
        if renewal.live {
            self.write(asked.at + lease);
            self.boot.tell_renewed();
        }
        reconcile(&self.boot, asked.known, renewal, &self.main);
    }

    /// One renewal without the reconcile, answered within 2H.
    async fn renew_once(&mut self, lease: Duration) -> Result<()> {
        let mode = Reconcile::LeaseOnly;
        let asked = Asked::now(&self.boot, mode);
        let renewal = self.db.renew_replica(self.boot.replica_id(), lease.as_secs_f64(), mode).await?;
        self.apply(asked, renewal, lease);
        Ok(())
    }

    /// The last renewal of a planned stop: tried again while the present lease is long.
    async fn hand_over(&mut self, lease: Duration) -> bool {
        let patience = self.boot.settings().heartbeat * 4;
        let begun = Moment::now();
        let mut outage = Outage::new("renew the lease for the handover", self.longest_pause());
        loop {
            match self.renew_once(lease).await {
                Ok(()) => return !self.boot.declared_dead().is_cancelled(),
                Err(error) => tokio::time::sleep(outage.failed(&error)).await,
            }
            if begun.elapsed() > patience {
                return false;
            }
        }
    }

    fn write(&mut self, deadline: Duration) {
        match self.lease.extend(deadline) {
            Ok(()) => self.boot.set_deadline(self.lease.deadline()),
            Err(error) => {
                error!(%error, "failed to write the lease file; the runs here end before the lease that they know");
            }
        }
    }
}

/// Compares what the database says with what was known here before it was asked, and acts on the differences.
fn reconcile(boot: &Arc<Boot>, known: Option<Known>, renewal: Renewal, main: &Handle) {
    if !renewal.live {
        warn!(replica_id = %boot.replica_id(), "the database declared this replica dead; ending every run");
        boot.local().order_all(Order::Dead);
        boot.declared_dead().cancel();
        return;
    }
    boot.set_draining(renewal.draining);
    if let (Some(runs), Some(known)) = (renewal.runs, known) {
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
                let orders = boot.local().begin(owned.run_id(), owned.job_id());
                main.spawn(give_up::take_up(boot.clone(), owned, orders));
            }
        }
    }
    for (job_id, run_id) in renewal.ending {
        main.spawn(give_up::end_taken(boot.clone(), job_id, run_id));
    }
}
