//! The one summary of the queue that `GET /queue`, `/metrics` and `orch queue` show.
//!
//! Owns the shape of that answer. Counts what lives exactly, through indexes that hold nothing finished; what finished
//! is counted apart, since a day of it can be a million rows. Never writes.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Db, Error, Result, Statement, statement, why::Waiting};
use crate::model::{JobId, JobStatus, ReplicaId, RunId, UnknownWord};

const LIVE: Statement = statement!("queue/live", []);
const FINISHED: Statement = statement!("queue/finished", [TIMESTAMPTZ]);
const RENEWAL: Statement = statement!("queue/renewal", [UUID]);

pub(super) const STATEMENTS: &[&Statement] = &[&LIVE, &FINISHED, &RENEWAL];

/// Jobs by status.
pub type Counts = BTreeMap<JobStatus, i64>;

/// The answer of `GET /queue`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Every status; the finished ones over the last 24 hours.
    pub counts: Counts,
    /// The same by project, without the zeros.
    pub projects: BTreeMap<String, Counts>,
    /// Slots of all live replicas.
    pub max_concurrency: i64,
    /// Every open run of a running job, the oldest first.
    pub running: Vec<RunningJob>,
    /// How long the longest waiting job that is due has been due; none where no job is due. Seconds.
    pub oldest_queued_seconds: Option<f64>,
    /// How many jobs wait for which reason, without the zeros.
    pub waiting: Waiting,
    /// Every replica that is live.
    pub replicas: Vec<LiveReplica>,
    /// What the reaper did and may do.
    pub reaper: Reaper,
    /// When this was counted, by the database's clock.
    pub counted_at: Timestamp,
}

/// A job that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunningJob {
    /// The job.
    pub job_id: JobId,
    /// Its run.
    pub run_id: RunId,
    /// The process, for people; none until it was started.
    pub pid: Option<i32>,
    /// What runs.
    pub agent: String,
    /// For whom.
    pub project: String,
    /// The owner's name.
    pub replica: Option<String>,
    /// Where it runs.
    pub host: Option<String>,
    /// Seconds since the claim.
    pub age_seconds: f64,
    /// Seconds until the owner's lease ends; negative once it has.
    pub lease_left_seconds: Option<f64>,
    /// Seconds since its last output arrived in the database, or since its program was started; none until then.
    pub output_age_seconds: Option<f64>,
}

/// A replica that is live.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveReplica {
    /// The boot.
    pub replica_id: ReplicaId,
    /// For people.
    pub name: String,
    /// Where it runs.
    pub host: String,
    /// The version of orch.
    pub version: Option<String>,
    /// Whether it has stopped claiming.
    pub draining: bool,
    /// What it serves.
    pub agents: Vec<String>,
    /// Its slots.
    pub max_concurrency: i64,
    /// Its open runs.
    pub running: i64,
    /// When it registered.
    pub started_at: Timestamp,
    /// Seconds until its lease ends; negative once it has.
    pub lease_left_seconds: f64,
}

/// How a live replica stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// Seconds until its lease ends; negative once it has.
    pub lease_left_seconds: f64,
    /// Whether it was told to claim nothing more.
    pub draining: bool,
}

/// The `reaper` block: switches of the process that answers, totals of the whole database.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reaper {
    /// The setting `reaper_enabled`.
    pub enabled: bool,
    /// The last tick of any replica.
    pub last_tick_at: Option<Timestamp>,
    /// Runs taken back from dead replicas.
    pub reaped_total: i64,
    /// Impossible queued rows that the sweep repaired.
    pub impossible_queued_total: i64,
    /// The setting `impossible_queued_sanitize_enabled`.
    pub sanitize_enabled: bool,
}

/// The settings of a process that its summaries show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switches {
    /// The setting `reaper_enabled`.
    pub reaper_enabled: bool,
    /// The setting `impossible_queued_sanitize_enabled`.
    pub sanitize_enabled: bool,
    /// The setting `serial_gate_enabled`: whether a job can wait for a gate at all.
    pub serial_gate_enabled: bool,
}

/// What lives, the totals, and what is waited for.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    projects: BTreeMap<String, Counts>,
    max_concurrency: i64,
    running: Vec<RunningJob>,
    /// As in the summary.
    pub oldest_queued_seconds: Option<f64>,
    /// As in the summary.
    pub waiting: Waiting,
    /// As in the summary.
    pub replicas: Vec<LiveReplica>,
    last_tick_at: Option<Timestamp>,
    /// Runs taken back from dead replicas.
    pub reaped_total: i64,
    /// Impossible queued rows that the sweep repaired.
    pub impossible_queued_total: i64,
    /// Rows that the trigger repaired.
    pub guard_repairs_total: i64,
    counted_at: Timestamp,
}

/// What finished over the last 24 hours, by project, in pieces of five minutes.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    pieces: BTreeMap<Timestamp, BTreeMap<String, Counts>>,
    counted_at: Timestamp,
}

/// The length of a piece, as the statement has it.
const PIECE: SignedDuration = SignedDuration::from_mins(5);

/// An end that was written is seen by others this much later at the most, but for a settle that hangs.
const SEEN_WITHIN: SignedDuration = SignedDuration::from_mins(1);

const DAY: SignedDuration = SignedDuration::from_hours(24);

impl Finished {
    /// The beginning of the first piece that may have grown since this was counted.
    fn may_have_grown_since(&self) -> Timestamp {
        let seconds = self.counted_at.saturating_sub(SEEN_WITHIN).map_or(0, Timestamp::as_second);
        Timestamp::from_second(seconds - seconds.rem_euclid(PIECE.as_secs())).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Puts in what was counted since, and forgets what is older than a day.
    fn renew(mut self, since: Timestamp, newer: Self) -> Self {
        self.pieces.split_off(&since);
        self.pieces.extend(newer.pieces);
        let oldest = newer.counted_at.saturating_sub(DAY).unwrap_or(Timestamp::UNIX_EPOCH);
        self.pieces.retain(|piece, _| piece.saturating_add(PIECE).is_ok_and(|end| end > oldest));
        Self { pieces: self.pieces, counted_at: newer.counted_at }
    }
}

impl Db {
    /// Counts what lives.
    pub async fn count_live(&self, switches: Switches) -> Result<Live> {
        let waiting = self.count_waiting(switches.serial_gate_enabled).await?;
        let rows = self.query(&LIVE, &[]).await?;
        let row = rows.first().ok_or_else(|| disagreement("it returned no row"))?;
        Ok(Live {
            projects: json(row.try_get("projects")?)?,
            max_concurrency: row.try_get("max_concurrency")?,
            running: json(row.try_get("running")?)?,
            oldest_queued_seconds: row.try_get("oldest_queued_seconds")?,
            waiting,
            replicas: json(row.try_get("replicas")?)?,
            last_tick_at: row.try_get("last_tick_at")?,
            reaped_total: row.try_get("reaped_total")?,
            impossible_queued_total: row.try_get("impossible_queued_total")?,
            guard_repairs_total: row.try_get("guard_repairs_total")?,
            counted_at: row.try_get("counted_at")?,
        })
    }

    /// Counts what finished over the last 24 hours: every run of a day is looked at.
    pub async fn count_finished(&self) -> Result<Finished> {
        self.count_finished_since(None).await
    }

    /// Counts what finished since `earlier` was counted, at a cost that does not grow with the day. A job that was
    /// retried since keeps its earlier end until a whole count.
    pub async fn count_finished_after(&self, earlier: Finished) -> Result<Finished> {
        let since = earlier.may_have_grown_since();
        Ok(earlier.renew(since, self.count_finished_since(Some(since)).await?))
    }

    async fn count_finished_since(&self, since: Option<Timestamp>) -> Result<Finished> {
        let rows = self.query(&FINISHED, &[&since]).await?;
        let first = rows.first().ok_or_else(|| disagreement("it returned no row"))?;
        let mut finished = Finished { pieces: BTreeMap::new(), counted_at: first.try_get("counted_at")? };
        for row in &rows {
            let Some(piece) = row.try_get("piece")? else { continue };
            let status: &str = row.try_get("status")?;
            let status = status.parse().map_err(|error: UnknownWord| disagreement(&error.to_string()))?;
            let project = finished.pieces.entry(piece).or_default().entry(row.try_get("project")?).or_default();
            project.insert(status, row.try_get("jobs")?);
        }
        Ok(finished)
    }

    /// How a replica stands; none where it is not live.
    pub async fn standing(&self, replica: ReplicaId) -> Result<Option<Standing>> {
        let Some(row) = self.query_opt(&RENEWAL, &[&replica.0]).await? else { return Ok(None) };
        Ok(Some(Standing {
            lease_left_seconds: row.try_get("lease_left_seconds")?,
            draining: row.try_get("draining")?,
        }))
    }
}

impl Live {
    /// The jobs of all projects in a status that is live.
    #[must_use]
    pub fn count(&self, status: JobStatus) -> i64 {
        self.projects.values().filter_map(|counts| counts.get(&status)).sum()
    }
}

impl Summary {
    /// Puts together what was counted apart. It is as old as its older part.
    #[must_use]
    pub fn new(live: &Live, finished: &Finished, switches: Switches) -> Self {
        let mut projects = live.projects.clone();
        for (project, counts) in finished.pieces.values().flatten() {
            let sums = projects.entry(project.clone()).or_default();
            for (status, jobs) in counts {
                *sums.entry(*status).or_default() += jobs;
            }
        }
        let mut counts: Counts = JobStatus::ALL.iter().map(|status| (*status, 0)).collect();
        for (status, jobs) in projects.values().flatten() {
            *counts.entry(*status).or_default() += jobs;
        }
        Self {
            counts,
            projects,
            max_concurrency: live.max_concurrency,
            running: live.running.clone(),
            oldest_queued_seconds: live.oldest_queued_seconds,
            waiting: live.waiting.clone(),
            replicas: live.replicas.clone(),
            reaper: Reaper {
                enabled: switches.reaper_enabled,
                last_tick_at: live.last_tick_at,
                reaped_total: live.reaped_total,
                impossible_queued_total: live.impossible_queued_total,
                sanitize_enabled: switches.sanitize_enabled,
            },
            counted_at: live.counted_at.min(finished.counted_at),
        }
    }
}

fn json<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| disagreement(&error.to_string()))
}

/// The statement and the code disagree about a shape.
fn disagreement(what: &str) -> Error {
    Error::Server { code: "?????".to_owned(), message: format!("the queue's summary could not be read: {what}") }
}
