//! How schedules are shown: a line each, or one whole with its next ticks.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde::Serialize;
use serde_json::Value;

use super::{
    super::{
        context::{Context, explain},
        exit::{Exit, remark},
        output::{self, NONE, cut},
        when::{exact, short},
    },
    MOST, unknown,
};
use crate::{
    db::{Db, schedules::Schedule},
    model::schedule::{Answer, CatchUp, Fault, Rhythm, zone},
};

/// How many of its next ticks are shown.
const TICKS: usize = 5;

#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    schedule: &'a Schedule,
    /// The next ticks; none while it is paused.
    next_ticks: Vec<Timestamp>,
}

/// The schedule of this name.
pub(super) async fn find(db: &Db, name: &str) -> anyhow::Result<Option<Schedule>> {
    Ok(db.list_schedules(Some(name), 1).await.map_err(|error| explain(&error))?.pop())
}

pub(super) async fn one(context: &Context, db: &Db, name: &str) -> anyhow::Result<Exit> {
    let Some(schedule) = find(db, name).await? else { return unknown(db, name).await };
    let now = db.clock().await.map_err(|error| explain(&error))?;
    let next_ticks = next_ticks(&schedule, now);
    if context.json {
        output::document(&Whole { schedule: &schedule, next_ticks: next_ticks.unwrap_or_default() })?;
        return Ok(Exit::Done);
    }
    for (name, value) in lines(&schedule) {
        output::line(&format!("{name:<14}{value}"))?;
    }
    let zone = zone::find(&schedule.time_zone).unwrap_or(TimeZone::UTC);
    // What is wrong is said before a replica has looked.
    let next_ticks = match next_ticks {
        Ok(ticks) if ticks.is_empty() && !schedule.paused => {
            output::line(&format!("{:<14}never", "next"))?;
            ticks
        }
        Ok(ticks) => ticks,
        Err(fault) => {
            output::line(&format!("{:<14}never: {fault}", "next"))?;
            Vec::new()
        }
    };
    for (place, tick) in next_ticks.iter().enumerate() {
        let at = tick.to_zoned(zone.clone()).strftime("%a %Y-%m-%d %H:%M:%S %Z");
        let wait = short(tick.duration_since(now).as_secs_f64());
        output::line(&format!("{:<14}{at}  (in {wait})", if place == 0 { "next" } else { "" }))?;
    }
    if schedule.paused {
        remark(&format!("paused: `orch schedule resume {name}` lets it tick again"));
    }
    Ok(Exit::Done)
}

/// The next ticks, as this version computes them.
fn next_ticks(schedule: &Schedule, now: Timestamp) -> Result<Vec<Timestamp>, Fault> {
    let rhythm = match (&schedule.cron, schedule.every_seconds) {
        _ if schedule.paused => return Ok(Vec::new()),
        (Some(cron), _) => Rhythm::cron(cron, &schedule.time_zone),
        (None, seconds) => {
            let micros = (seconds.unwrap_or_default() * 1e6).round();
            Rhythm::every(SignedDuration::from_micros(micros as i64), schedule.anchor_at)
        }
    };
    Ok(rhythm?.ticks_after(now).take(TICKS).collect())
}

pub(super) async fn list(context: &Context) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    let schedules = db.list_schedules(None, MOST).await.map_err(|error| explain(&error))?;
    if context.json {
        output::document(&serde_json::json!({ "schedules": schedules }))?;
        return Ok(Exit::Done);
    }
    if schedules.is_empty() {
        remark("there is no schedule: `orch schedule add` adds one");
        return Ok(Exit::Done);
    }
    let now = db.clock().await.map_err(|error| explain(&error))?;
    let header = ["NAME", "WHEN", "AGENT", "NEXT", "LAST", "LAST JOB", "NOTE"];
    output::table(header, schedules.iter().map(|schedule| row(schedule, now)))?;
    Ok(Exit::Done)
}

fn row(schedule: &Schedule, now: Timestamp) -> [String; 7] {
    let none = || NONE.to_owned();
    let job = schedule.last_job_id.map(|id| match schedule.last_job_status {
        Some(status) => format!("{id} {status}"),
        None => format!("{id} removed"),
    });
    [
        schedule.name.clone(),
        when(schedule),
        schedule.agent.clone(),
        schedule.next_tick_at.map_or_else(none, |at| match at.duration_since(now).as_secs_f64() {
            left if left > 0.0 => format!("in {}", short(left)),
            _ => "due".to_owned(),
        }),
        schedule.last_tick_at.map_or_else(none, |at| format!("{} ago", short(now.duration_since(at).as_secs_f64()))),
        job.unwrap_or_else(none),
        note(schedule).unwrap_or_else(none),
    ]
}

/// When it ticks, as it was said.
fn when(schedule: &Schedule) -> String {
    match (&schedule.cron, schedule.every_seconds) {
        (Some(cron), _) if schedule.time_zone == "UTC" => cron.clone(),
        (Some(cron), _) => format!("{cron} ({})", schedule.time_zone),
        (None, seconds) => format!("every {}", exact(seconds.unwrap_or_default())),
    }
}

/// What is worth knowing of it.
fn note(schedule: &Schedule) -> Option<String> {
    if let Some(error) = &schedule.error {
        return Some(format!("ERROR: {}", cut(error, 80)));
    }
    if schedule.paused {
        return Some("paused".to_owned());
    }
    if schedule.planned && schedule.next_tick_at.is_none() {
        return Some("never ticks again".to_owned());
    }
    let waits = schedule.overdue_seconds.filter(|seconds| *seconds > schedule.grace_seconds);
    if let Some(seconds) = waits {
        return Some(format!("due for {}", short(seconds)));
    }
    let last = schedule.last_answer.filter(|answer| *answer == Answer::Skipped)?;
    Some(format!("last tick {last}"))
}

fn lines(schedule: &Schedule) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("schedule", schedule.name.clone()),
        ("when", when(schedule)),
        ("agent", schedule.agent.clone()),
        ("project", schedule.project.clone()),
    ];
    let mut some = |name, value: Option<String>| lines.extend(value.map(|value| (name, value)));
    some("anchor", schedule.every_seconds.map(|_| schedule.anchor_at.to_string()));
    some("overlap", Some(schedule.overlap.to_string()));
    let runs = match schedule.catch_up {
        CatchUp::Skip => "no run".to_owned(),
        CatchUp::One => "one run".to_owned(),
        CatchUp::All => format!("at most {} runs", schedule.catch_up_max),
    };
    let late = exact(schedule.grace_seconds);
    some("catch up", Some(format!("{}: {runs} for the ticks that are late by more than {late}", schedule.catch_up)));
    some("priority", (schedule.priority != 0).then(|| schedule.priority.to_string()));
    some("gate", schedule.gate.clone());
    some("limits", schedule.limits.as_ref().map(|limits| limits.join(",")));
    some("labels", schedule.labels.as_ref().map(Value::to_string));
    some("require", schedule.require.as_ref().map(Value::to_string));
    some("max attempts", schedule.max_attempts.map(|max| max.to_string()));
    some("timeout", schedule.timeout_seconds.map(exact));
    some("tick key", schedule.tick_key.clone());
    some("payload", schedule.payload.as_ref().map(|payload| payload.get().to_owned()));
    some(
        "last tick",
        schedule.last_tick_at.map(|at| {
            let answer = schedule.last_answer.map_or_else(String::new, |answer| format!(", {answer}"));
            format!("{at}{answer}")
        }),
    );
    some(
        "last job",
        schedule.last_job_id.map(|id| {
            let status = schedule.last_job_status.map_or_else(|| "removed".to_owned(), |status| status.to_string());
            format!("{id}, {status}")
        }),
    );
    some("skipped", (schedule.skipped > 0).then(|| schedule.skipped.to_string()));
    some("error", schedule.error.clone());
    lines
}
