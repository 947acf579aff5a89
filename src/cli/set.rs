//! `orch set ID`: when, and before which others, a job that does not run is to run.

use anyhow::bail;
use clap::Args;
use serde_json::json;

use super::{
    context::{Context, explain},
    exit::Exit,
    output,
    when::parse_when,
};
use crate::{db::jobs::When, model::JobId};

/// What to set.
#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// The job's number
    id: JobId,
    /// Higher runs first, from -32768 to 32767
    #[arg(long, allow_negative_numbers = true, required_unless_present = "run_at")]
    priority: Option<i16>,
    /// Not before: an RFC 3339 time, or a duration from now such as 10m
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    run_at: Option<When>,
}

pub(super) async fn run(context: &Context, args: SetArgs) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    let set = db.set_job(args.id, args.priority, args.run_at).await.map_err(|error| explain(&error))?;
    let Some((priority, run_at)) = set else {
        match db.job_progress(args.id).await.map_err(|error| explain(&error))? {
            Some(progress) => bail!("job {} is {}: only queued and held jobs can be set", args.id, progress.status),
            None => bail!("there is no job {}: `orch jobs` lists them", args.id),
        }
    };
    if context.json {
        output::document(&json!({ "id": args.id, "priority": priority, "run_at": run_at }))?;
    } else {
        output::line(&format!("job {}: priority {priority}, due {run_at}", args.id))?;
    }
    Ok(Exit::Done)
}
