//! `orch jobs`: a page of jobs, the newest first.

use clap::Args;

use super::{
    context::{Context, explain},
    exit::{Exit, remark},
    output::{self, NONE, cut},
    select::FilterFlags,
    when::short,
};
use crate::{
    db::jobs::{JobLine, Page},
    model::{JobId, JobStatus},
};

/// Which page.
#[derive(Debug, Args)]
pub(super) struct JobsArgs {
    #[command(flatten)]
    filter: FilterFlags,
    /// How many at the most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    /// The page after the one that ended with this job
    #[arg(long, value_name = "ID")]
    before: Option<JobId>,
}

pub(super) async fn run(context: &Context, args: JobsArgs) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    let filter = args.filter.filter(&[]);
    let page = db.page_of_jobs(&filter, args.before, args.limit).await.map_err(|error| explain(&error))?;
    if context.json {
        output::document(&page)?;
        return Ok(Exit::Done);
    }
    let Page { jobs, next } = page;
    if jobs.is_empty() {
        remark("no job matches");
        return Ok(Exit::Done);
    }
    let header = ["ID", "STATUS", "PROJECT", "AGENT", "PRIORITY", "ATTEMPT", "AGE", "NOTE"];
    let rows = jobs.iter().map(|job| {
        [
            job.id.to_string(),
            job.status.to_string(),
            job.project.clone(),
            job.agent.clone(),
            job.priority.to_string(),
            job.attempt.to_string(),
            short(job.read_at.duration_since(job.created_at).as_secs_f64()),
            note(job),
        ]
    });
    output::table(header, rows)?;
    if let Some(next) = next {
        remark(&format!("more: --before {next}"));
    }
    Ok(Exit::Done)
}

/// What is worth knowing of a job, in a few words.
pub(super) fn note(job: &JobLine) -> String {
    let error = || job.error.as_deref().map_or_else(|| NONE.to_owned(), |error| cut(error, 60));
    match job.status {
        JobStatus::Running => {
            let at = format!("on {}", job.replica.as_deref().or(job.host.as_deref()).unwrap_or("an unknown replica"));
            if job.cancel_requested_at.is_some() { format!("{at}, being cancelled") } else { at }
        }
        JobStatus::Queued if job.awaits_replica.is_some() => "waits until its old process has ended".to_owned(),
        JobStatus::Queued if !job.waits_for.is_empty() => {
            let others = job.waits_for.len() - 1;
            let more = if others > 0 { format!(" and {others} more") } else { String::new() };
            format!("waits for job {}{more}", job.waits_for[0])
        }
        JobStatus::Queued if job.run_at > job.read_at => {
            let wait = format!("due in {}", short(job.run_at.duration_since(job.read_at).as_secs_f64()));
            job.error.as_deref().map_or_else(|| wait.clone(), |error| format!("{wait}; {}", cut(error, 60)))
        }
        JobStatus::Succeeded => NONE.to_owned(),
        JobStatus::Queued | JobStatus::Held | JobStatus::Failed | JobStatus::Cancelled => error(),
    }
}
