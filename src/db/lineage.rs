//! Which servers a replica believes: asked of every new connection and told by every renewal.
//!
//! Owns what this process has seen. The decision is `model::lineage`'s.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::{Client, Row};

use super::{Error, Result, Statement, identity, statement};
use crate::model::Lineage;

const TIMELINE: Statement = statement!("lineage/timeline", []);

pub(super) const STATEMENTS: &[&Statement] = &[&TIMELINE];

/// What the servers that answered this process were, shared by its pools.
#[derive(Debug, Clone, Default)]
pub struct Witness(Arc<Mutex<Lineage>>);

impl Witness {
    /// Takes note of an answer, or says why it is not to be believed: as of a server that cannot be reached.
    pub(super) fn judge(&self, answer: Lineage) -> Result<()> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = seen.after(answer).map_err(|strayed| Error::Unavailable(strayed.to_string()))?;
        Ok(())
    }

    /// Whether a server of a later timeline has been seen since.
    pub(super) fn has_seen_later_than(&self, timeline: Option<u32>) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner).timeline;
        timeline.is_some() && timeline < seen
    }

    /// Asks a new connection. Returns the timeline that its server writes; none on a standby.
    pub(super) async fn admit(&self, client: &Client) -> Result<Option<u32>> {
        let row = one(client, &TIMELINE).await?;
        let timeline = timeline(&row)?;
        let system_identifier = if row.try_get("may_ask_system")? {
            Some(one(client, &identity::SYSTEM).await?.try_get("system_identifier")?)
        } else {
            None
        };
        self.judge(Lineage { system_identifier, timeline })?;
        Ok(timeline)
    }
}

/// Never prepared: a pooler below may not know how.
async fn one(client: &Client, statement: &Statement) -> Result<Row> {
    let rows = client.query_typed(statement.sql, &[]).await?;
    rows.into_iter().next().ok_or_else(|| Error::Unavailable(format!("no answer to {}", statement.name)))
}

/// The timeline of a row: the first eight digits of the name of a WAL file.
pub(super) fn timeline(row: &Row) -> Result<Option<u32>> {
    let digits: Option<&str> = row.try_get("timeline")?;
    Ok(digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()))
}
