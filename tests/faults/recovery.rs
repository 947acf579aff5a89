//! How long what was killed keeps a run from going on: looked at ten times a second over a connection of its own.
//!
//! A run is orphaned while its row says that it runs and its owner is dead, from the owner's death on; or its shim is dead
//! and its owner is not. By the database's clock, which is told of each death.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_postgres::{Config, NoTls};

const INTERVAL: Duration = Duration::from_millis(100);

/// Running rows, with when their owner registered.
const RUNNING: &str = "
    select j.run_id::text, p.name, extract(epoch from p.started_at)::float8,
           extract(epoch from clock_timestamp())::float8
      from orch.jobs j join orch.replicas p using (replica_id)
     where j.status = 'running'";

/// Seconds since the epoch, as the database says.
type At = f64;

#[derive(Debug, Default)]
struct Book {
    replicas: Vec<(String, At)>,
    shims: HashMap<String, At>,
    /// How long each run was seen orphaned by one death, in seconds.
    orphaned: HashMap<(String, u64), f64>,
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

    /// The replica of this node has been killed, at this time.
    pub(crate) fn replica_died(&self, node: &str, at: At) {
        lock(&self.book).replicas.push((node.to_owned(), at));
    }

    /// The shim of this run has been killed, at this time.
    pub(crate) fn shim_died(&self, run_id: &str, at: At) {
        lock(&self.book).shims.entry(run_id.to_owned()).or_insert(at);
    }

    /// How long each orphaned run was one, the shortest first.
    pub(crate) fn took(&self) -> Vec<Duration> {
        let mut took: Vec<f64> = lock(&self.book).orphaned.values().copied().collect();
        took.sort_by(f64::total_cmp);
        took.into_iter().map(Duration::from_secs_f64).collect()
    }
}

impl Drop for Recovery {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn watch(config: Config, book: Arc<Mutex<Book>>) {
    let (client, connection) = config.connect(NoTls).await.expect("a connection to the test database");
    tokio::spawn(connection);
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let rows = client.query(RUNNING, &[]).await.expect("the running rows");
        let mut book = lock(&book);
        for row in rows {
            let (run, node, registered, now): (String, String, At, At) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            // Whoever registered before a death of its node is dead.
            let deaths = book.replicas.iter().filter(|(name, at)| *name == node && *at > registered && *at <= now);
            let of_owner = deaths.map(|(_, at)| *at).reduce(f64::min);
            let Some(death) = of_owner.or_else(|| book.shims.get(&run).copied().filter(|at| *at <= now)) else {
                continue;
            };
            let longest = book.orphaned.entry((run, death.to_bits())).or_default();
            *longest = longest.max(now - death);
        }
    }
}
