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
const READABLE: Statement = statement!("bulk/readable", [TEXT]);
const INSTANT: Statement = statement!("bulk/instant", [FLOAT8]);

pub(super) const STATEMENTS: &[&Statement] = &[&ENQUEUE, &READABLE, &INSTANT];

/// An open transaction that jobs are enqueued in.
#[derive(Debug)]
pub struct Bulk {
    session: Session,
    prepared: bool,
}

/// Why a piece was not enqueued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which of the piece's wishes is the first bad one, from 0 on.
    pub place: usize,
    /// The SQLSTATE, as `orch.enqueue` would raise it.
    pub code: String,
    /// In words.
    pub complaint: String,
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
    /// the first fault; after that, and after an error, the bulk is of no more use. A [`Error::Data`] is the server's word
    /// on JSON that it cannot hold: [`Bulk::find_unreadable`] says where.
    ///
    /// There is no bound: another transaction may have one of the dedupe keys in its hands for long.
    pub async fn enqueue(&self, wishes: &str) -> Result<Result<Vec<JobId>, Fault>> {
        let rows = self.query(&ENQUEUE, &[&wishes]).await?;
        let row = rows.first().ok_or_else(no_row)?;
        let Some(code) = row.try_get("code")? else {
            let ids: Vec<i64> = row.try_get("ids")?;
            return Ok(Ok(ids.into_iter().map(JobId).collect()));
        };
        let place: i64 = row.try_get("place")?;
        Ok(Err(Fault { place: place.max(1) as usize - 1, code, complaint: row.try_get("complaint")? }))
    }

    /// The first of these texts that the server cannot read as jsonb, with its word on it. Ends the transaction: nothing
    /// of this bulk is enqueued any more.
    pub async fn find_unreadable(&self, texts: &[&str]) -> Result<Option<(usize, Error)>> {
        self.session.client.batch_execute("rollback").await?;
        for (place, text) in texts.iter().enumerate() {
            match self.query(&READABLE, &[text]).await {
                Err(error @ Error::Data { .. }) => return Ok(Some((place, error))),
                answer => drop(answer?),
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
