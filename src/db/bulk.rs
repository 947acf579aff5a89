//! Bulk: many jobs in one transaction, on a connection of its own, taken out of the pool for good.
//!
//! Owns that transaction: it is committed by [`Bulk::commit`] and by nothing else; dropped, or with its process gone, it
//! has enqueued nothing. Holds no jobs: a piece is sent and forgotten.

use std::time::Duration;

use deadpool::managed::Object;
use jiff::Timestamp;

use super::{Db, Error, Params, Result, Row, Statement, session::Session, statement};
use crate::model::JobId;

const ENQUEUE: Statement = statement!("bulk/enqueue", [TEXT]);
const UNREADABLE: Statement = statement!("bulk/unreadable", [TEXT]);
const INSTANT: Statement = statement!("bulk/instant", [FLOAT8]);

pub(super) const STATEMENTS: &[&Statement] = &[&ENQUEUE, &UNREADABLE, &INSTANT];

/// An open transaction that jobs are enqueued in.
#[derive(Debug)]
pub struct Bulk {
    session: Session,
    prepared: bool,
}

/// Why a piece was not enqueued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// One of its wishes is no job.
    Fault(Fault),
    /// The server cannot hold what it says, in the server's words: [`Bulk::find_unreadable`] says where.
    Unreadable(String),
}

/// The first wish of a piece that cannot be enqueued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which, from 0 on.
    pub place: usize,
    /// The SQLSTATE, as `orch.enqueue` would raise it.
    pub code: String,
    /// In words, but for the twin.
    pub complaint: String,
    /// The wish of this bulk that has its dedupe key.
    pub twin: Option<Twin>,
}

/// A wish of the bulk, whose job nobody else has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Twin {
    /// One of the same piece, from 0 on.
    Wish(usize),
    /// One of a piece before, by the number that it was to get.
    Job(JobId),
}

impl Db {
    /// Begins a bulk.
    pub async fn begin_bulk(&self) -> Result<Bulk> {
        let session = Object::take(self.pool.get().await?);
        session.client.batch_execute("begin").await?;
        Ok(Bulk { session, prepared: self.prepared })
    }
}

impl Bulk {
    /// Enqueues a piece: a JSON array of objects whose keys are the parameters of `orch.enqueue`. Its numbers in order, or
    /// why not: then nothing of it is enqueued, and the bulk is not to be committed.
    ///
    /// There is no bound: another transaction may have one of the dedupe keys in its hands for long.
    pub async fn enqueue(&self, wishes: &str) -> Result<Result<Vec<JobId>, Refusal>> {
        let rows = self.query(&ENQUEUE, &[&wishes]).await?;
        let row = rows.first().ok_or_else(no_row)?;
        let Some(code) = row.try_get("code")? else {
            let ids: Vec<i64> = row.try_get("ids")?;
            return Ok(Ok(ids.into_iter().map(JobId).collect()));
        };
        let complaint = row.try_get("complaint")?;
        let place = |name| -> Result<Option<usize>> {
            Ok(row.try_get::<_, Option<i64>>(name)?.map(|place| place.max(1) as usize - 1))
        };
        let Some(at) = place("place")? else { return Ok(Err(Refusal::Unreadable(complaint))) };
        let job = row.try_get::<_, Option<i64>>("twin_job")?.map(|id| Twin::Job(JobId(id)));
        let twin = place("twin")?.map(Twin::Wish).or(job);
        Ok(Err(Refusal::Fault(Fault { place: at, code, complaint, twin })))
    }

    /// The first of these texts that the server cannot read as jsonb, with its word on it.
    pub async fn find_unreadable(&self, texts: &[&str]) -> Result<Option<(usize, String)>> {
        for (place, text) in texts.iter().enumerate() {
            let rows = self.query(&UNREADABLE, &[text]).await?;
            if let Some(complaint) = rows.first().ok_or_else(no_row)?.try_get("complaint")? {
                return Ok(Some((place, complaint)));
            }
        }
        Ok(None)
    }

    /// The instant so far from now, by the database's clock.
    pub async fn instant_in(&self, span: Duration) -> Result<Timestamp> {
        Ok(self.query(&INSTANT, &[&span.as_secs_f64()]).await?.first().ok_or_else(no_row)?.try_get("instant")?)
    }

    /// Makes all of it true at once.
    pub async fn commit(self) -> Result<()> {
        Ok(self.session.client.batch_execute("commit").await?)
    }

    async fn query(&self, statement: &Statement, params: Params<'_>) -> Result<Vec<Row>> {
        Ok(self.session.query(statement, params, self.prepared).await?)
    }
}

fn no_row() -> Error {
    Error::Server { code: "?????".to_owned(), message: "a bulk was answered without a row".to_owned() }
}
