//! Jobs: enqueue them, read them, and change those that do not run.
//!
//! Owns what people and programs see of a job. Never touches ownership: what runs is `runs`' alone, and every change of
//! a status goes through the database's own functions, which say why they refuse.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use jiff::Timestamp;
use tokio_postgres::types::ToSql;

mod rows;

pub use rows::{Job, JobLine, Page, Progress, Run, Selected, Whole};
pub(super) use rows::{disagreement, json, word, word_opt};

use super::{Db, Result, Statement, statement};
use crate::model::{JobId, JobStatus, parse_span};

const ENQUEUE: Statement = statement!(
    "jobs/enqueue",
    [TEXT, TEXT, TEXT, INT2, TIMESTAMPTZ, FLOAT8, TEXT, TEXT_ARRAY, JSONB, JSONB, TEXT, TEXT, INT8_ARRAY, INT4, FLOAT8]
);
const ENQUEUE_MANY: Statement = statement!("jobs/enqueue_many", [JSONB]);
const GET: Statement = statement!("jobs/get", [INT8]);
const RUNS: Statement = statement!("jobs/runs", [INT8]);
const PROGRESS: Statement = statement!("jobs/progress", [INT8]);
const LIST: Statement = statement!("jobs/list", [INT8, TEXT_ARRAY, TEXT, TEXT, FLOAT8, FLOAT8, FLOAT8, FLOAT8, INT8]);
const SELECT: Statement =
    statement!("jobs/select", [INT8, TEXT_ARRAY, TEXT, TEXT, FLOAT8, FLOAT8, FLOAT8, FLOAT8, INT8]);
const SET: Statement = statement!("jobs/set", [INT8, INT2, TIMESTAMPTZ, FLOAT8]);
const CANCEL: Statement = statement!("jobs/cancel", [INT8_ARRAY]);
const RETRY: Statement = statement!("jobs/retry", [INT8_ARRAY]);
const HOLD: Statement = statement!("jobs/hold", [INT8_ARRAY]);
const RELEASE: Statement = statement!("jobs/release", [INT8_ARRAY]);
const AGENTS: Statement = statement!("jobs/agents", []);

/// How many of the jobs that a job runs after, and of those that run after it, are shown with it.
const NEIGHBOURS: i64 = 10;

pub(super) const STATEMENTS: &[&Statement] =
    &[&ENQUEUE, &ENQUEUE_MANY, &GET, &RUNS, &PROGRESS, &LIST, &SELECT, &SET, &CANCEL, &RETRY, &HOLD, &RELEASE, &AGENTS];

/// A point of time that a job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// This instant.
    At(Timestamp),
    /// So long after the statement runs, by the database's clock.
    In(Duration),
}

/// `2026-07-01T08:00:00Z`, or `10m` for ten minutes from now.
impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(span) = parse_span(text) {
            return Ok(Self::In(span));
        }
        text.parse().map(Self::At).map_err(|_| {
            "it is neither a finite RFC 3339 time with an offset such as 2026-07-01T08:00:00Z nor a duration such as 10m"
                .to_owned()
        })
    }
}

impl When {
    /// The two forms as a statement takes them: an instant, or seconds from now.
    pub(super) fn split(this: Option<Self>) -> (Option<Timestamp>, Option<f64>) {
        match this {
            None => (None, None),
            Some(Self::At(at)) => (Some(at), None),
            Some(Self::In(span)) => (None, Some(span.as_secs_f64())),
        }
    }
}

/// A wish to be enqueued.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// What is to run.
    pub agent: String,
    /// With what: JSON text.
    pub payload: String,
    /// For whom.
    pub project: String,
    /// Higher first.
    pub priority: i16,
    /// Not before.
    pub run_at: Option<When>,
    /// Of jobs with one gate only one runs at a time.
    pub gate: Option<String>,
    /// Named limits that it needs, beside those of its agent.
    pub limits: Vec<String>,
    /// For people.
    pub labels: Option<BTreeMap<String, String>>,
    /// Labels that its replica must have.
    pub require: Option<BTreeMap<String, String>>,
    /// At most one live job has it.
    pub dedupe_key: Option<String>,
    /// What becomes of a second one: `return`, `replace` or `refuse`.
    pub on_conflict: Option<String>,
    /// Jobs that must have succeeded before it runs.
    pub after: Vec<JobId>,
    /// Counted failures after which it is failed; the agent's where there is none.
    pub max_attempts: Option<i32>,
    /// After how long a run is ended; the agent's where there is none.
    pub timeout: Option<Duration>,
}

impl Default for NewJob {
    /// What `orch.enqueue` takes for what is left out; an agent must be named.
    fn default() -> Self {
        Self {
            agent: String::new(),
            payload: "{}".to_owned(),
            project: "default".to_owned(),
            priority: 0,
            run_at: None,
            gate: None,
            limits: Vec::new(),
            labels: None,
            require: None,
            dedupe_key: None,
            on_conflict: None,
            after: Vec::new(),
            max_attempts: None,
            timeout: None,
        }
    }
}

/// Which jobs. Everything given must hold; nothing given is every job.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Any of these; every status where it is empty.
    pub statuses: Vec<JobStatus>,
    /// Of this project.
    pub project: Option<String>,
    /// Of this agent.
    pub agent: Option<String>,
    /// Created at most so long ago.
    pub created_within: Option<Duration>,
    /// Created at least so long ago.
    pub created_before: Option<Duration>,
    /// Finished at most so long ago.
    pub finished_within: Option<Duration>,
    /// Finished at least so long ago.
    pub finished_before: Option<Duration>,
}

/// What is changed of a job that does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Cancel it: at once, or, running, when its owner has ended it.
    Cancel,
    /// Take a finished job back into the queue.
    Retry,
    /// Keep a queued job from being claimed.
    Hold,
    /// Let a held job be claimed.
    Release,
}

impl Db {
    /// Enqueues a job and returns its number.
    pub async fn enqueue_job(&self, job: &NewJob) -> Result<JobId> {
        let (run_at, run_in) = When::split(job.run_at);
        let object = |labels: &BTreeMap<String, String>| {
            serde_json::Value::Object(labels.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect())
        };
        let after: Vec<i64> = job.after.iter().map(|id| id.0).collect();
        let rows = self
            .query(
                &ENQUEUE,
                &[
                    &job.agent,
                    &job.payload,
                    &job.project,
                    &job.priority,
                    &run_at,
                    &run_in,
                    &job.gate,
                    &(!job.limits.is_empty()).then_some(&job.limits),
                    &job.labels.as_ref().map(object),
                    &job.require.as_ref().map(object),
                    &job.dedupe_key,
                    &job.on_conflict,
                    &(!after.is_empty()).then_some(after),
                    &job.max_attempts,
                    &job.timeout.map(|timeout| timeout.as_secs_f64()),
                ],
            )
            .await?;
        let row = rows.first().ok_or_else(|| rows::disagreement("id", "no row came back"))?;
        Ok(JobId(row.try_get("id")?))
    }

    /// Enqueues many jobs at once: an array of objects whose keys are the parameters of `orch.enqueue`.
    pub async fn enqueue_jobs(&self, jobs: &serde_json::Value) -> Result<Vec<JobId>> {
        self.query(&ENQUEUE_MANY, &[jobs]).await?.iter().map(|row| Ok(JobId(row.try_get("id")?))).collect()
    }

    /// One job with its runs; none where there is no such job.
    pub async fn whole_job(&self, id: JobId) -> Result<Option<Whole>> {
        let Some(row) = self.query_opt(&GET, &[&id.0]).await? else { return Ok(None) };
        Ok(Some(Whole {
            job: Job::from_row(&row)?,
            dependencies: self.dependencies_of_job(id, NEIGHBOURS).await?,
            runs: self.runs_of_job(id).await?,
        }))
    }

    /// The runs of a job, the first one first.
    pub async fn runs_of_job(&self, id: JobId) -> Result<Vec<Run>> {
        self.query(&RUNS, &[&id.0]).await?.iter().map(Run::from_row).collect()
    }

    /// Where a job stands; none where there is no such job.
    pub async fn job_progress(&self, id: JobId) -> Result<Option<Progress>> {
        self.query_opt(&PROGRESS, &[&id.0]).await?.as_ref().map(Progress::from_row).transpose()
    }

    /// A page: at most `limit` jobs below `before`, the newest first.
    pub async fn page_of_jobs(&self, filter: &Filter, before: Option<JobId>, limit: i64) -> Result<Page> {
        let filter = FilterParams::new(filter);
        // One more than is shown tells whether there is a next page.
        let rows = self.query(&LIST, &filter.with(&before.map(|id| id.0), &(limit + 1))).await?;
        let more = rows.len() as i64 > limit;
        let shown = rows.iter().take(usize::try_from(limit).unwrap_or_default());
        let jobs = shown.map(JobLine::from_row).collect::<Result<Vec<_>>>()?;
        let next = jobs.last().filter(|_| more).map(|job| job.id);
        Ok(Page { jobs, next })
    }

    /// At most `limit` of the jobs above `after` that the filter names, the oldest first.
    pub async fn select_jobs(&self, filter: &Filter, after: JobId, limit: i64) -> Result<Vec<Selected>> {
        let filter = FilterParams::new(filter);
        let rows = self.query(&SELECT, &filter.with(&after.0, &limit)).await?;
        rows.iter().map(Selected::from_row).collect()
    }

    /// Changes when, or before which others, a job that does not run is to run. `None`: no queued or held job has this number.
    pub async fn set_job(
        &self,
        id: JobId,
        priority: Option<i16>,
        run_at: Option<When>,
    ) -> Result<Option<(i16, Timestamp)>> {
        let (run_at, run_in) = When::split(run_at);
        let row = self.query_opt(&SET, &[&id.0, &priority, &run_at, &run_in]).await?;
        row.map(|row| Ok((row.try_get("priority")?, row.try_get("run_at")?))).transpose()
    }

    /// Changes jobs through the database's own functions, all or none of them, and says where each stands now. They are
    /// locked in ascending order, so that two of these never wait for each other.
    pub async fn change_jobs(&self, change: Change, ids: &[JobId]) -> Result<Vec<(JobId, JobStatus)>> {
        let statement = match change {
            Change::Cancel => &CANCEL,
            Change::Retry => &RETRY,
            Change::Hold => &HOLD,
            Change::Release => &RELEASE,
        };
        let mut ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        ids.sort_unstable();
        let rows = self.query(statement, &[&ids]).await?;
        rows.iter().map(|row| Ok((JobId(row.try_get("id")?), rows::word(row, "status")?))).collect()
    }

    /// The names of all agents that a replica has ever registered.
    pub async fn agent_names(&self) -> Result<Vec<String>> {
        self.query(&AGENTS, &[]).await?.iter().map(|row| Ok(row.try_get("name")?)).collect()
    }
}

/// A filter as the statements take it.
struct FilterParams<'a> {
    statuses: Option<Vec<&'static str>>,
    project: Option<&'a str>,
    agent: Option<&'a str>,
    ages: [Option<f64>; 4],
}

impl<'a> FilterParams<'a> {
    fn new(filter: &'a Filter) -> Self {
        let ages = [filter.created_within, filter.created_before, filter.finished_within, filter.finished_before];
        Self {
            statuses: (!filter.statuses.is_empty()).then(|| filter.statuses.iter().map(|s| s.as_str()).collect()),
            project: filter.project.as_deref(),
            agent: filter.agent.as_deref(),
            ages: ages.map(|age| age.map(|age| age.as_secs_f64())),
        }
    }

    fn with<'p>(&'p self, from: &'p (dyn ToSql + Sync), limit: &'p i64) -> [&'p (dyn ToSql + Sync); 9] {
        let [a, b, c, d] = &self.ages;
        [from, &self.statuses, &self.project, &self.agent, a, b, c, d, limit]
    }
}
