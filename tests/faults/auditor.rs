//! The auditor: the invariants as one plain query, asked every 200 ms over a connection of its own while a fault runs.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;
use tokio_postgres::{Config, NoTls};

const VIOLATIONS: &str = include_str!("violations.sql");
const INTERVAL: Duration = Duration::from_millis(200);

/// How long a row that a test itself made impossible may be seen: one tick, and what a loaded machine adds to it.
const EXEMPT_FOR: Duration = Duration::from_millis(2500);

/// One row of the query.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    /// Which invariant.
    pub(crate) invariant: String,
    /// Which row breaks it.
    pub(crate) what: String,
}

#[derive(Debug, Default)]
struct Book {
    found: Vec<String>,
    polls: u64,
    exempt: Vec<(String, Instant)>,
}

/// A running auditor.
#[derive(Debug)]
pub(crate) struct Auditor {
    book: Arc<Mutex<Book>>,
    task: JoinHandle<()>,
}

impl Auditor {
    /// Starts to ask.
    pub(crate) fn start(config: Config) -> Self {
        let book = Arc::new(Mutex::new(Book::default()));
        let task = tokio::spawn(watch(config, Arc::clone(&book)));
        Self { book, task }
    }

    /// Says that the test is about to make this row impossible: a violation with this `what` may be seen for one tick.
    pub(crate) fn exempt(&self, what: &str) {
        lock(&self.book).exempt.push((what.to_owned(), Instant::now() + EXEMPT_FOR));
    }

    /// As [`Auditor::exempt`], until [`Auditor::exempt`] is called or the case ends: nobody is there to repair the row.
    pub(crate) fn exempt_until_repaired(&self, what: &str) {
        lock(&self.book).exempt.push((what.to_owned(), Instant::now() + Duration::from_hours(1)));
    }

    /// The repair begins now: one tick from here.
    pub(crate) fn repair_begins(&self) {
        for (_, until) in &mut lock(&self.book).exempt {
            *until = (*until).min(Instant::now() + EXEMPT_FOR);
        }
    }

    /// How often it has looked.
    pub(crate) fn looks(&self) -> u64 {
        lock(&self.book).polls
    }

    /// What was seen so far that must not be.
    pub(crate) fn seen(&self) -> Vec<String> {
        lock(&self.book).found.clone()
    }

    /// Stops, and says what was seen that must not be. It must have looked at least once.
    pub(crate) fn stop(&self) -> Vec<String> {
        self.task.abort();
        let book = lock(&self.book);
        assert!(book.polls > 0, "the auditor never looked");
        book.found.clone()
    }
}

impl Drop for Auditor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks once.
pub(crate) async fn violations(client: &tokio_postgres::Client) -> Result<Vec<Violation>, tokio_postgres::Error> {
    let rows = client.query(VIOLATIONS, &[]).await?;
    Ok(rows.iter().map(|row| Violation { invariant: row.get("invariant"), what: row.get("what") }).collect())
}

async fn watch(config: Config, book: Arc<Mutex<Book>>) {
    let start = Instant::now();
    let mut connected = None;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if connected.is_none() {
            // A fault may take the database away; the auditor is back as soon as it is.
            let Ok((client, connection)) = config.connect(NoTls).await else { continue };
            tokio::spawn(connection);
            connected = Some(client);
        }
        let Some(client) = &connected else { continue };
        let asked = Instant::now();
        match violations(client).await {
            Ok(found) => {
                let mut book = lock(&book);
                book.polls += 1;
                for violation in found {
                    let exempt = |(what, until): &(String, Instant)| *what == violation.what && Instant::now() < *until;
                    if !book.exempt.iter().any(exempt) {
                        book.found.push(format!("after {:?}: {violation:?}", start.elapsed()));
                    }
                }
            }
            Err(error) if error.as_db_error().is_some_and(|error| !error.code().code().starts_with("57")) => {
                lock(&book).found.push(format!("the auditor cannot ask: {error:?}"));
            }
            Err(_) => connected = None,
        }
        // In a run of hours the tables grow: it takes a fifth of a processor at most.
        tokio::time::sleep((asked.elapsed() * 4).saturating_sub(INTERVAL)).await;
    }
}
