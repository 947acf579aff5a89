//! Looks for whatever is wrong: schema, guards, invariants, replicas, and what this machine can hold a run with.
//!
//! Owns the findings and what to do about each. Never repairs anything: a guard that is missing has a reason, and
//! somebody must hear of it.

mod live;
mod machine;
mod schedules;
mod together;

pub use machine::examine_machine;
use serde::Serialize;
pub use together::examine_together;

use crate::db::{
    self, Db,
    doctor::{Guard, GuardKind},
    horizon::Horizon,
};

/// Violations that are shown one by one; a database with more has one cause, not many.
const SHOWN: i64 = 100;

/// Without a tick for so long, jobs of dead replicas are not taken back. Seconds.
const LATE_TICK: f64 = 60.0;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Nothing is broken, but somebody should know.
    Note,
    /// Broken.
    Wrong,
}

/// One line of the doctor's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found, and what to do.
    pub what: String,
}

impl Finding {
    /// A finding.
    pub fn new(check: &'static str, verdict: Verdict, what: impl Into<String>) -> Self {
        Self { check, verdict, what: what.into() }
    }
}

/// Looks at a database whose schema is this binary's.
pub async fn examine_database(db: &Db) -> db::Result<Vec<Finding>> {
    let server = db.server().await?;
    let mut findings = vec![if server.in_recovery {
        Finding::new(
            "database",
            Verdict::Wrong,
            format!("{} is a standby, which takes no writes: name the primary", server.database),
        )
    } else {
        Finding::new("database", Verdict::Ok, format!("{} on Postgres {}", server.database, server.version))
    }];
    for kind in GuardKind::ALL {
        findings.extend(compare(kind, &db.guards(kind).await?));
    }
    findings.extend(functions(db).await?);
    findings.extend(violations(db).await?);
    findings.push(match (server.live_replicas, server.late_replicas) {
        (0, _) => Finding::new("replicas", Verdict::Note, "none is live: jobs wait until `orch up` runs somewhere"),
        (live, 0) => Finding::new("replicas", Verdict::Ok, format!("{live} live")),
        (live, late) if live == late => Finding::new(
            "replicas",
            Verdict::Note,
            format!(
                "{late} past the lease and none that could take over: their jobs wait until `orch up` runs somewhere"
            ),
        ),
        (live, late) => Finding::new(
            "replicas",
            Verdict::Note,
            format!("{live} live, {late} of them past the lease and soon declared dead"),
        ),
    });
    findings.push(match server.last_tick_seconds {
        Some(ago) if ago <= LATE_TICK => Finding::new("reaper", Verdict::Ok, format!("ticked {ago:.0} s ago")),
        _ if server.live_replicas == 0 => Finding::new("reaper", Verdict::Note, "rests: no replica is live"),
        Some(ago) => Finding::new(
            "reaper",
            Verdict::Wrong,
            format!(
                "last ticked {ago:.0} s ago although replicas are live: set reaper_enabled on one, and read its log"
            ),
        ),
        None => Finding::new("reaper", Verdict::Note, "has not ticked yet"),
    });
    findings.push(snapshots(&db.horizon().await?));
    findings.extend(schedules::examine(&db.list_schedules(None, schedules::MOST).await?));
    Ok(findings)
}

/// Who keeps dead rows in the way of every claim. Nothing is broken by it, but all grows slower.
fn snapshots(horizon: &Horizon) -> Finding {
    match horizon.alarm() {
        Some(alarm) => Finding::new("snapshots", Verdict::Note, alarm),
        None => Finding::new(
            "snapshots",
            Verdict::Ok,
            format!("no old one keeps dead rows, of which there are {}", horizon.dead_rows),
        ),
    }
}

/// The guards that are missing or do not work, else one line that says that all are there.
fn compare(kind: GuardKind, found: &[Guard]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (table, name) in kind.expected() {
        let guard = found.iter().find(|guard| guard.table == *table && guard.name == *name);
        let problem = match guard {
            Some(guard) if guard.works && kind.is_as_made(guard) => continue,
            Some(guard) if guard.works => format!(
                "{kind} {name} on orch.{table} is not as it was made, but {}: put it back as `orch migrate --sql` prints it",
                guard.definition
            ),
            Some(_) => kind.remedy(table, name),
            None if kind == GuardKind::Trigger => {
                format!("trigger {name} on orch.{table} is missing: run `orch migrate`, which puts it back")
            }
            None => format!("{kind} {name} on orch.{table} is missing: put it back as `orch migrate --sql` prints it"),
        };
        findings.push(Finding::new(kind.plural(), Verdict::Wrong, problem));
    }
    if findings.is_empty() {
        findings.push(Finding::new(
            kind.plural(),
            Verdict::Ok,
            format!("all {} are there and work", kind.expected().len()),
        ));
    }
    findings
}

/// The functions that somebody replaced by hand: a guard's trigger may be there and its function let everything through.
async fn functions(db: &Db) -> db::Result<Vec<Finding>> {
    let (foreign, expected) = db.foreign_functions().await?;
    if foreign.is_empty() {
        return Ok(vec![Finding::new("functions", Verdict::Ok, format!("all {expected} are this version's"))]);
    }
    let wrong = |name| format!("function orch.{name} is not this version's: run `orch migrate`, which puts it back");
    Ok(foreign.into_iter().map(|name| Finding::new("functions", Verdict::Wrong, wrong(name))).collect())
}

async fn violations(db: &Db) -> db::Result<Vec<Finding>> {
    let found = db.violations(SHOWN).await?;
    if found.is_empty() {
        return Ok(vec![Finding::new("invariants", Verdict::Ok, "no row breaks one")]);
    }
    let mut findings: Vec<Finding> = found
        .iter()
        .map(|violation| {
            Finding::new("invariants", Verdict::Wrong, format!("{}: {}", violation.invariant, violation.what))
        })
        .collect();
    if found.len() as i64 == SHOWN {
        findings.push(Finding::new("invariants", Verdict::Wrong, "there may be more: see the view orch.violations"));
    }
    Ok(findings)
}
