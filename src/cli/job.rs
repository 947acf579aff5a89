//! `orch job ID`: one job, whole, with its runs.

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;

use super::{
    context::{Context, explain},
    exit::Exit,
    jobs::note,
    output::{self, NONE, cut},
    when::short,
};
use crate::{
    db::{
        dependencies::{Dependencies, Neighbours},
        jobs::{Job, Run, Whole},
    },
    model::{JobId, JobStatus},
};

/// Which job.
#[derive(Debug, Args)]
pub(super) struct JobArgs {
    /// The job's number
    id: JobId,
}

pub(super) async fn run(context: &Context, args: JobArgs) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    let Some(whole) = db.whole_job(args.id).await.map_err(|error| explain(&error))? else {
        bail!("there is no job {}: `orch jobs` lists them", args.id);
    };
    if context.json {
        output::document(&whole)?;
        return Ok(Exit::Done);
    }
    let Whole { job, dependencies, runs } = whole;
    for (name, value) in lines(&job, &dependencies) {
        output::line(&format!("{name:<14}{value}"))?;
    }
    if matches!(job.line.status, JobStatus::Queued | JobStatus::Held) {
        let why = db.why(args.id, context.settings.serial_gate_enabled).await.map_err(|error| explain(&error))?;
        output::line(&format!("{:<14}{}", "why", why.sentence))?;
    }
    if !runs.is_empty() {
        output::line("")?;
        show_runs(&runs)?;
    }
    Ok(Exit::Done)
}

fn lines(job: &Job, dependencies: &Dependencies) -> Vec<(&'static str, String)> {
    let line = &job.line;
    let mut lines = vec![
        ("job", line.id.to_string()),
        ("status", line.status.to_string()),
        ("project", line.project.clone()),
        ("agent", line.agent.clone()),
        ("priority", line.priority.to_string()),
        ("created", line.created_at.to_string()),
        ("due", line.run_at.to_string()),
    ];
    let failed = job.max_attempts.map_or_else(
        || format!("{} failed", line.failures),
        |max| format!("{} of at most {max} failed", line.failures),
    );
    lines.push(("attempts", format!("{}, {failed}", line.attempt)));
    let mut some = |name, value: Option<String>| lines.extend(value.map(|value| (name, value)));
    some("lost", (job.lost_count > 0).then(|| job.lost_count.to_string()));
    some("transient", (job.transient_count > 0).then(|| job.transient_count.to_string()));
    some("interrupted", (job.interrupted_count > 0).then(|| job.interrupted_count.to_string()));
    some("gate", job.gate.clone());
    some("limits", job.limits.as_ref().map(|limits| limits.join(", ")));
    some("require", job.require.as_ref().map(|labels| labels.get().to_owned()));
    some("labels", job.labels.as_ref().map(|labels| labels.get().to_owned()));
    some("dedupe key", job.dedupe_key.clone());
    some("timeout", job.timeout_seconds.map(short));
    some("runs after", neighbours(&dependencies.after));
    some("awaited by", neighbours(&dependencies.awaited_by));
    some("run", line.run_id.map(|run| run.to_string()));
    // Three facts that may fail apart: who owns the run and for how long, its process, and when it last said something.
    some("owner", line.replica.as_ref().map(|name| owner(name, line.host.as_deref(), job.lease_left_seconds)));
    some("pid", line.pid.map(|pid| pid.to_string()));
    some("output age", job.output_age_seconds.map(short));
    some("started", line.started_at.map(|at| at.to_string()));
    some("finished", line.finished_at.map(|at| at.to_string()));
    some("note", Some(note(line)).filter(|note| note != NONE && line.error.is_none()));
    some("error", line.error.clone());
    some("payload", Some(job.payload.get().to_owned()));
    some("result", job.result.as_ref().map(|result| result.get().to_owned()));
    lines
}

/// `job 5 (running), 7 (succeeded) and 12 more`; none where there are none.
fn neighbours(neighbours: &Neighbours) -> Option<String> {
    if neighbours.jobs.is_empty() {
        return None;
    }
    let each = neighbours.jobs.iter().map(|job| {
        let status = job.status.map_or_else(|| "removed".to_owned(), |status| status.to_string());
        format!("{} ({status})", job.id)
    });
    let shown = each.collect::<Vec<_>>().join(", ");
    let more = neighbours.total - neighbours.jobs.len() as i64;
    Some(if more > 0 { format!("{shown} and {more} more") } else { shown })
}

fn owner(name: &str, host: Option<&str>, lease_left: Option<f64>) -> String {
    let host = host.map(|host| format!(" on {host}")).unwrap_or_default();
    let lease = lease_left.map_or_else(String::new, |left| {
        if left > 0.0 {
            format!(", lease left {}", short(left))
        } else {
            format!(", lease over since {}", short(-left))
        }
    });
    format!("{name}{host}{lease}")
}

fn show_runs(runs: &[Run]) -> anyhow::Result<()> {
    let header = ["ATTEMPT", "RUN", "REPLICA", "PID", "OUTCOME", "EXIT", "TOOK", "CPU", "ERROR"];
    let none = || NONE.to_owned();
    let seconds = |from: Timestamp, to: Timestamp| short(to.duration_since(from).as_secs_f64());
    let rows = runs.iter().map(|run| {
        [
            run.attempt.to_string(),
            run.run_id.to_string(),
            run.replica.clone().or_else(|| run.host.clone()).unwrap_or_else(none),
            run.pid.map_or_else(none, |pid| pid.to_string()),
            run.outcome.map_or_else(|| "open".to_owned(), |outcome| outcome.to_string()),
            match (run.exit_code, run.signal) {
                (Some(code), _) => code.to_string(),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => none(),
            },
            run.ended_at.map_or_else(none, |ended| seconds(run.spawned_at.unwrap_or(run.claimed_at), ended)),
            match (run.user_cpu_seconds, run.system_cpu_seconds) {
                (Some(user), Some(system)) => format!("{:.2}s", user + system),
                _ => none(),
            },
            run.error.as_deref().map_or_else(none, |error| cut(error, 60)),
        ]
    });
    output::table(header, rows)
}
