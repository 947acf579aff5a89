//! A schedule as people see it, and what they change of one.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use tokio_postgres::{
    Row,
    types::{Json, ToSql},
};

use super::{
    super::{
        Db, Result, Statement,
        jobs::{json, word, word_opt},
        statement,
    },
    CatchUp,
};
use crate::model::{
    JobId, JobStatus,
    schedule::{Answer, Overlap},
};

/// What both statements are told, in this order: [`Db::write_schedule`] says it.
macro_rules! written {
    ($name:literal $(, $more:ident)?) => {
        statement!($name, [
            TEXT, TEXT, FLOAT8, TIMESTAMPTZ, TEXT, TEXT, INT4, FLOAT8, TEXT, BOOL, TEXT, TEXT, TEXT, INT2, TEXT, TEXT_ARRAY,
            JSONB, JSONB, INT4, FLOAT8, TEXT, $($more)?
        ])
    };
}

pub(super) const ADD: Statement = written!("schedules/add");
pub(super) const SET: Statement = written!("schedules/set", TEXT_ARRAY);

/// A schedule, whole.
#[derive(Debug, Serialize)]
pub struct Schedule {
    /// What it is called.
    pub name: String,
    /// When it ticks, by clocks.
    pub cron: Option<String>,
    /// Or so long after one another.
    pub every_seconds: Option<f64>,
    /// Counted from here.
    pub anchor_at: Timestamp,
    /// Whose clocks.
    pub time_zone: String,
    /// What becomes of missed ticks.
    pub catch_up: CatchUp,
    /// How many of them fire.
    pub catch_up_max: i32,
    /// What is late by more was missed.
    pub grace_seconds: f64,
    /// What becomes of a tick while the job before is live.
    pub overlap: Overlap,
    /// Whether it does not tick.
    pub paused: bool,
    /// The next tick, once a replica has computed it; none where it is paused or never ticks again.
    pub next_tick_at: Option<Timestamp>,
    /// Whether the next tick has been computed.
    pub planned: bool,
    /// The latest tick that came to something.
    pub last_tick_at: Option<Timestamp>,
    /// To what.
    pub last_answer: Option<Answer>,
    /// The job that it enqueued last.
    pub last_job_id: Option<JobId>,
    /// Where that stands, while there is such a job.
    pub last_job_status: Option<JobStatus>,
    /// Ticks that were left out because of overlap.
    pub skipped: i64,
    /// Why it cannot be read, or why its last job was refused.
    pub error: Option<String>,
    /// What is to run.
    pub agent: String,
    /// With what; not in a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
    /// For whom.
    pub project: String,
    /// Higher first.
    pub priority: i32,
    /// Of jobs with one gate only one runs at a time.
    pub gate: Option<String>,
    /// Named limits.
    pub limits: Option<Vec<String>>,
    /// For people.
    pub labels: Option<Value>,
    /// Labels that its replica must have.
    pub require: Option<Value>,
    /// Counted failures after which a job is failed.
    pub max_attempts: Option<i32>,
    /// After how long a run is ended.
    pub timeout_seconds: Option<f64>,
    /// Where in the payload a job is told its tick.
    pub tick_key: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// For how long it has been due, if it is.
    pub overdue_seconds: Option<f64>,
}

/// Fields of a row that are columns as they are, and then those that are not.
macro_rules! read {
    ($row:ident: $($column:ident)*; $($field:ident: $value:expr),* $(,)?) => {
        Self { $($column: $row.try_get(stringify!($column))?,)* $($field: $value,)* }
    };
}

impl Schedule {
    pub(super) fn from_row(row: &Row) -> Result<Self> {
        Ok(read! { row:
            name cron every_seconds anchor_at time_zone catch_up_max grace_seconds paused next_tick_at planned last_tick_at
            skipped error agent project priority gate limits labels require max_attempts timeout_seconds tick_key created_at
            overdue_seconds;
            catch_up: word(row, "catch_up")?,
            overlap: word(row, "overlap")?,
            last_answer: word_opt(row, "last_answer")?,
            last_job_id: row.try_get::<_, Option<_>>("last_job_id")?.map(JobId),
            last_job_status: word_opt(row, "last_job_status")?,
            payload: json(row, "payload")?,
        })
    }
}

/// What is said of a schedule; what is not said is the default of a new one, and stays of one that is there.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// When it ticks, by clocks; takes the place of `every`.
    pub cron: Option<String>,
    /// Or so long after one another; takes the place of `cron`.
    pub every: Option<Duration>,
    /// Counted from here.
    pub anchor_at: Option<Timestamp>,
    /// Whose clocks.
    pub time_zone: Option<String>,
    /// What becomes of missed ticks.
    pub catch_up: Option<CatchUp>,
    /// How many of them fire.
    pub catch_up_max: Option<i32>,
    /// What is late by more was missed.
    pub grace: Option<Duration>,
    /// What becomes of a tick while the job before is live.
    pub overlap: Option<Overlap>,
    /// Whether it does not tick.
    pub paused: Option<bool>,
    /// What is to run.
    pub agent: Option<String>,
    /// With what: JSON text.
    pub payload: Option<String>,
    /// For whom.
    pub project: Option<String>,
    /// Higher first.
    pub priority: Option<i16>,
    /// Of jobs with one gate only one runs at a time.
    pub gate: Option<String>,
    /// Named limits.
    pub limits: Option<Vec<String>>,
    /// For people.
    pub labels: Option<BTreeMap<String, String>>,
    /// Labels that its replica must have.
    pub require: Option<BTreeMap<String, String>>,
    /// Counted failures after which a job is failed.
    pub max_attempts: Option<i32>,
    /// After how long a run is ended.
    pub timeout: Option<Duration>,
    /// Where in the payload a job is told its tick.
    pub tick_key: Option<String>,
    /// Which of `gate`, `limits`, `labels`, `require`, `max_attempts`, `timeout` and `tick_key` are taken away.
    pub clear: Vec<String>,
}

impl Db {
    /// Adds a schedule. `false`: there is one of this name.
    pub async fn add_schedule(&self, name: &str, new: &Change) -> Result<bool> {
        self.write_schedule(&ADD, name, new).await
    }

    /// Changes a schedule. `false`: there is none of this name.
    pub async fn set_schedule(&self, name: &str, change: &Change) -> Result<bool> {
        self.write_schedule(&SET, name, change).await
    }

    async fn write_schedule(&self, statement: &Statement, name: &str, change: &Change) -> Result<bool> {
        let [every, grace, timeout] =
            [change.every, change.grace, change.timeout].map(|span| span.map(|span| span.as_secs_f64()));
        let [labels, require] = [&change.labels, &change.require].map(|labels| labels.as_ref().map(Json));
        let (catch_up, overlap) = (change.catch_up.map(CatchUp::as_str), change.overlap.map(Overlap::as_str));
        let all: [&(dyn ToSql + Sync); 22] = [
            &name,
            &change.cron,
            &every,
            &change.anchor_at,
            &change.time_zone,
            &catch_up,
            &change.catch_up_max,
            &grace,
            &overlap,
            &change.paused,
            &change.agent,
            &change.payload,
            &change.project,
            &change.priority,
            &change.gate,
            &change.limits,
            &labels,
            &require,
            &change.max_attempts,
            &timeout,
            &change.tick_key,
            &change.clear,
        ];
        Ok(self.query_opt(statement, &all[..statement.params.len()]).await?.is_some())
    }
}
