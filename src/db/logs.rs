//! The output of runs as every machine reads it: `orch.run_logs`.
//!
//! Owns the shape of a log in the database: chunks by position, and what was dropped as the gaps between them. Knows no
//! files: what is shipped, and when, is `replica::ship`'s.

use super::{Db, Result, Statement, statement};
use crate::model::RunId;

const SHIP: Statement = statement!("logs/ship", [UUID_ARRAY, INT8_ARRAY, BYTEA_ARRAY]);
const TRIM: Statement = statement!("logs/trim", [UUID, INT8, INT8]);
const STAND: Statement = statement!("logs/stand", [UUID, INT8]);
const READ: Statement = statement!("logs/read", [UUID, INT8, INT8]);
const EXTENT: Statement = statement!("logs/extent", [UUID]);

pub(super) const STATEMENTS: &[&Statement] = &[&SHIP, &TRIM, &STAND, &READ, &EXTENT];

/// The most bytes of a chunk; a constraint says so too.
pub const CHUNK_MAX: usize = 256 * 1024;

/// A part of a run's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins in the whole output, in bytes.
    pub position: u64,
    /// The output. None: what lies before was dropped, and the output ends here.
    pub bytes: Vec<u8>,
}

/// A stretch of a log that was shipped: the chunks that begin in one part of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shipped {
    /// Where the first chunk begins, in bytes.
    pub first: u64,
    /// Where the last one ends.
    pub last: u64,
    /// Bytes of all, which is less than the distance where some were dropped.
    pub bytes: u64,
}

/// What is known of the length of a run's output.
#[derive(Debug, Clone, PartialEq)]
pub struct Extent {
    /// Whether its program was started.
    pub began: bool,
    /// Seconds since it ended; none while it goes on.
    pub ended_seconds: Option<f64>,
    /// Where it ran.
    pub host: Option<String>,
    /// Bytes that its spool kept and dropped; none where its shim did not live to tell.
    pub bytes: Option<(u64, u64)>,
}

impl Db {
    /// Stores the next chunk of each of these runs, at most one of each, and returns the runs that the database knows:
    /// nothing is stored of another. May be repeated.
    pub async fn ship_logs(&self, chunks: &[(RunId, Chunk)]) -> Result<Vec<RunId>> {
        let run_ids: Vec<_> = chunks.iter().map(|(run_id, _)| run_id.0).collect();
        let positions: Vec<i64> = chunks.iter().map(|(_, chunk)| signed(chunk.position)).collect();
        let bytes: Vec<&[u8]> = chunks.iter().map(|(_, chunk)| chunk.bytes.as_slice()).collect();
        let rows = self.query(&SHIP, &[&run_ids, &positions, &bytes]).await?;
        rows.iter().map(|row| Ok(RunId(row.try_get("run_id")?))).collect()
    }

    /// Deletes what begins from `tail` on and before `keep`.
    pub async fn trim_log(&self, run_id: RunId, tail: u64, keep: u64) -> Result<()> {
        self.query(&TRIM, &[&run_id.0, &signed(tail), &signed(keep)]).await.map(drop)
    }

    /// What the database has of a run's log, in order, by parts of `part` bytes of the output.
    pub async fn shipped_log(&self, run_id: RunId, part: u64) -> Result<Vec<Shipped>> {
        let rows = self.query(&STAND, &[&run_id.0, &signed(part)]).await?;
        rows.iter()
            .map(|row| {
                Ok(Shipped {
                    first: unsigned(row.try_get("first")?),
                    last: unsigned(row.try_get("last")?),
                    bytes: unsigned(row.try_get("bytes")?),
                })
            })
            .collect()
    }

    /// At most `limit` chunks of a run's log that begin at `position` or later, in order.
    pub async fn read_log(&self, run_id: RunId, position: u64, limit: i64) -> Result<Vec<Chunk>> {
        let rows = self.query(&READ, &[&run_id.0, &signed(position), &limit]).await?;
        rows.iter()
            .map(|row| Ok(Chunk { position: unsigned(row.try_get("position")?), bytes: row.try_get("bytes")? }))
            .collect()
    }

    /// How long a run's output is, as far as that is known; none where there is no such run.
    pub async fn log_extent(&self, run_id: RunId) -> Result<Option<Extent>> {
        let Some(row) = self.query_opt(&EXTENT, &[&run_id.0]).await? else { return Ok(None) };
        let kept: Option<i64> = row.try_get("log_bytes_kept")?;
        let dropped: Option<i64> = row.try_get("log_bytes_dropped")?;
        Ok(Some(Extent {
            began: row.try_get("began")?,
            ended_seconds: row.try_get("ended_seconds")?,
            host: row.try_get("host")?,
            bytes: kept.zip(dropped).map(|(kept, dropped)| (unsigned(kept), unsigned(dropped))),
        }))
    }
}

/// A position as the database has it. No run writes 8 EiB.
fn signed(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// A constraint keeps it from being negative.
fn unsigned(position: i64) -> u64 {
    u64::try_from(position).unwrap_or(0)
}
