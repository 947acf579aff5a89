//! Projects: the tenants of the queue, their rules, and what each has in it.

use serde::Serialize;

use super::{Db, Result, Statement, limits::Until, statement};

const LIST: Statement = statement!("projects/list", []);
const SET: Statement = statement!("projects/set", [TEXT, INT4, BOOL]);

pub(super) const STATEMENTS: &[&Statement] = &[&LIST, &SET];

/// A project that has rules of its own, waits, runs, or is paused.
#[derive(Debug, Clone, Serialize)]
pub struct Project {
    /// As jobs name it.
    pub name: String,
    /// Its share of the slots, against the weights of the others.
    pub weight: i32,
    /// Whether its jobs run one at a time, where they name no gate of their own.
    pub serial: bool,
    /// Its queued jobs, whether due or not.
    pub queued: i64,
    /// Its held jobs.
    pub held: i64,
    /// Its open runs.
    pub running: i64,
    /// Until when it is paused; none where it is not.
    pub paused_until: Option<Until>,
    /// Why it is paused.
    pub reason: Option<String>,
}

impl Db {
    /// Every project that has rules, jobs that wait or run, or is paused, by name.
    pub async fn list_projects(&self) -> Result<Vec<Project>> {
        let rows = self.query(&LIST, &[]).await?;
        rows.iter()
            .map(|row| {
                let is_paused: bool = row.try_get("is_paused")?;
                Ok(Project {
                    name: row.try_get("name")?,
                    weight: row.try_get("weight")?,
                    serial: row.try_get("serial")?,
                    queued: row.try_get("queued")?,
                    held: row.try_get("held")?,
                    running: row.try_get("running")?,
                    paused_until: if is_paused { Some(Until::from_sql(row.try_get("paused_until")?)) } else { None },
                    reason: row.try_get("reason")?,
                })
            })
            .collect()
    }

    /// Gives a project rules of its own; `None` leaves one as it is. Whether anything changed.
    pub async fn set_project(&self, name: &str, weight: Option<i32>, serial: Option<bool>) -> Result<bool> {
        self.changed(&SET, &[&name, &weight, &serial]).await
    }
}
