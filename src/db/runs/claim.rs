//! Claiming: the one door into `running`, and what a claim says beside the jobs that it took.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use tokio_postgres::Row;

use super::Owned;
use crate::{
    db::{Db, Error, Result, Statement, statement},
    model::{Head, InSight, JobId, Looked, ReplicaId, RunId, Seen, Window},
};

pub(super) const CLAIM: Statement = statement!(
    "runs/claim",
    [
        UUID,
        UUID_ARRAY,
        TEXT_ARRAY,
        BOOL,
        TEXT,
        TEXT,
        JSONB,
        INT8_ARRAY,
        TEXT,
        JSONB,
        INT4,
        INT4,
        JSONB,
        BOOL,
        TEXT_ARRAY,
        INT8_ARRAY,
        TIMESTAMPTZ_ARRAY,
        INT8_ARRAY,
    ]
);
pub(super) const CLAIM_LONE: Statement = statement!(
    "runs/claim_lone",
    [UUID, UUID_ARRAY, TEXT_ARRAY, BOOL, TEXT, TEXT, JSONB, TEXT, INT8, TIMESTAMPTZ, INT8]
);
pub(super) const HOLD_OFFENDER: Statement = statement!("runs/hold_offender", [INT8, TEXT]);

/// The most jobs of one claim, which both statements say as well. Beyond this a batch costs latency and gains nothing.
pub const CLAIM_MAX: usize = 100;

/// Who claims, and by which rules.
#[derive(Debug, Clone)]
pub struct Claimant {
    /// The replica.
    pub replica_id: ReplicaId,
    /// Its host, for people.
    pub host: String,
    /// The boot of its machine.
    pub boot_id: String,
    /// Whether a job's gate is enforced (`serial_gate_enabled`).
    pub serial_gate: bool,
    /// Its part of the retry rules.
    pub rules: ClaimantRules,
}

/// The replica's part of the rules that a claim writes into `agent_runs.rules`.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct ClaimantRules {
    /// Losses after which a job is failed as poisoned.
    pub max_lost: i32,
    /// Transient ends after which a job is held.
    pub max_transient: i32,
    /// Interruptions after which a job is held.
    pub max_interrupted: i32,
    /// L, in seconds.
    pub lease: f64,
}

/// A claimed job, and all that its launch needs.
#[derive(Debug)]
pub struct Claimed {
    /// The proof.
    pub owned: Owned,
    /// Which run of the job this is, from 1 on.
    pub attempt: i32,
    /// The job's project.
    pub project: String,
    /// The job's agent.
    pub agent: String,
    /// The payload, as JSON text.
    pub payload: String,
    /// How the run before ended, if it did not end well.
    pub previous_error: Option<String>,
    /// The job's timeout, else the agent's.
    pub timeout: Option<Duration>,
}

/// Where a claim looks.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Which lanes.
    pub window: Window,
    /// Projects, and by how many runs each is ahead of its share.
    pub ahead: HashMap<String, f64>,
    /// The heads of the lanes to look at, and nothing before them; every lane where there are none.
    pub marks: Option<Vec<Head>>,
    /// Nothing but these jobs: how a batch that failed is repeated one by one.
    pub only: Option<Vec<i64>>,
    /// Whether all that waits may be one lane, of which a smaller statement claims. Where it is not, nothing is lost but
    /// that statement's time. Only for a look at every lane, or from one mark on.
    pub lone: bool,
}

/// What a claim took and saw.
#[derive(Debug, Default)]
pub struct Claim {
    /// The jobs, best first.
    pub jobs: Vec<Claimed>,
    /// How far it saw.
    pub seen: Seen,
    /// Another claim had locked what this one wanted: looking again soon is worth it.
    pub contended: bool,
    /// The projects that had a job which may run, where there are several.
    pub in_sight: Vec<InSight>,
    /// The heads of the lanes that it saw, where it took something.
    pub heads: Vec<Head>,
    /// Dead rows of the table, as the statistics have it.
    pub dead_rows: i64,
    /// It saw every lane, and there was one at most, without a gate or a limit.
    pub lone: bool,
}

impl Claim {
    /// What it came to, as far as marks go: so many jobs were wanted, and it took so long.
    #[must_use]
    pub fn looked(&self, wanted: usize, took: Duration) -> Looked {
        Looked {
            whole: self.seen.last_project.is_none() && self.seen.cuts.is_empty(),
            enough: self.jobs.len() == wanted,
            dead_rows: self.dead_rows,
            took,
        }
    }
}

impl Db {
    /// Claims at most `run_ids.len()` jobs, which are to be at most [`CLAIM_MAX`]: of one lane no more are taken. After
    /// [`Error::Unavailable`] it is unknown whether it took effect: the runs it may have opened show up in the replica's next
    /// renewal and are given up there.
    pub async fn claim_jobs(
        &self,
        claimant: &Claimant,
        agents: &[String],
        run_ids: &[RunId],
        look: &Look,
    ) -> Result<Claim> {
        if look.lone
            && let Some(claim) = self.claim_lone(claimant, agents, run_ids, look.marks.as_deref()).await?
        {
            return Ok(claim);
        }
        let mut claim = read(&self.claim(claimant, agents, run_ids, look, false).await?, claimant.replica_id)?;
        claim.lone &= look.marks.is_none() && claim.seen.is_all_of(&look.window);
        Ok(claim)
    }

    /// The same where all that waits is one lane without a gate or a limit; `None` where it is not.
    async fn claim_lone(
        &self,
        claimant: &Claimant,
        agents: &[String],
        run_ids: &[RunId],
        marks: Option<&[Head]>,
    ) -> Result<Option<Claim>> {
        let mark = match marks {
            None => None,
            Some([mark]) => Some(mark),
            Some(_) => return Ok(None),
        };
        let ids: Vec<uuid::Uuid> = run_ids.iter().map(|id| id.0).collect();
        let rows = self
            .query(
                &CLAIM_LONE,
                &[
                    &claimant.replica_id.0,
                    &ids,
                    &agents,
                    &claimant.serial_gate,
                    &claimant.host,
                    &claimant.boot_id,
                    &json(&claimant.rules)?,
                    &mark.map(|head| &head.project),
                    &mark.map(|head| head.lane),
                    &mark.map(|head| head.run_at),
                    &mark.map(|head| head.id),
                ],
            )
            .await?;
        let mut claim = Claim::default();
        for row in &rows {
            claim.contended = row.try_get("contended")?;
            claim.lone = row.try_get("lone")?;
            claim.heads.extend(head(row)?);
            claim.dead_rows += row.try_get::<_, Option<i64>>("dead_rows")?.unwrap_or(0);
            if row.try_get::<_, Option<i64>>("job_id")?.is_some() {
                claim.jobs.push(claimed(row, claimant.replica_id)?);
            }
        }
        // Each job has the run_id of its place.
        claim.jobs.sort_by_key(|job| run_ids.iter().position(|id| *id == job.owned.run_id()));
        Ok(claim.lone.then_some(claim))
    }

    /// The jobs that this claim would take, best first.
    pub async fn list_claimable(
        &self,
        claimant: &Claimant,
        agents: &[String],
        run_ids: &[RunId],
        look: &Look,
    ) -> Result<Vec<JobId>> {
        let rows = self.claim(claimant, agents, run_ids, look, true).await?;
        let ids: Vec<Option<i64>> = rows.iter().map(|row| row.try_get("job_id")).collect::<Result<_, _>>()?;
        Ok(ids.into_iter().flatten().map(JobId).collect())
    }

    async fn claim(
        &self,
        claimant: &Claimant,
        agents: &[String],
        run_ids: &[RunId],
        look: &Look,
        look_only: bool,
    ) -> Result<Vec<Row>> {
        fn column<T>(look: &Look, field: impl Fn(&Head) -> T) -> Option<Vec<T>> {
            look.marks.as_ref().map(|heads| heads.iter().map(field).collect())
        }
        let ids: Vec<uuid::Uuid> = run_ids.iter().map(|id| id.0).collect();
        self.query(
            &CLAIM,
            &[
                &claimant.replica_id.0,
                &ids,
                &agents,
                &claimant.serial_gate,
                &claimant.host,
                &claimant.boot_id,
                &json(&claimant.rules)?,
                &look.only,
                &look.window.behind,
                &json(&look.window.cuts)?,
                &look.window.lanes,
                &look.window.of_one_project,
                &json(&look.ahead)?,
                &look_only,
                &column(look, |head| head.project.clone()),
                &column(look, |head| head.lane),
                &column(look, |head| head.run_at),
                &column(look, |head| head.id),
            ],
        )
        .await
    }

    /// Holds a job that cannot be claimed. Whether it was still claimable until now.
    pub async fn hold_offender(&self, job_id: JobId, error: &str) -> Result<bool> {
        Ok(self.query_opt(&HOLD_OFFENDER, &[&job_id.0, &error]).await?.is_some())
    }
}

fn json(value: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|error| Error::Server { code: "?????".into(), message: error.to_string() })
}

/// The claimed jobs, and beside them what the one row without a job says.
fn read(rows: &[Row], replica_id: ReplicaId) -> Result<Claim> {
    let mut claim = Claim::default();
    for row in rows {
        if row.try_get::<_, Option<i64>>("job_id")?.is_some() {
            claim.jobs.push(claimed(row, replica_id)?);
        } else {
            claim = Claim { jobs: claim.jobs, ..summary(row)? };
        }
    }
    Ok(claim)
}

fn head(row: &Row) -> Result<Option<Head>> {
    let Some(project) = row.try_get("mark_project")? else { return Ok(None) };
    let (lane, run_at, id) = (row.try_get("mark_lane")?, row.try_get("mark_run_at")?, row.try_get("mark_id")?);
    Ok(Some(Head { project, lane, run_at, id }))
}

fn summary(row: &Row) -> Result<Claim> {
    let projects: Vec<String> = list(row, "projects")?;
    let (weights, running): (Vec<i32>, Vec<i64>) = (list(row, "weights")?, list(row, "running")?);
    let cuts = list::<String>(row, "cut_projects")?.into_iter().zip(list::<i64>(row, "cut_lanes")?).collect();
    Ok(Claim {
        jobs: Vec::new(),
        seen: Seen { last_project: row.try_get("last_project")?, cuts },
        contended: row.try_get("contended")?,
        in_sight: projects
            .into_iter()
            .zip(weights.into_iter().zip(running))
            .map(|(project, (weight, running))| InSight { project, weight, running })
            .collect(),
        heads: heads(row)?,
        dead_rows: row.try_get("dead_rows")?,
        lone: row.try_get("lone")?,
    })
}

fn heads(row: &Row) -> Result<Vec<Head>> {
    let places = list::<Timestamp>(row, "mark_run_ats")?.into_iter().zip(list::<i64>(row, "mark_ids")?);
    let lanes = list::<String>(row, "mark_projects")?.into_iter().zip(list::<i64>(row, "mark_lanes")?);
    Ok(lanes.zip(places).map(|((project, lane), (run_at, id))| Head { project, lane, run_at, id }).collect())
}

/// An array of the summary; null is an empty one.
fn list<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, column: &str) -> Result<Vec<T>> {
    Ok(row.try_get::<_, Option<Vec<T>>>(column)?.unwrap_or_default())
}

fn claimed(row: &Row, replica_id: ReplicaId) -> Result<Claimed> {
    let timeout: Option<f64> = row.try_get("timeout_seconds")?;
    Ok(Claimed {
        owned: Owned::from_row_of(row, replica_id)?,
        attempt: row.try_get("attempt")?,
        project: row.try_get("project")?,
        agent: row.try_get("agent")?,
        payload: row.try_get("payload")?,
        previous_error: row.try_get("previous_error")?,
        timeout: timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
    })
}
