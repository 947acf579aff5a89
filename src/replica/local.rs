//! The runs that this process knows of: what the reconcile compares the database's answer with.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    model::{JobId, RunId},
    shim::protocol::Reason,
};

/// Why a live run is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Its job is to be cancelled.
    Cancel,
    /// The replica stops.
    Stop,
    /// The database does not grant it (any more): taken by an operator, or unknown there.
    Fence,
    /// The whole replica was declared dead: another may start the job at this moment, so there is no grace.
    Dead,
}

impl Order {
    /// As the shim is told.
    pub(super) const fn reason(self) -> Reason {
        match self {
            Self::Cancel => Reason::Cancel,
            Self::Stop => Reason::Stop,
            Self::Fence | Self::Dead => Reason::GivenUp,
        }
    }

    /// From TERM to KILL, where the replica's `kill_grace` is `grace`.
    pub(super) const fn grace(self, grace: Duration) -> Duration {
        match self {
            Self::Dead => Duration::ZERO,
            _ => grace,
        }
    }
}

/// The runs that this process knows of.
#[derive(Debug)]
pub(super) struct LocalRuns {
    inner: Mutex<Inner>,
    /// Live runs and claims under way.
    count: watch::Sender<usize>,
    /// Claims under way, and runs whose program is not known to run yet.
    beginning: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Sent in a claim whose reply has not been dealt with.
    claiming: HashSet<RunId>,
    runs: HashMap<RunId, Local>,
    /// Runs that ended since [`LocalRuns::known`] was asked last: an answer that was on its way may still list them.
    ended: HashSet<RunId>,
    /// Runs taken by an operator whose old process is being ended.
    taken: HashSet<RunId>,
    /// What every run is ordered, also one that begins later: the reply to a claim may be under way.
    standing: Option<Order>,
}

impl Inner {
    fn knows(&self, run_id: RunId) -> bool {
        self.claiming.contains(&run_id) || self.runs.contains_key(&run_id)
    }
}

#[derive(Debug)]
struct Local {
    job_id: JobId,
    order: watch::Sender<Option<Order>>,
    begun: bool,
    settling: bool,
}

impl Default for LocalRuns {
    fn default() -> Self {
        Self { inner: Mutex::default(), count: watch::Sender::new(0), beginning: watch::Sender::new(0) }
    }
}

/// What was known at one moment: taken before a renewal is sent, compared when its answer is there.
#[derive(Debug)]
pub(super) struct Known {
    /// Everything: claims under way, live and settling runs.
    pub(super) all: HashSet<RunId>,
    /// Live runs whose claim was acknowledged; the database must list them.
    pub(super) live: Vec<RunId>,
}

impl LocalRuns {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that holds this lock can panic half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, inner: &Inner) {
        self.count.send_replace(inner.claiming.len() + inner.runs.len());
        let beginning = inner.runs.values().filter(|local| !local.begun && !local.settling).count();
        self.beginning.send_replace(inner.claiming.len() + beginning);
    }

    /// A claim with these names is about to be sent.
    pub(super) fn claiming(&self, run_ids: &[RunId]) {
        let mut inner = self.lock();
        inner.claiming.extend(run_ids);
        self.publish(&inner);
    }

    /// A claimed run begins to be looked after. Returns where its orders come from.
    pub(super) fn begin(&self, run_id: RunId, job_id: JobId) -> watch::Receiver<Option<Order>> {
        let mut inner = self.lock();
        let (order, orders) = watch::channel(inner.standing);
        inner.runs.insert(run_id, Local { job_id, order, begun: false, settling: false });
        self.publish(&inner);
        orders
    }

    /// The claim's reply has been dealt with, or will never come: names that did not begin are forgotten, and if the
    /// database did open their runs, the next renewal says so.
    pub(super) fn claimed(&self, run_ids: &[RunId]) {
        let mut inner = self.lock();
        for run_id in run_ids {
            inner.claiming.remove(run_id);
        }
        self.publish(&inner);
    }

    /// The run's program is known to run, or never to.
    pub(super) fn begun(&self, run_id: RunId) {
        let mut inner = self.lock();
        if let Some(local) = inner.runs.get_mut(&run_id) {
            local.begun = true;
        }
        self.publish(&inner);
    }

    /// The run has ended and is about to be settled: the database need not list it any more.
    pub(super) fn settling(&self, run_id: RunId) {
        let mut inner = self.lock();
        if let Some(local) = inner.runs.get_mut(&run_id) {
            local.settling = true;
        }
        self.publish(&inner);
    }

    /// The run is over and answered for.
    pub(super) fn end(&self, run_id: RunId) {
        let mut inner = self.lock();
        inner.runs.remove(&run_id);
        inner.ended.insert(run_id);
        self.publish(&inner);
    }

    /// A run that an operator took is about to be ended. False: that is being done already.
    pub(super) fn begin_taking(&self, run_id: RunId) -> bool {
        self.lock().taken.insert(run_id)
    }

    /// What an operator took has been ended.
    pub(super) fn end_taking(&self, run_id: RunId) {
        self.lock().taken.remove(&run_id);
    }

    /// What is known now. For one asker, who compares it with an answer that he asks for next.
    pub(super) fn known(&self) -> Known {
        let mut inner = self.lock();
        inner.ended.clear();
        Known {
            all: inner.claiming.iter().chain(inner.runs.keys()).copied().collect(),
            live: inner.runs.iter().filter(|(_, local)| !local.settling).map(|(run_id, _)| *run_id).collect(),
        }
    }

    /// Whether this run is known, be it as a claim under way.
    pub(super) fn knows(&self, run_id: RunId) -> bool {
        self.lock().knows(run_id)
    }

    /// Whether this run has been known at any time since [`LocalRuns::known`] was asked last: it may have begun and ended
    /// while the answer was on its way.
    pub(super) fn has_known(&self, run_id: RunId) -> bool {
        let inner = self.lock();
        inner.knows(run_id) || inner.ended.contains(&run_id)
    }

    /// Whether this run is live and not being settled.
    pub(super) fn is_live(&self, run_id: RunId) -> bool {
        self.lock().runs.get(&run_id).is_some_and(|local| !local.settling)
    }

    /// Orders a run to end; the first order stands, but for the one without grace. Whether there was a run to order, not
    /// settling yet.
    pub(super) fn order(&self, run_id: RunId, order: Order) -> bool {
        let inner = self.lock();
        let Some(local) = inner.runs.get(&run_id).filter(|local| !local.settling) else { return false };
        local.order.send_if_modified(|current| {
            let counts = current.is_none() || (order == Order::Dead && *current != Some(order));
            if counts {
                *current = Some(order);
                tracing::debug!(%run_id, job_id = %local.job_id, ?order, "ordered to end");
            }
            counts
        });
        true
    }

    /// Orders every run to end, also those that begin from now on.
    pub(super) fn order_all(&self, order: Order) {
        let live: Vec<RunId> = {
            let mut inner = self.lock();
            inner.standing.get_or_insert(order);
            inner.runs.keys().copied().collect()
        };
        for run_id in live {
            self.order(run_id, order);
        }
    }

    /// How many runs are live and not being settled.
    pub(super) fn live(&self) -> usize {
        self.lock().runs.values().filter(|local| !local.settling).count()
    }

    /// Waits until no settle is under way.
    pub(super) async fn settled(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let mut changes = self.count.subscribe();
        while self.lock().runs.values().any(|local| local.settling) && changes.changed().await.is_ok() {}
    }

    /// How many runs are known.
    pub(super) fn len(&self) -> usize {
        self.lock().runs.len()
    }

    /// Waits until every claim under way has been answered and every run has begun or will not.
    pub(super) async fn settled_in(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.beginning.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Waits until no run is left, and no claim that could bring one.
    pub(super) async fn empty(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}
