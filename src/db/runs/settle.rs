//! Settling: how a run ended, handed to the one statement that leaves `running` by rule.

use std::{ops::Deref, time::Duration};

use tokio_postgres::Row;

use super::{Owned, Process};
use crate::{
    db::{Db, Error, Params, Result, Statement, jobs::When, statement},
    model::{ClosedBy, JobId, JobStatus, Outcome, RunId},
};

pub(super) const SETTLE: Statement = statement!(
    "runs/settle",
    [
        INT8_ARRAY,
        UUID_ARRAY,
        UUID_ARRAY,
        TEXT_ARRAY,
        TEXT_ARRAY,
        INT4_ARRAY,
        INT4_ARRAY,
        TEXT_ARRAY,
        TEXT_ARRAY,
        TIMESTAMPTZ_ARRAY,
        FLOAT8_ARRAY,
        INT4_ARRAY,
        INT8_ARRAY,
        TEXT_ARRAY,
        FLOAT8_ARRAY,
        FLOAT8_ARRAY,
        INT8_ARRAY,
        INT8_ARRAY,
        INT8_ARRAY,
        INT4_ARRAY,
        FLOAT8_ARRAY,
        FLOAT8_ARRAY,
        TEXT_ARRAY,
        TIMESTAMPTZ_ARRAY,
        FLOAT8_ARRAY,
        TEXT_ARRAY,
    ]
);

/// The smaller statement takes the first of the same parameters: all but the limit that a run closes.
pub(super) const SETTLE_PLAIN: Statement =
    Statement { params: SETTLE.params.split_at(22).0, ..statement!("runs/settle_plain", []) };

/// What a run used. Seconds and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User CPU, seconds.
    pub user_cpu: f64,
    /// System CPU, seconds.
    pub system_cpu: f64,
    /// Peak memory, bytes.
    pub peak_memory: i64,
    /// Log bytes kept.
    pub log_kept: i64,
    /// Log bytes dropped.
    pub log_dropped: i64,
    /// Processes killed after the main process had ended.
    pub processes_killed: i32,
}

/// A limit that a run closes, because it learned that it is used up.
#[derive(Debug, Clone, PartialEq)]
pub struct Closing {
    /// Its name. One that the run's job does not need is not closed.
    pub limit: String,
    /// Until when no job that needs it starts.
    pub until: When,
    /// Why, for people.
    pub reason: Option<String>,
}

/// How a run ended: facts for the settle, which alone decides what follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// How.
    pub outcome: Outcome,
    /// Who says so.
    pub closed_by: ClosedBy,
    /// The exit status, if the command exited.
    pub exit_code: Option<i32>,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// For people, and for the next attempt's `ORCH_PREVIOUS_ERROR`.
    pub error: Option<String>,
    /// The result, as JSON text.
    pub result: Option<String>,
    /// When a transient run wants to be tried again.
    pub retry_at: Option<When>,
    /// The limit that it closes.
    pub close_limit: Option<Closing>,
    /// The process, where there was one.
    pub process: Option<Process>,
    /// How long it ran.
    pub lasted: Option<Duration>,
    /// What it used, where that is known.
    pub usage: Option<Usage>,
}

impl Ending {
    /// An end of which nothing is known but what to call it, and why.
    #[must_use]
    pub fn bare(outcome: Outcome, closed_by: ClosedBy, error: impl Into<String>) -> Self {
        Self {
            outcome,
            closed_by,
            exit_code: None,
            signal: None,
            error: Some(error.into()),
            result: None,
            retry_at: None,
            close_limit: None,
            process: None,
            lasted: None,
            usage: None,
        }
    }
}

/// A run and its end, ready to be settled.
#[derive(Debug)]
pub struct Settlement {
    owned: Owned,
    ending: Ending,
}

impl Owned {
    /// This run, ended: what the settle takes.
    #[must_use]
    pub const fn ended(self, ending: Ending) -> Settlement {
        Settlement { owned: self, ending }
    }
}

impl Settlement {
    /// The run.
    #[must_use]
    pub const fn run_id(&self) -> RunId {
        self.owned.run_id
    }

    /// The job.
    #[must_use]
    pub const fn job_id(&self) -> JobId {
        self.owned.job_id
    }

    /// Whether the smaller statement may know what to do with it: its owner says how it ended, and it closes no limit.
    const fn is_plain(&self) -> bool {
        matches!(self.ending.closed_by, ClosedBy::Owner | ClosedBy::Successor) && self.ending.close_limit.is_none()
    }

    /// How it ended.
    #[must_use]
    pub const fn ending(&self) -> &Ending {
        &self.ending
    }
}

/// What the database made of a settlement.
#[derive(Debug)]
pub enum Answer {
    /// Done: the job's next status.
    Settled(RunId, JobStatus),
    /// A reap had closed the run as lost, and its job takes the result all the same: the job's next status.
    Late(RunId, JobStatus),
    /// A reap had closed the run as lost, and its job has gone on since: the result is written to the run only.
    Noted(RunId),
    /// The owner's side closed the run before: the answer to that was lost, or its successor says it once more.
    Already(RunId),
    /// No longer the settler's: a normal answer, and the end of it.
    NotYours(RunId),
    /// Another transaction holds the row: send it again.
    Busy(Settlement),
    /// The database refuses it whatever is said: send it again later, and tell people.
    Refused(Settlement, Error),
}

/// What the database made of a batch of settlements: an answer to each.
#[derive(Debug, Default)]
pub struct Answers {
    all: Vec<Answer>,
    /// Jobs that have ended by this batch, if others run after any of them: who waits for them is to be resolved.
    pub awaited: Vec<JobId>,
}

impl Answers {
    /// Takes one out.
    pub fn remove(&mut self, index: usize) -> Answer {
        self.all.remove(index)
    }
}

impl Deref for Answers {
    type Target = [Answer];

    fn deref(&self) -> &[Answer] {
        &self.all
    }
}

impl IntoIterator for Answers {
    type Item = Answer;
    type IntoIter = std::vec::IntoIter<Answer>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.into_iter()
    }
}

/// What stands in the way of a late result that takes its job's dedupe key back.
const DEDUPE_KEY: &str = "jobs_live_dedupe_key";

/// Whether another transaction is in the way, and will not be for long: the settlement is sent again.
fn is_in_the_way(error: &Error) -> bool {
    matches!(error, Error::Locked(_)) || error.constraint() == Some(DEDUPE_KEY)
}

impl Db {
    /// Settles a batch. One bad row stops nobody: a batch that fails for its data, or for a lock that one of its rows
    /// does not get, is repeated one by one, and a run whose result is refused is settled without it, as failed with the
    /// database's message. An error (with the whole batch back) means that the database cannot be asked now: send it
    /// again, it may or may not have happened.
    pub async fn settle_runs(&self, batch: Vec<Settlement>) -> Result<Answers, (Error, Vec<Settlement>)> {
        if !batch.iter().all(Settlement::is_plain) {
            return self.settle_all(batch).await;
        }
        let (mut said, rest) = match self.send(&SETTLE_PLAIN, &batch).await {
            Ok(rows) => answers(batch, &rows),
            Err(error) if !error.is_about_data() && !is_in_the_way(&error) => return Err((error, batch)),
            Err(_) => (Answers::default(), batch),
        };
        if rest.is_empty() {
            return Ok(said);
        }
        match self.settle_all(rest).await {
            Ok(answers) => {
                said.all.extend(answers.all);
                said.awaited.extend(answers.awaited);
            }
            Err((error, rest)) if said.all.is_empty() => return Err((error, rest)),
            // Some are answered, and each answer is heard but once; the others are sent again.
            Err((_, rest)) => said.all.extend(rest.into_iter().map(Answer::Busy)),
        }
        Ok(said)
    }

    /// The same for whatever there is to settle.
    async fn settle_all(&self, batch: Vec<Settlement>) -> Result<Answers, (Error, Vec<Settlement>)> {
        match self.send(&SETTLE, &batch).await {
            Ok(rows) => Ok(all_answers(batch, &rows)),
            Err(error) if !error.is_about_data() && !is_in_the_way(&error) => Err((error, batch)),
            Err(_) => {
                let mut said = Answers::default();
                let mut rest = batch.into_iter();
                while let Some(one) = rest.next() {
                    match self.settle_one(one).await {
                        Ok(answer) => {
                            said.all.extend(answer.all);
                            said.awaited.extend(answer.awaited);
                        }
                        Err((error, one)) => {
                            said.all.push(Answer::Busy(one));
                            if !is_in_the_way(&error) {
                                // Some may be answered, and each answer is heard but once; the others are sent again.
                                said.all.extend(rest.by_ref().map(Answer::Busy));
                            }
                        }
                    }
                }
                Ok(said)
            }
        }
    }

    async fn settle_one(&self, mut one: Settlement) -> Result<Answers, (Error, Settlement)> {
        match self.send(&SETTLE, std::slice::from_ref(&one)).await {
            Ok(rows) => return Ok(all_answers(vec![one], &rows)),
            Err(error) if error.is_about_data() && !is_in_the_way(&error) => {
                one.ending.result = None;
                one.ending.close_limit = None;
                one.ending.retry_at = None;
                one.ending.outcome = Outcome::Failed;
                one.ending.error = Some(format!("the database refused the result: {error}"));
            }
            Err(error) => return Err((error, one)),
        }
        match self.send(&SETTLE, std::slice::from_ref(&one)).await {
            Ok(rows) => Ok(all_answers(vec![one], &rows)),
            Err(error) if error.is_about_data() && !is_in_the_way(&error) => {
                Ok(Answers { all: vec![Answer::Refused(one, error)], awaited: Vec::new() })
            }
            Err(error) => Err((error, one)),
        }
    }

    /// Sends a batch with one of the two statements; the smaller takes the first of the same parameters.
    async fn send(&self, statement: &'static Statement, batch: &[Settlement]) -> Result<Vec<Row>> {
        fn column<'a, T>(batch: &'a [Settlement], field: impl Fn(&'a Ending) -> T) -> Vec<T> {
            batch.iter().map(|one| field(&one.ending)).collect()
        }
        let jobs: Vec<i64> = batch.iter().map(|one| one.owned.job_id.0).collect();
        let runs: Vec<uuid::Uuid> = batch.iter().map(|one| one.owned.run_id.0).collect();
        let replicas: Vec<uuid::Uuid> = batch.iter().map(|one| one.owned.replica_id.0).collect();
        let jitter: Vec<f64> = batch.iter().map(|_| 0.5 + rand::random::<f64>()).collect();
        self.query(
            statement,
            first(
                statement.params.len(),
                &[
                    &jobs,
                    &runs,
                    &replicas,
                    &column(batch, |end| end.closed_by.as_str()),
                    &column(batch, |end| end.outcome.as_str()),
                    &column(batch, |end| end.exit_code),
                    &column(batch, |end| end.signal),
                    &column(batch, |end| end.error.as_deref().map(without_nul)),
                    &column(batch, |end| end.result.as_deref()),
                    &column(batch, |end| When::split(end.retry_at).0),
                    &jitter,
                    &column(batch, |end| end.process.map(|process| process.pid)),
                    &column(batch, |end| end.process.map(|process| process.pid_started)),
                    &column(batch, |end| end.process.map(|process| process.containment.as_str())),
                    &column(batch, |end| end.usage.map(|usage| usage.user_cpu)),
                    &column(batch, |end| end.usage.map(|usage| usage.system_cpu)),
                    &column(batch, |end| end.usage.map(|usage| usage.peak_memory)),
                    &column(batch, |end| end.usage.map(|usage| usage.log_kept)),
                    &column(batch, |end| end.usage.map(|usage| usage.log_dropped)),
                    &column(batch, |end| end.usage.map(|usage| usage.processes_killed)),
                    &column(batch, |end| end.lasted.map(|lasted| lasted.as_secs_f64())),
                    &column(batch, |end| When::split(end.retry_at).1),
                    &column(batch, |end| end.close_limit.as_ref().map(|close| without_nul(&close.limit))),
                    &column(batch, |end| When::split(end.close_limit.as_ref().map(|close| close.until)).0),
                    &column(batch, |end| When::split(end.close_limit.as_ref().map(|close| close.until)).1),
                    &column(batch, |end| end.close_limit.as_ref()?.reason.as_deref().map(without_nul)),
                ],
            ),
        )
        .await
    }
}

/// The first so many of these.
const fn first(count: usize, params: Params<'_>) -> Params<'_> {
    params.split_at(count).0
}

/// As [`answers`]; one that no row answers is sent again.
fn all_answers(batch: Vec<Settlement>, rows: &[Row]) -> Answers {
    let (mut said, unanswered) = answers(batch, rows);
    said.all.extend(unanswered.into_iter().map(Answer::Busy));
    said
}

/// Pairs settlements with the rows that answer them. Beside the answers: those that no row answers.
fn answers(batch: Vec<Settlement>, rows: &[Row]) -> (Answers, Vec<Settlement>) {
    let by_run: std::collections::HashMap<uuid::Uuid, (&str, Option<&str>)> = rows
        .iter()
        .filter_map(|row| {
            Some((row.try_get("run_id").ok()?, (row.try_get("answer").ok()?, row.try_get("next_status").ok()?)))
        })
        .collect();
    let is_awaited = rows.iter().any(|row| row.try_get("awaited").unwrap_or(false));
    let (mut said, mut unanswered) = (Answers::default(), Vec::new());
    for one in batch {
        let (job_id, run_id) = (one.owned.job_id, one.owned.run_id);
        said.all.push(match by_run.get(&run_id.0) {
            Some((answer @ ("settled" | "late"), Some(status))) => {
                let status: JobStatus = status.parse().unwrap_or(JobStatus::Held);
                if is_awaited && status.is_finished() {
                    said.awaited.push(job_id);
                }
                if *answer == "late" { Answer::Late(run_id, status) } else { Answer::Settled(run_id, status) }
            }
            Some(("noted", _)) => Answer::Noted(run_id),
            Some(("already", _)) => Answer::Already(run_id),
            Some(("not_yours", _)) => Answer::NotYours(run_id),
            _ => {
                unanswered.push(one);
                continue;
            }
        });
    }
    (said, unanswered)
}

/// Postgres text holds no NUL.
fn without_nul(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}
