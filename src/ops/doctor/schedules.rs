//! Schedules that do not do what somebody waits for.

use super::{Finding, Verdict};
use crate::db::schedules::Schedule;

/// More than anybody looks at.
pub(super) const MOST: i64 = 10_000;

/// Those that are told one by one; with more of them one cause is likely.
const SHOWN: usize = 20;

/// A line each that cannot be read, is refused, or is due and does not come; else one that says how many there are.
pub(super) fn examine(schedules: &[Schedule]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = schedules.iter().filter_map(trouble).take(SHOWN).collect();
    if findings.len() == SHOWN {
        findings.push(Finding::new("schedules", Verdict::Note, "there may be more: `orch schedule list`"));
    }
    if findings.is_empty() {
        let paused = schedules.iter().filter(|schedule| schedule.paused).count();
        findings.push(Finding::new("schedules", Verdict::Ok, format!("{}, {paused} of them paused", schedules.len())));
    }
    findings
}

fn trouble(schedule: &Schedule) -> Option<Finding> {
    let name = &schedule.name;
    if let Some(error) = &schedule.error {
        let what = format!("{name}: {error}; `orch schedule set {name}` changes it");
        return Some(Finding::new("schedules", Verdict::Wrong, what));
    }
    let overdue = schedule.overdue_seconds.filter(|seconds| *seconds > schedule.grace_seconds)?;
    let why = match (schedule.last_job_id, schedule.last_job_status) {
        (Some(job), Some(status)) if !status.is_finished() => format!("its job {job} is {status} and in the way"),
        _ => "no replica fires it: `orch replicas` shows who is there".to_owned(),
    };
    Some(Finding::new("schedules", Verdict::Note, format!("{name} has been due for {overdue:.0} s: {why}")))
}
