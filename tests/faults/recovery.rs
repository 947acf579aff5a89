//! How long a fault keeps a run from going on, and how long it may: looked at ten times a second over a connection of its
//! own.
//!
//! A run is orphaned while its row says that it runs and its owner is away: killed, frozen, or cut off from the database;
//! or its shim is dead and its owner is not away. From the moment from which no renewal of its owner can have reached the
//! database. It has recovered when it is settled or adopted, or its owner is back.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::task::JoinHandle;
use tokio_postgres::{Config, NoTls};

use crate::bound::{HANDOVER_LEASE, HEARTBEAT, LEASE, POLL, REAP_GRACE, TICK};

const INTERVAL: Duration = Duration::from_millis(100);

/// Running rows, with when their owner registered.
const RUNNING: &str = "
    select j.run_id::text, p.name, extract(epoch from p.started_at)::float8,
           extract(epoch from clock_timestamp())::float8
      from orch.jobs j join orch.replicas p using (replica_id)
     where j.status = 'running'";

/// Seconds since the epoch. The suite's servers are on this machine, so the database says the same.
pub(crate) type At = f64;

/// The time, also while the database is away.
pub(crate) fn now() -> At {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs_f64()
}

/// Somebody who renews nothing.
#[derive(Debug, Clone)]
struct Away {
    why: &'static str,
    node: String,
    from: At,
    /// From when a renewal cannot have come any more.
    counts_from: At,
    until: Option<At>,
    /// A planned stop's longer lease lasts until then.
    granted_until: At,
}

/// Which of those who were away, for [`Recovery::is_back`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Absence(usize);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Cause {
    Owner(Absence),
    Shim,
}

#[derive(Debug, Default)]
struct Book {
    away: Vec<Away>,
    /// When the shim of a run was killed, and until when its owner may have a longer lease.
    shims: HashMap<String, (At, At)>,
    /// Until when a planned stop's lease lasts.
    granted: HashMap<String, At>,
    outages: Vec<(At, At)>,
    /// When each run was last seen orphaned.
    orphaned: HashMap<(String, Cause), At>,
}

/// One orphaned run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recovered {
    /// What happened to its owner, or to its shim.
    pub(crate) why: &'static str,
    /// The run.
    pub(crate) run: String,
    /// How long it was seen orphaned.
    pub(crate) took: Duration,
    /// How long it may have been.
    pub(crate) bound: Duration,
}

/// A running measure.
#[derive(Debug)]
pub(crate) struct Recovery {
    book: Arc<Mutex<Book>>,
    task: JoinHandle<()>,
}

impl Recovery {
    /// Starts to look.
    pub(crate) fn start(config: Config) -> Self {
        let book = Arc::new(Mutex::new(Book::default()));
        let task = tokio::spawn(watch(config, Arc::clone(&book)));
        Self { book, task }
    }

    /// The replica of this node renews nothing from this time on.
    pub(crate) fn is_away(&self, why: &'static str, node: &str, at: At) -> Absence {
        let mut book = lock(&self.book);
        let granted_until = book.granted.get(node).copied().unwrap_or_default();
        book.away.push(Away { why, node: node.to_owned(), from: at, counts_from: at, until: None, granted_until });
        Absence(book.away.len() - 1)
    }

    /// The same process can renew again.
    pub(crate) fn is_back(&self, absence: Absence, at: At) {
        lock(&self.book).away[absence.0].until = Some(at);
    }

    /// Since this time renewals of this node were on their way, and may reach the database as late as this: who went away
    /// after it, and is not back, is so for the database only now.
    pub(crate) fn may_renew_late(&self, node: &str, since: At, at: At) {
        let mut book = lock(&self.book);
        let is_meant = |away: &&mut Away| away.node == node && away.from > since && away.until.is_none();
        for away in book.away.iter_mut().filter(is_meant) {
            away.counts_from = away.counts_from.max(at);
        }
    }

    /// The replica of this node has ended with the longer lease of a handover.
    pub(crate) fn handed_over(&self, node: &str, at: At) {
        lock(&self.book).granted.insert(node.to_owned(), at + HANDOVER_LEASE.as_secs_f64());
    }

    /// The shim of this run, of this node, has been killed.
    pub(crate) fn shim_died(&self, node: &str, run: &str, at: At) {
        let mut book = lock(&self.book);
        let granted = book.granted.get(node).copied().unwrap_or_default();
        book.shims.entry(run.to_owned()).or_insert((at, granted));
    }

    /// Nobody reached the database in this time.
    pub(crate) fn database_was_away(&self, from: At, to: At) {
        lock(&self.book).outages.push((from, to));
    }

    /// The orphaned runs, the shortest time first.
    pub(crate) fn all(&self) -> Vec<Recovered> {
        let book = lock(&self.book);
        let recovered = |((run, cause), last): (&(String, Cause), &At)| {
            let (why, from, granted) = match cause {
                Cause::Owner(absence) => {
                    let away = &book.away[absence.0];
                    (away.why, away.counts_from, away.granted_until)
                }
                Cause::Shim => ("shim killed", book.shims[run].0, book.shims[run].1),
            };
            let took = (last - from).max(0.0);
            let bound = deadline(from, granted, &book.outages) - from;
            let [took, bound] = [took, bound].map(Duration::from_secs_f64);
            Recovered { why, run: run.clone(), took, bound }
        };
        let mut all: Vec<Recovered> = book.orphaned.iter().map(recovered).collect();
        all.sort_by_key(|recovered| recovered.took);
        all
    }
}

impl Drop for Recovery {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// By when a run must have recovered whose owner could renew last at this time: lease, grace, tick and poll; longer by a
/// planned stop's lease, and by a time in which nobody reached the database, with the wait of the outage rule where it was
/// long enough for one.
pub(crate) fn deadline(from: At, granted_until: At, outages: &[(At, At)]) -> At {
    let [lease, heartbeat, grace, tick, poll] =
        [LEASE, HEARTBEAT, REAP_GRACE, TICK, POLL].map(|time| time.as_secs_f64());
    let mut deadline = (from + lease).max(granted_until) + grace + tick + poll;
    for (away, back) in outages {
        if *away < deadline && *back > from {
            // The last tick before it may have been a tick earlier, the first one after it may be a tick later.
            let is_long = back - away + 2.0 * tick > lease / 2.0;
            let wait = if is_long { tick + 3.0 * heartbeat + grace } else { 0.0 };
            deadline = deadline.max(back + wait + tick + poll);
        }
    }
    deadline
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn watch(config: Config, book: Arc<Mutex<Book>>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut connected = None;
    loop {
        ticks.tick().await;
        if connected.is_none() {
            // A fault may take the database away.
            let Ok((client, connection)) = config.connect(NoTls).await else { continue };
            tokio::spawn(connection);
            connected = Some(client);
        }
        let Some(client) = &connected else { continue };
        let Ok(rows) = client.query(RUNNING, &[]).await else {
            connected = None;
            continue;
        };
        let mut book = lock(&book);
        for row in rows {
            let (run, node, registered, now): (String, String, At, At) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            // Whoever registered before its node was away is the one that was.
            let is_its = |away: &Away| {
                away.node == node && registered < away.from && away.from <= now && away.until.is_none_or(|at| now < at)
            };
            let cause = match book.away.iter().position(is_its) {
                Some(place) => Cause::Owner(Absence(place)),
                None if book.shims.get(&run).is_some_and(|(at, _)| *at <= now) => Cause::Shim,
                None => continue,
            };
            book.orphaned.insert((run, cause), now);
        }
    }
}
