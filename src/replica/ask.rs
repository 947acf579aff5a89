//! Asking for a renewal, so that neither a dead connection nor a slow one costs the lease: who has had no answer for 2H asks
//! once more on another connection, and goes on listening on the first.
//!
//! Owns the renewals under way. Which answer comes first does not matter: each deadline counts from before its own question,
//! and in the database a lease never moves backwards.

use std::{collections::VecDeque, sync::Arc, task::Poll, time::Duration};

use futures_util::{
    FutureExt as _,
    future::{LocalBoxFuture, poll_fn},
};
use tokio::time::Instant;

use super::{Boot, local::Known};
use crate::{
    db::{
        Db, Result,
        replicas::{Reconcile, Renewal},
    },
    shim::client::boottime,
};

/// The most renewals under way, each on a connection of its own. For one more the oldest is given up.
pub const MOST: usize = 3;

/// What was asked, when, and what was known here before.
#[derive(Debug)]
pub(super) struct Asked {
    /// With the reconcile or without.
    pub mode: Reconcile,
    /// For the next heartbeat.
    pub begun: Instant,
    /// For the deadline: on the clock of the leases.
    pub at: Duration,
    /// For the reconcile, where there is one.
    pub known: Option<Known>,
}

impl Asked {
    /// The clock first, then what is known: both before anything is sent.
    pub(super) fn now(boot: &Boot, mode: Reconcile) -> Self {
        let at = boottime();
        let known = (mode == Reconcile::Full).then(|| boot.local().known());
        Self { mode, begun: Instant::now(), at, known }
    }
}

/// The renewals under way, the oldest first; at the most one of them with the reconcile.
pub(super) struct Asking {
    boot: Arc<Boot>,
    db: Db,
    under_way: VecDeque<LocalBoxFuture<'static, (Asked, Result<Renewal>)>>,
}

impl Asking {
    /// With nothing under way.
    pub(super) fn new(boot: Arc<Boot>, db: Db) -> Self {
        // What is answered later than that is of no use to anybody.
        let db = db.answering_within(boot.settings().lease);
        Self { boot, db, under_way: VecDeque::new() }
    }

    /// Asks, beside what is under way.
    pub(super) fn begin(&mut self, mode: Reconcile) {
        if self.under_way.len() >= MOST {
            self.under_way.pop_front();
        }
        let asked = Asked::now(&self.boot, mode);
        let (db, replica_id, lease) = (self.db.clone(), self.boot.replica_id(), self.boot.settings().lease);
        let answer = async move {
            let answer = db.renew_replica(replica_id, lease.as_secs_f64(), mode).await;
            (asked, answer)
        };
        self.under_way.push_back(answer.boxed_local());
    }

    /// Waits for the next answer to anything that is under way.
    pub(super) async fn answer(&mut self) -> (Asked, Result<Renewal>) {
        poll_fn(|context| {
            for place in 0..self.under_way.len() {
                if let Poll::Ready(answer) = self.under_way[place].poll_unpin(context) {
                    // Done with: it is not polled again.
                    drop(self.under_way.remove(place));
                    return Poll::Ready(answer);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Gives up what is under way; its connections are closed.
    pub(super) fn give_up(&mut self) {
        self.under_way.clear();
    }
}
