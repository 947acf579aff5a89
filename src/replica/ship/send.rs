//! The one task that writes logs to the database: the chunks of many runs in one statement.
//!
//! Owns the bound on memory (so many chunks are in flight in all) and on bytes a second of the whole replica. Never drops a
//! chunk: while the database is away whoever reads the next chunk waits, and the spools keep head and tail.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    db::{Db, logs::Chunk},
    model::RunId,
    replica::outage::Outage,
};

/// The most bytes of a chunk that is shipped.
pub(super) const PIECE: usize = 128 * 1024;

/// The most chunks in flight: 8 MiB, whatever the number of runs.
const ROOM: usize = 64;

/// The most chunks of one statement: 2 MiB, which a server takes within the time of an answer on any network.
const BATCH: usize = 16;

/// Bytes a second of the whole replica, over all runs: what a database takes beside its work.
const RATE: f64 = 16.0 * 1024.0 * 1024.0;

/// A chunk on its way.
#[derive(Debug)]
pub(in crate::replica) struct Request {
    run_id: RunId,
    chunk: Chunk,
    /// What is deleted first, so that the log stays within its bound: from, and up to before.
    trim: Option<(u64, u64)>,
    /// Whether the database knows the run.
    answer: oneshot::Sender<bool>,
    room: OwnedSemaphorePermit,
}

/// Room for one chunk, taken before it is read.
#[derive(Debug)]
pub(super) struct Room(OwnedSemaphorePermit);

/// Where chunks are handed in.
#[derive(Debug)]
pub(super) struct Sender {
    requests: mpsc::Sender<Request>,
    room: Arc<Semaphore>,
}

/// The replica is about to end: nobody ships any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the replica ends")]
pub(super) struct Closed;

/// The two ends.
pub(super) fn channel() -> (Sender, mpsc::Receiver<Request>) {
    let (requests, receiver) = mpsc::channel(ROOM);
    (Sender { requests, room: Arc::new(Semaphore::new(ROOM)) }, receiver)
}

impl Sender {
    /// Waits until there is room for one more chunk.
    pub(super) async fn room(&self) -> Result<Room, Closed> {
        self.room.clone().acquire_owned().await.map(Room).map_err(|_| Closed)
    }

    /// Whether nobody stores chunks any more.
    pub(super) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Stores a chunk, however long it takes. Whether the database knows the run; if not, nothing was stored.
    pub(super) async fn send(
        &self,
        run_id: RunId,
        chunk: Chunk,
        trim: Option<(u64, u64)>,
        room: Room,
    ) -> Result<bool, Closed> {
        let (answer, answered) = oneshot::channel();
        let request = Request { run_id, chunk, trim, answer, room: room.0 };
        self.requests.send(request).await.map_err(|_| Closed)?;
        answered.await.map_err(|_| Closed)
    }
}

/// Stores what is handed in until nobody can hand in any more.
pub(in crate::replica) async fn run(db: Db, mut requests: mpsc::Receiver<Request>) -> &'static str {
    let mut outage = Outage::new("ship logs; they wait in the state directory", Duration::from_secs(5));
    let mut free_at = Instant::now();
    let mut batch = Vec::with_capacity(BATCH);
    while requests.recv_many(&mut batch, BATCH).await > 0 {
        sleep_until(free_at).await;
        let mut chunks = Vec::with_capacity(batch.len());
        let mut waiters = Vec::with_capacity(batch.len());
        let mut trims = Vec::new();
        for Request { run_id, chunk, trim, answer, room } in batch.drain(..) {
            chunks.push((run_id, chunk));
            waiters.push((run_id, answer, room));
            trims.extend(trim.map(|(tail, keep)| (run_id, tail, keep)));
        }
        let known = loop {
            match store(&db, &trims, &chunks).await {
                Ok(known) => break known,
                Err(error) => sleep(outage.failed(&error)).await,
            }
        };
        outage.worked();
        let bytes: usize = chunks.iter().map(|(_, chunk)| chunk.bytes.len()).sum();
        free_at = free_at.max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / RATE);
        for (run_id, answer, room) in waiters {
            // Whoever waited may be gone in a shutdown; the chunk is stored all the same.
            let _ = answer.send(known.contains(&run_id));
            drop(room);
        }
    }
    "logs"
}

/// All of it may be repeated: after an answer that was lost as well.
async fn store(db: &Db, trims: &[(RunId, u64, u64)], chunks: &[(RunId, Chunk)]) -> crate::db::Result<HashSet<RunId>> {
    for (run_id, tail, keep) in trims {
        db.trim_log(*run_id, *tail, *keep).await?;
    }
    Ok(db.ship_logs(chunks).await?.into_iter().collect())
}
