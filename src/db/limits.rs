//! Limits, and the pauses that are closed limits: as operators see and set them.
//!
//! Owns the shape of a limit for people. What is used of one is counted by the database from the open runs; nothing here
//! counts, and nothing here takes part in a claim.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::{
    Db, Params, Result, Statement,
    jobs::{When, disagreement},
    statement,
};

const LIST: Statement = statement!("limits/list", []);
const SET: Statement = statement!("limits/set", [TEXT, INT4]);
const CLOSE: Statement = statement!("limits/close", [TEXT, TIMESTAMPTZ, FLOAT8, TEXT]);
const OPEN: Statement = statement!("limits/open", [TEXT]);
const DROP: Statement = statement!("limits/drop", [TEXT]);
const PAUSE: Statement = statement!("limits/pause", [TEXT, TIMESTAMPTZ, FLOAT8, TEXT]);
const RESUME: Statement = statement!("limits/resume", [TEXT]);

pub(super) const STATEMENTS: &[&Statement] = &[&LIST, &SET, &CLOSE, &OPEN, &DROP, &PAUSE, &RESUME];

/// Until when something is closed. In JSON an RFC 3339 time, or `infinity`, as SQL has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// This instant.
    At(Timestamp),
    /// Somebody opens it.
    Opened,
}

impl Until {
    /// `None` is a time that never comes.
    pub(super) fn from_sql(at: Option<Timestamp>) -> Self {
        at.map_or(Self::Opened, Self::At)
    }
}

impl Serialize for Until {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(at) => at.serialize(serializer),
            Self::Opened => serializer.serialize_str("infinity"),
        }
    }
}

/// A limit, and what is used of it.
#[derive(Debug, Clone, Serialize)]
pub struct Limit {
    /// As jobs and agents name it.
    pub name: String,
    /// How many jobs that need it run at the same time; none is any number.
    pub max_running: Option<i32>,
    /// How many do.
    pub running: i32,
    /// How many more may start now; none is any number, and never more than that.
    pub room: Option<i32>,
    /// Until when it is closed; none where it is open, or lets a probe through.
    pub closed_until: Option<Until>,
    /// It was closed, and one job tries whether it may be opened.
    pub probing: bool,
    /// Why it was closed.
    pub reason: Option<String>,
}

/// What became of a close or a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Closed {
    /// Until when it is closed.
    pub until: Until,
    /// Whether it was not so before.
    pub changed: bool,
}

impl Db {
    /// Every limit that has a row, by name.
    pub async fn list_limits(&self) -> Result<Vec<Limit>> {
        let rows = self.query(&LIST, &[]).await?;
        rows.iter()
            .map(|row| {
                let is_closed: bool = row.try_get("is_closed")?;
                Ok(Limit {
                    name: row.try_get("name")?,
                    max_running: row.try_get("max_running")?,
                    running: row.try_get("running")?,
                    room: row.try_get("room")?,
                    closed_until: if is_closed { Some(Until::from_sql(row.try_get("closed_until")?)) } else { None },
                    probing: row.try_get("probing")?,
                    reason: row.try_get("reason")?,
                })
            })
            .collect()
    }

    /// Makes a limit, or changes its bound. Whether anything changed.
    pub async fn set_limit(&self, name: &str, max_running: Option<i32>) -> Result<bool> {
        self.changed(&SET, &[&name, &max_running]).await
    }

    /// Lets no job start that needs the limit; `None` is until it is opened.
    pub async fn close_limit(&self, name: &str, until: Option<When>, reason: Option<&str>) -> Result<Closed> {
        self.close_until(&CLOSE, name, until, reason).await
    }

    /// Opens a closed limit at once. Whether it was closed.
    pub async fn open_limit(&self, name: &str) -> Result<bool> {
        self.changed(&OPEN, &[&name]).await
    }

    /// Removes a limit that nobody needs.
    pub async fn drop_limit(&self, name: &str) -> Result<bool> {
        self.changed(&DROP, &[&name]).await
    }

    /// Starts nothing more of `all`, `project:NAME` or `agent:NAME`; `None` is until it is resumed.
    pub async fn pause(&self, what: &str, until: Option<When>, reason: Option<&str>) -> Result<Closed> {
        self.close_until(&PAUSE, what, until, reason).await
    }

    /// Lets what was paused start again. Whether it was paused.
    pub async fn resume(&self, what: &str) -> Result<bool> {
        self.changed(&RESUME, &[&what]).await
    }

    async fn close_until(
        &self,
        statement: &Statement,
        name: &str,
        until: Option<When>,
        reason: Option<&str>,
    ) -> Result<Closed> {
        let (at, seconds) = When::split(until);
        let rows = self.query(statement, &[&name, &at, &seconds, &reason]).await?;
        let row = rows.first().ok_or_else(|| disagreement("changed", "no row came back"))?;
        Ok(Closed { until: Until::from_sql(row.try_get("until")?), changed: row.try_get("changed")? })
    }

    /// What a function answers that says whether anything changed.
    pub(super) async fn changed(&self, statement: &Statement, params: Params<'_>) -> Result<bool> {
        let rows = self.query(statement, params).await?;
        let row = rows.first().ok_or_else(|| disagreement("changed", "no row came back"))?;
        Ok(row.try_get("changed")?)
    }
}
