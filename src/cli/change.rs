//! `orch cancel`, `retry`, `hold` and `release`: change jobs by their numbers, or by what they are.
//!
//! One job that refuses stops no other: a batch that fails is repeated one job at a time.

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::{
    context::{Context, explain},
    exit::{Exit, remark, say},
    output,
    select::FilterFlags,
};
use crate::{
    db::{Db, jobs::Change},
    model::{JobId, JobStatus},
};

/// Jobs that one statement changes: few enough that their locks are held for a moment only.
const BATCH: usize = 100;

/// Jobs that one statement of a filter names.
const PIECE: i64 = 1000;

/// Which jobs to change.
#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    /// Numbers of jobs
    #[arg(value_name = "ID")]
    ids: Vec<JobId>,
    #[command(flatten)]
    filter: FilterFlags,
    /// With filter flags: show what would be changed, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// A job that was not changed, and why.
#[derive(Debug, Serialize)]
struct Refusal {
    id: JobId,
    error: String,
}

/// The whole answer, as JSON.
#[derive(Debug, Default, Serialize)]
struct Answer {
    dry_run: bool,
    changed: Vec<JobId>,
    refused: Vec<Refusal>,
}

/// The statuses that a change can start from, and how its end is called.
const fn meaning(change: Change) -> (&'static [JobStatus], &'static str) {
    match change {
        Change::Cancel => (&[JobStatus::Queued, JobStatus::Held, JobStatus::Running], "cancelled"),
        Change::Retry => (&[JobStatus::Failed, JobStatus::Cancelled], "queued again"),
        Change::Hold => (&[JobStatus::Queued], "held"),
        Change::Release => (&[JobStatus::Held], "released"),
    }
}

pub(super) async fn run(context: &Context, change: Change, args: ChangeArgs) -> anyhow::Result<Exit> {
    let (statuses, _) = meaning(change);
    match (args.ids.is_empty(), args.filter.is_empty()) {
        (true, true) => bail!("no job was named: give numbers, or a filter such as --status or --project"),
        (false, false) => bail!("both numbers and a filter were given: give one of them"),
        (false, true) if args.dry_run => bail!("--dry-run goes with a filter: numbers name their jobs already"),
        _ => {}
    }
    let db = context.db().await?;
    let mut answer = Answer { dry_run: args.dry_run, ..Answer::default() };
    if args.ids.is_empty() {
        let filter = args.filter.filter(statuses);
        let mut after = JobId(0);
        loop {
            let piece = db.select_jobs(&filter, after, PIECE).await.map_err(|error| explain(&error))?;
            let Some(last) = piece.last() else { break };
            after = last.id;
            let ids: Vec<JobId> = piece.iter().map(|job| job.id).collect();
            if args.dry_run {
                if !context.json {
                    for job in &piece {
                        output::line(&format!("{}  {}  {}  {}", job.id, job.status, job.project, job.agent))?;
                    }
                }
                answer.changed.extend(ids);
            } else {
                change_all(context, &db, change, &ids, &mut answer).await?;
            }
        }
    } else {
        let mut ids = args.ids;
        ids.sort_unstable();
        ids.dedup();
        change_all(context, &db, change, &ids, &mut answer).await?;
    }
    finish(context, change, &answer)
}

async fn change_all(
    context: &Context,
    db: &Db,
    change: Change,
    ids: &[JobId],
    answer: &mut Answer,
) -> anyhow::Result<()> {
    let (_, done) = meaning(change);
    for batch in ids.chunks(BATCH) {
        let (mut changed, mut refused) = (Vec::new(), Vec::new());
        match db.change_jobs(change, batch).await {
            Ok(all) => changed = all,
            Err(error) if error.is_about_data() => {
                for id in batch {
                    match db.change_jobs(change, &[*id]).await {
                        Ok(one) => changed.extend(one),
                        Err(error) if error.is_about_data() => {
                            refused.push(Refusal { id: *id, error: format!("{:#}", explain(&error)) });
                        }
                        Err(error) => return Err(explain(&error)),
                    }
                }
            }
            Err(error) => return Err(explain(&error)),
        }
        for (id, status) in changed {
            answer.changed.push(id);
            if !context.json {
                // Only its owner can end a run; the job is cancelled once it has.
                let done = if status == JobStatus::Running { "is being cancelled" } else { done };
                output::line(&format!("job {id} {done}"))?;
            }
        }
        for line in &refused {
            say(&line.error);
        }
        answer.refused.extend(refused);
    }
    Ok(())
}

fn finish(context: &Context, change: Change, answer: &Answer) -> anyhow::Result<Exit> {
    let (_, done) = meaning(change);
    if context.json {
        output::document(answer)?;
    } else if answer.dry_run {
        remark(&format!("{} jobs would be {done}; nothing was changed", answer.changed.len()));
    } else if answer.changed.is_empty() && answer.refused.is_empty() {
        remark("no job matches; nothing was changed");
    }
    Ok(Exit::from_success(answer.refused.is_empty()))
}
