//! `orch queue`: what `GET /queue` answers, read from the database by this process.

use super::{
    context::{Context, explain, switches},
    exit::Exit,
    output::{self, NONE},
    when::short,
};
use crate::{db::queue::Summary, model::JobStatus};

pub(super) async fn run(context: &Context) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    let finished = db.count_finished().await.map_err(|error| explain(&error))?;
    let switches = switches(&context.settings);
    let live = db.count_live(switches).await.map_err(|error| explain(&error))?;
    let summary = Summary::new(&live, &finished, switches);
    if context.json {
        output::document(&summary)?;
    } else {
        show(&summary)?;
    }
    Ok(Exit::Done)
}

fn show(summary: &Summary) -> anyhow::Result<()> {
    let mut header = ["PROJECT"; 7];
    for (cell, status) in header[1..].iter_mut().zip(JobStatus::ALL) {
        *cell = heading(*status);
    }
    let row = |name: &str, counts: &crate::db::queue::Counts| -> [String; 7] {
        std::array::from_fn(|column| match column.checked_sub(1) {
            None => name.to_owned(),
            Some(status) => JobStatus::ALL.get(status).and_then(|status| counts.get(status)).unwrap_or(&0).to_string(),
        })
    };
    let projects = summary.projects.iter().map(|(name, counts)| row(name, counts));
    output::table(header, projects.chain([row("(all)", &summary.counts)]))?;
    let none = || NONE.to_owned();
    if !summary.waiting.is_empty() {
        output::line("")?;
        let rows = summary.waiting.iter().map(|(reason, jobs)| [reason.to_string(), jobs.to_string()]);
        output::table(["WAITING FOR", "JOBS"], rows)?;
    }
    if !summary.running.is_empty() {
        output::line("")?;
        let rows = summary.running.iter().map(|job| {
            [
                job.job_id.to_string(),
                job.project.clone(),
                job.agent.clone(),
                job.replica.clone().unwrap_or_else(none),
                job.host.clone().unwrap_or_else(none),
                job.pid.map_or_else(none, |pid| pid.to_string()),
                short(job.age_seconds),
                job.lease_left_seconds.map_or_else(none, short),
                job.output_age_seconds.map_or_else(none, short),
            ]
        });
        output::table(["JOB", "PROJECT", "AGENT", "REPLICA", "HOST", "PID", "AGE", "LEASE LEFT", "OUTPUT AGE"], rows)?;
    }
    if !summary.replicas.is_empty() {
        output::line("")?;
        let rows = summary.replicas.iter().map(|replica| {
            [
                replica.name.clone(),
                replica.host.clone(),
                format!("{}/{}", replica.running, replica.max_concurrency),
                replica.agents.join(","),
                short(replica.lease_left_seconds),
                if replica.draining { "draining".to_owned() } else { none() },
            ]
        });
        output::table(["REPLICA", "HOST", "RUNNING", "AGENTS", "LEASE LEFT", "NOTE"], rows)?;
    }
    output::line("")?;
    let oldest = summary
        .oldest_queued_seconds
        .map_or_else(|| "no job is due".to_owned(), |age| format!("the oldest due job has waited {}", short(age)));
    let tick = summary.reaper.last_tick_at.map_or_else(
        || "never".to_owned(),
        |at| format!("{} ago", short(summary.counted_at.duration_since(at).as_secs_f64())),
    );
    output::line(&format!("{oldest}; finished jobs are those of the last 24 hours"))?;
    output::line(&format!(
        "reaper: last tick {tick}, {} reaped, {} impossible queued rows repaired",
        summary.reaper.reaped_total, summary.reaper.impossible_queued_total
    ))
}

const fn heading(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Queued => "QUEUED",
        JobStatus::Held => "HELD",
        JobStatus::Running => "RUNNING",
        JobStatus::Succeeded => "SUCCEEDED",
        JobStatus::Failed => "FAILED",
        JobStatus::Cancelled => "CANCELLED",
    }
}
