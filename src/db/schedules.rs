//! Schedules: what is due, the ticks that a replica fires, and what operators do.
//!
//! Owns the two halves of a tick: the look, which promises nothing, and the statement that fires, which is heard only by the
//! row that was seen. Knows no cron: that is `model::schedule`'s.

use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;

use super::{
    Db, Result, Statement,
    jobs::{disagreement, word},
    statement,
};
use crate::model::{
    JobId,
    schedule::{Answer, CatchUp, Fault, Rhythm},
};

mod rows;

pub use rows::{Change, Schedule};

const DUE: Statement = statement!("schedules/due", [INT8]);
const FIRE: Statement = statement!(
    "schedules/fire",
    [TEXT_ARRAY, INT8_ARRAY, TIMESTAMPTZ_ARRAY, TIMESTAMPTZ_ARRAY, TIMESTAMPTZ_ARRAY, TIMESTAMPTZ_ARRAY, TEXT_ARRAY]
);
const LIST: Statement = statement!("schedules/list", [TEXT, INT8]);
const NAMES: Statement = statement!("schedules/names", []);
const PAUSE: Statement = statement!("schedules/pause", [TEXT, BOOL]);
const RUN: Statement = statement!("schedules/run", [TEXT]);
const REMOVE: Statement = statement!("schedules/remove", [TEXT]);

pub(super) const STATEMENTS: &[&Statement] =
    &[&DUE, &FIRE, &LIST, &NAMES, &PAUSE, &RUN, &REMOVE, &rows::ADD, &rows::SET];

/// What a look found.
#[derive(Debug)]
pub struct Look {
    /// The database's clock.
    pub now: Timestamp,
    /// Until the next schedule is due that is not yet.
    pub wait: Option<SignedDuration>,
    /// Those that are.
    pub due: Vec<Due>,
}

/// A schedule that is due, or whose next tick is to be computed.
#[derive(Debug, Clone)]
pub struct Due {
    /// Its name.
    pub name: String,
    /// By which definition it was read.
    pub revision: i64,
    /// Whether `next_tick_at` is a tick.
    pub planned: bool,
    /// The next tick, or when one is to be computed.
    pub next_tick_at: Timestamp,
    /// From where on its ticks count.
    pub base_at: Timestamp,
    /// When it ticks, as it was written.
    pub cron: Option<String>,
    /// Whose clocks that means.
    pub time_zone: String,
    /// Or so long after one another.
    pub every: Option<SignedDuration>,
    /// Counted from here.
    pub anchor_at: Timestamp,
    /// What becomes of missed ticks.
    pub catch_up: CatchUp,
    /// How many of them fire.
    pub catch_up_max: usize,
    /// What is late by more was missed.
    pub grace: SignedDuration,
}

impl Due {
    /// When it ticks.
    pub fn rhythm(&self) -> Result<Rhythm, Fault> {
        match (&self.cron, self.every) {
            (Some(cron), _) => Rhythm::cron(cron, &self.time_zone),
            (None, Some(every)) => Rhythm::every(every, self.anchor_at),
            (None, None) => Err(Fault("it has neither cron nor every".to_owned())),
        }
    }
}

/// One step of a schedule: a tick, or only where it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The schedule.
    pub name: String,
    /// By which definition it was computed.
    pub revision: i64,
    /// Its `next_tick_at`, as it was seen or as the step before leaves it.
    pub seen: Timestamp,
    /// The tick that fires.
    pub tick: Option<Timestamp>,
    /// The tick after that; none where it never ticks again.
    pub next: Option<Timestamp>,
    /// The first of the ticks that were missed and are left out.
    pub left_out: Option<Timestamp>,
    /// Why it cannot be read.
    pub error: Option<String>,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fired {
    /// The schedule.
    pub name: String,
    /// The tick.
    pub tick_at: Option<Timestamp>,
    /// What became of it.
    pub answer: Answer,
    /// The job that was enqueued, or that was in the way.
    pub job_id: Option<JobId>,
    /// Why it was refused, or cannot be read; none where that stood in its row before.
    pub error: Option<String>,
}

impl Db {
    /// At most `limit` schedules that there is something to do for.
    pub async fn due_schedules(&self, limit: i64) -> Result<Look> {
        let rows = self.query(&DUE, &[&limit]).await?;
        let first = rows.first().ok_or_else(|| disagreement("now", "no row came back"))?;
        let wait: Option<f64> = first.try_get("wait_seconds")?;
        let due = rows.iter().filter(|row| matches!(row.try_get::<_, Option<&str>>("name"), Ok(Some(_))));
        Ok(Look {
            now: first.try_get("now")?,
            wait: wait.map(SignedDuration::from_secs_f64),
            due: due.map(due_from_row).collect::<Result<_>>()?,
        })
    }

    /// Fires ticks. A step without an answer saw what is no longer so, and had no effect.
    pub async fn fire_ticks(&self, steps: &[Step]) -> Result<Vec<Fired>> {
        let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
        let revisions: Vec<i64> = steps.iter().map(|step| step.revision).collect();
        let seen: Vec<Timestamp> = steps.iter().map(|step| step.seen).collect();
        let ticks: Vec<Option<Timestamp>> = steps.iter().map(|step| step.tick).collect();
        let nexts: Vec<Option<Timestamp>> = steps.iter().map(|step| step.next).collect();
        let left_out: Vec<Option<Timestamp>> = steps.iter().map(|step| step.left_out).collect();
        let errors: Vec<Option<&str>> = steps.iter().map(|step| step.error.as_deref()).collect();
        let rows = self.query(&FIRE, &[&names, &revisions, &seen, &ticks, &nexts, &left_out, &errors]).await?;
        rows.iter()
            .map(|row| {
                Ok(Fired {
                    name: row.try_get("name")?,
                    tick_at: row.try_get("tick_at")?,
                    answer: word(row, "answer")?,
                    job_id: row.try_get::<_, Option<_>>("job_id")?.map(JobId),
                    error: row.try_get("error")?,
                })
            })
            .collect()
    }

    /// At most `limit` schedules by name, or the one of this name.
    pub async fn list_schedules(&self, name: Option<&str>, limit: i64) -> Result<Vec<Schedule>> {
        self.query(&LIST, &[&name, &limit]).await?.iter().map(Schedule::from_row).collect()
    }

    /// The names of all schedules.
    pub async fn schedule_names(&self) -> Result<Vec<String>> {
        self.query(&NAMES, &[]).await?.iter().map(|row| Ok(row.try_get("name")?)).collect()
    }

    /// Keeps a schedule from ticking, or lets it tick again; whether that was new.
    pub async fn pause_schedule(&self, name: &str, paused: bool) -> Result<bool> {
        let row = self.query_opt(&PAUSE, &[&name, &paused]).await?;
        Ok(row.ok_or_else(|| disagreement("changed", "no row came back"))?.try_get("changed")?)
    }

    /// Enqueues a job of a schedule now.
    pub async fn run_schedule(&self, name: &str) -> Result<JobId> {
        let row = self.query_opt(&RUN, &[&name]).await?;
        Ok(JobId(row.ok_or_else(|| disagreement("id", "no row came back"))?.try_get("id")?))
    }

    /// Removes a schedule. `false`: there is none of this name.
    pub async fn remove_schedule(&self, name: &str) -> Result<bool> {
        Ok(self.query_opt(&REMOVE, &[&name]).await?.is_some())
    }
}

fn due_from_row(row: &Row) -> Result<Due> {
    let every: Option<i64> = row.try_get("every_us")?;
    let catch_up_max: i32 = row.try_get("catch_up_max")?;
    Ok(Due {
        name: row.try_get("name")?,
        revision: row.try_get("revision")?,
        planned: row.try_get("planned")?,
        next_tick_at: row.try_get("next_tick_at")?,
        base_at: row.try_get("base_at")?,
        cron: row.try_get("cron")?,
        time_zone: row.try_get("time_zone")?,
        every: every.map(SignedDuration::from_micros),
        anchor_at: row.try_get("anchor_at")?,
        catch_up: word(row, "catch_up")?,
        catch_up_max: usize::try_from(catch_up_max).unwrap_or(1),
        grace: SignedDuration::from_secs_f64(row.try_get("grace_seconds")?),
    })
}
