//! What the database says of its own health: guards, constraints, indexes, violations.
//!
//! Owns the list of what must be there. Never repairs anything.

use std::fmt;

use jiff::Timestamp;

use super::{Db, Result, Statement, schema::DEFINITIONS, statement};
use crate::model::{JobId, RunId};

const VIOLATIONS: Statement = statement!("doctor/violations", [INT8]);
const TRIGGERS: Statement = statement!("doctor/triggers", []);
const CHECKS: Statement = statement!("doctor/checks", []);
const COLUMNS: Statement = statement!("doctor/columns", []);
const INDEXES: Statement = statement!("doctor/indexes", []);
const FUNCTIONS: Statement = statement!("doctor/functions", []);
const SERVER: Statement = statement!("doctor/server", []);
const CLOCK: Statement = statement!("doctor/clock", []);
const DIRECTORY_RUNS: Statement = statement!("doctor/directory_runs", [TEXT]);

/// The schema as a test renders it from the catalog: what each guard says.
const COMMITTED: &str = include_str!("../../docs/schema.sql");

pub(super) const STATEMENTS: &[&Statement] =
    &[&VIOLATIONS, &TRIGGERS, &CHECKS, &COLUMNS, &INDEXES, &FUNCTIONS, &SERVER, &CLOCK, &DIRECTORY_RUNS];

/// The triggers that guard.
const EXPECTED_TRIGGERS: &[(&str, &str)] = &[
    ("agent_runs", "agent_runs_guard_run"),
    ("events", "events_count_guard_repairs"),
    ("jobs", "jobs_guard_delete"),
    ("jobs", "jobs_guard_truncate"),
    ("jobs", "jobs_zz0_guard_format"),
    ("jobs", "jobs_zz1_guard_job"),
    ("replicas", "replicas_guard_delete"),
    ("replicas", "replicas_guard_state"),
    ("replicas", "replicas_guard_truncate"),
    ("schedules", "schedules_guard_insert"),
    ("schedules", "schedules_guard_update"),
];

/// The CHECKs.
const EXPECTED_CHECKS: &[(&str, &str)] = &[
    ("agent_runs", "run_is_ended_whole"),
    ("agents", "agent_backoff_is_positive_and_finite"),
    ("agents", "agent_max_attempts_is_positive"),
    ("agents", "agent_name_is_well_formed"),
    ("agents", "agent_on_lost_is_known"),
    ("agents", "agent_silence_timeout_is_positive_and_finite"),
    ("agents", "agent_timeout_is_positive_and_finite"),
    ("counters", "counter_is_not_negative"),
    ("job_dependencies", "job_waits_for_earlier_ones"),
    ("jobs", "claimable_is_queued_and_waits_for_nobody"),
    ("jobs", "has_an_owner_exactly_while_running"),
    ("jobs", "status_is_known"),
    ("limits", "limit_max_running_is_positive"),
    ("limits", "limit_name_is_well_formed"),
    ("limits", "limit_reason_comes_with_closed_until"),
    ("meta", "meta_has_one_row"),
    ("projects", "project_name_is_well_formed"),
    ("projects", "project_weight_is_positive"),
    ("replicas", "replica_labels_are_an_object"),
    ("replicas", "replica_max_concurrency_is_not_negative"),
    ("replicas", "replica_state_is_known"),
    ("run_logs", "log_chunk_is_bounded"),
    ("run_logs", "log_position_is_not_negative"),
    ("schedules", "schedule_catch_up_is_known"),
    ("schedules", "schedule_catch_up_max_is_bounded"),
    ("schedules", "schedule_cron_is_short"),
    ("schedules", "schedule_grace_is_bounded"),
    ("schedules", "schedule_has_one_rhythm"),
    ("schedules", "schedule_interval_is_exact_and_at_least_a_second"),
    ("schedules", "schedule_name_is_well_formed"),
    ("schedules", "schedule_overlap_is_known"),
    ("schedules", "schedule_tick_key_goes_into_an_object"),
    ("schedules", "schedule_times_are_finite"),
];

/// The generated columns: what a CHECK says of `impossible` is worth what the column says.
const EXPECTED_COLUMNS: &[(&str, &str)] = &[("jobs", "impossible")];

/// The indexes, primary keys among them: without one, an invariant or the speed of every claim is gone.
const EXPECTED_INDEXES: &[(&str, &str)] = &[
    ("agent_runs", "agent_runs_ended"),
    ("agent_runs", "agent_runs_job"),
    ("agent_runs", "agent_runs_one_open_a_job"),
    ("agent_runs", "agent_runs_open"),
    ("agent_runs", "agent_runs_open_limits"),
    ("agent_runs", "agent_runs_open_project"),
    ("agent_runs", "agent_runs_pkey"),
    ("agents", "agents_pkey"),
    ("counters", "counters_pkey"),
    ("events", "events_job"),
    ("events", "events_pkey"),
    ("job_dependencies", "job_dependencies_after"),
    ("job_dependencies", "job_dependencies_pkey"),
    ("jobs", "jobs_awaits_replica"),
    ("jobs", "jobs_claim"),
    ("jobs", "jobs_failed_at"),
    ("jobs", "jobs_impossible"),
    ("jobs", "jobs_live_dedupe_key"),
    ("jobs", "jobs_pkey"),
    ("jobs", "jobs_running_gate"),
    ("jobs", "jobs_set_aside"),
    ("jobs", "jobs_waits_for"),
    ("limits", "limits_pkey"),
    ("meta", "meta_pkey"),
    ("projects", "projects_pkey"),
    ("replicas", "replicas_pkey"),
    ("run_logs", "run_logs_pkey"),
    ("schedules", "schedules_due"),
    ("schedules", "schedules_pkey"),
    ("schema_history", "schema_history_pkey"),
];

/// What holds an invariant in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardKind {
    /// Must fire always, also under `session_replication_role = replica`.
    Trigger,
    /// Must be there and have checked every row.
    Check,
    /// Must be computed by the table.
    Column,
    /// Must be there and whole.
    Index,
}

impl GuardKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Trigger, Self::Check, Self::Column, Self::Index];

    /// The guards of this kind that must be there: table and name.
    #[must_use]
    pub const fn expected(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Trigger => EXPECTED_TRIGGERS,
            Self::Check => EXPECTED_CHECKS,
            Self::Column => EXPECTED_COLUMNS,
            Self::Index => EXPECTED_INDEXES,
        }
    }

    /// The name of the check over all guards of this kind.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Trigger => "triggers",
            Self::Check => "checks",
            Self::Column => "columns",
            Self::Index => "indexes",
        }
    }

    /// Whether a guard that is there says what it was made to say. Primary keys are known by their names alone.
    #[must_use]
    pub fn is_as_made(self, guard: &Guard) -> bool {
        let table = table_of(&guard.table);
        let expected = match self {
            Self::Check => format!("constraint {} {}", guard.name, guard.definition),
            Self::Column => format!("{} {}", guard.name, guard.definition),
            Self::Index if guard.name.ends_with("_pkey") => return true,
            Self::Trigger | Self::Index => format!("{};", guard.definition),
        };
        // Names are qualified or not by the search path of whoever asks.
        without_schema(table).contains(&without_schema(&expected))
    }

    /// What is wrong with a guard of this kind that is there and does not work, and what to do.
    #[must_use]
    pub fn remedy(self, table: &str, name: &str) -> String {
        match self {
            Self::Trigger => format!(
                "trigger {name} on orch.{table} is disabled or does not always fire: run `orch migrate`, which puts it right"
            ),
            Self::Column => format!("column {name} of orch.{table} is not computed by the table"),
            Self::Check => format!(
                "constraint {name} on orch.{table} is not valid: run `alter table orch.{table} validate constraint {name}`"
            ),
            Self::Index => {
                format!("index {name} on orch.{table} is not valid: run `reindex index concurrently orch.{name}`")
            }
        }
    }
}

impl fmt::Display for GuardKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trigger => "trigger",
            Self::Check => "constraint",
            Self::Column => "generated column",
            Self::Index => "index",
        })
    }
}

/// A row that breaks an invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub invariant: String,
    /// The job or run.
    pub what: String,
}

/// A guard as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The table.
    pub table: String,
    /// The guard's name.
    pub name: String,
    /// Whether it works: a trigger that always fires, a constraint that is enforced and was checked, an index that is
    /// whole.
    pub works: bool,
    /// What it says, as the catalog writes it.
    pub definition: String,
}

/// What the server says of itself and of the replicas on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Of Postgres.
    pub version: String,
    /// The database.
    pub database: String,
    /// Whether it is a standby, which takes no writes.
    pub in_recovery: bool,
    /// Replicas that are live.
    pub live_replicas: i64,
    /// Live ones whose lease has run out.
    pub late_replicas: i64,
    /// Since the last tick of any reaper; none where there never was one. Seconds.
    pub last_tick_seconds: Option<f64>,
}

/// An open run that some boot of a state directory began.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectoryRun {
    /// The run.
    pub run_id: RunId,
    /// Its job.
    pub job_id: JobId,
    /// The directory as that boot saw it, its pid namespace included.
    pub state_dir_id: String,
    /// The boot of the machine.
    pub boot_id: String,
    /// Seconds until its replica's lease ends; negative once it has.
    pub lease_left_seconds: f64,
}

impl Db {
    /// At most `limit` rows that break an invariant.
    pub async fn violations(&self, limit: i64) -> Result<Vec<Violation>> {
        let rows = self.query(&VIOLATIONS, &[&limit]).await?;
        rows.iter()
            .map(|row| Ok(Violation { invariant: row.try_get("invariant")?, what: row.try_get("what")? }))
            .collect()
    }

    /// The guards of a kind that the database has.
    pub async fn guards(&self, kind: GuardKind) -> Result<Vec<Guard>> {
        let statement = match kind {
            GuardKind::Trigger => &TRIGGERS,
            GuardKind::Check => &CHECKS,
            GuardKind::Column => &COLUMNS,
            GuardKind::Index => &INDEXES,
        };
        let rows = self.query(statement, &[]).await?;
        rows.iter()
            .map(|row| {
                Ok(Guard {
                    table: row.try_get("table")?,
                    name: row.try_get("name")?,
                    works: row.try_get("works")?,
                    definition: row.try_get("definition")?,
                })
            })
            .collect()
    }

    /// The functions of this binary's schema that the database lacks or has otherwise, and how many there should be.
    pub async fn foreign_functions(&self) -> Result<(Vec<&'static str>, usize)> {
        let rows = self.query(&FUNCTIONS, &[]).await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            found.push((row.try_get::<_, &str>("name")?, row.try_get::<_, &str>("source")?));
        }
        let expected: Vec<(&str, &str)> = DEFINITIONS.iter().flat_map(|(_, sql)| functions_of(sql)).collect();
        let foreign = expected.iter().filter(|function| !found.contains(function)).map(|(name, _)| *name).collect();
        Ok((foreign, expected.len()))
    }

    /// What the database's clock says.
    pub async fn clock(&self) -> Result<Timestamp> {
        let row = self.query_opt(&CLOCK, &[]).await?;
        let row = row.ok_or_else(|| super::Error::Server { code: "?????".into(), message: "no row".into() })?;
        Ok(row.try_get("at")?)
    }

    /// The open runs of every boot that registered from a state directory (`state_dir::Identity::directory`).
    pub async fn directory_runs(&self, directory: &str) -> Result<Vec<DirectoryRun>> {
        let rows = self.query(&DIRECTORY_RUNS, &[&directory]).await?;
        rows.iter()
            .map(|row| {
                Ok(DirectoryRun {
                    run_id: RunId(row.try_get("run_id")?),
                    job_id: JobId(row.try_get("job_id")?),
                    state_dir_id: row.try_get("state_dir_id")?,
                    boot_id: row.try_get("boot_id")?,
                    lease_left_seconds: row.try_get("lease_left_seconds")?,
                })
            })
            .collect()
    }

    /// What the server says of itself.
    pub async fn server(&self) -> Result<Server> {
        let rows = self.query(&SERVER, &[]).await?;
        let row =
            rows.first().ok_or_else(|| super::Error::Server { code: "?????".into(), message: "no row".into() })?;
        Ok(Server {
            version: row.try_get("version")?,
            database: row.try_get("database")?,
            in_recovery: row.try_get("in_recovery")?,
            live_replicas: row.try_get("live_replicas")?,
            late_replicas: row.try_get("late_replicas")?,
            last_tick_seconds: row.try_get("last_tick_seconds")?,
        })
    }
}

/// The part of the committed schema that is about one table.
fn table_of(name: &str) -> &'static str {
    let from = COMMITTED.find(&format!("create table orch.{name} (")).map_or("", |at| &COMMITTED[at..]);
    from.get(1..).and_then(|rest| rest.find("create table orch.")).map_or(from, |end| &from[..=end])
}

fn without_schema(text: &str) -> String {
    text.replace("orch.", "")
}

/// The functions that a file of definitions makes: name and body, which the catalog keeps to the letter.
fn functions_of(sql: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    sql.split("create or replace function orch.").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once('(')?;
        let (_, rest) = rest.split_once("\nas $$")?;
        let (body, _) = rest.split_once("$$")?;
        Some((name, body))
    })
}

#[cfg(test)]
mod tests {
    use super::{DEFINITIONS, functions_of};

    #[test]
    fn no_function_escapes_the_doctor() {
        for (name, sql) in DEFINITIONS {
            assert_eq!(functions_of(sql).count(), sql.matches("create or replace function").count(), "{name}");
        }
        let names: Vec<&str> =
            DEFINITIONS.iter().flat_map(|(_, sql)| functions_of(sql)).map(|(name, _)| name).collect();
        assert!(names.contains(&"guard_owner") && names.contains(&"settle_rule"), "{names:?}");
    }
}
