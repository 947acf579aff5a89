//! `orch logs ID`: the output of a job's runs, read from the database, wherever they ran.
//!
//! On a terminal nothing that a run wrote is obeyed; into a pipe or a file it goes as it is.

mod print;

use std::collections::HashSet;

use anyhow::bail;
use clap::Args;
use print::{Log, Rest};

use super::{
    context::{Context, explain},
    exit::{Exit, say},
    wait,
};
use crate::{
    db::{
        Db,
        jobs::{Progress, Run},
    },
    model::{JobId, RunId},
};

/// Whose output.
#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// The job's number
    id: JobId,
    /// Go on until the job has ended, over all its runs to come
    #[arg(short, long)]
    follow: bool,
    /// The run of this attempt [default: the last one]
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    attempt: Option<i32>,
}

pub(super) async fn run(context: &Context, args: LogsArgs) -> anyhow::Result<Exit> {
    let db = context.db().await?;
    if db.job_progress(args.id).await.map_err(|error| explain(&error))?.is_none() {
        bail!("there is no job {}: `orch jobs` lists them", args.id);
    }
    let runs = db.runs_of_job(args.id).await.map_err(|error| explain(&error))?;
    if args.follow {
        let mut follower = Follower::new(context);
        // What was printed of earlier runs is not asked for; the last one is.
        follower.shown.extend(runs.iter().rev().skip(1).map(|run| run.run_id));
        return wait::follow(&db, args.id, &mut follower).await;
    }
    let run = match args.attempt {
        Some(attempt) => runs.iter().find(|run| run.attempt == attempt),
        None => runs.last(),
    };
    let Some(run) = run else {
        match args.attempt {
            Some(attempt) => bail!("job {} has no attempt {attempt}: `orch job {}` lists its runs", args.id, args.id),
            None => bail!("job {} has not run yet: `orch logs --follow {}` waits for it", args.id, args.id),
        }
    };
    let mut log = Log::new(context, run.run_id);
    log.print(&db).await.map_err(|error| explain_any(&error))?;
    let rest = log.print_rest(&db).await?;
    Ok(Exit::from_success(rest != Rest::Missing))
}

/// As [`explain`], for an error that may be of the output instead of the database.
fn explain_any(error: &print::Failure) -> anyhow::Error {
    match error {
        print::Failure::Db(error) => explain(error),
        print::Failure::Output(error) => anyhow::anyhow!("{error:#}"),
    }
}

/// Prints the output of a job's runs while they run, one after the other.
pub(super) struct Follower<'a> {
    context: &'a Context,
    shown: HashSet<RunId>,
    current: Option<Log>,
}

impl<'a> Follower<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        Self { context, shown: HashSet::new(), current: None }
    }

    /// Prints what there is, of every run that began since. Whether there was anything.
    pub(super) async fn step(&mut self, db: &Db, id: JobId, progress: &Progress) -> anyhow::Result<bool> {
        let newest = progress.run_id.or(progress.last_run_id);
        let mut moved = false;
        if newest.is_some_and(|newest| !self.shown.contains(&newest)) {
            let runs = match db.runs_of_job(id).await {
                Err(error) if wait::is_passing(&error) => Vec::new(),
                runs => runs.map_err(|error| explain(&error))?,
            };
            for run in runs {
                if self.shown.insert(run.run_id) {
                    moved = true;
                    self.finish_current(db).await?;
                    self.begin(&run);
                }
            }
        }
        if let Some(current) = &mut self.current {
            moved |= match current.print(db).await {
                Ok(moved) => moved,
                // The wait asks again, and says how long it has been in vain.
                Err(print::Failure::Db(error)) if wait::is_passing(&error) => false,
                Err(error) => return Err(explain_any(&error)),
            };
        }
        Ok(moved)
    }

    /// Prints the rest of the run at hand, which has ended.
    pub(super) async fn finish_current(&mut self, db: &Db) -> anyhow::Result<()> {
        match self.current.take() {
            Some(mut current) => current.print_rest(db).await.map(drop),
            None => Ok(()),
        }
    }

    fn begin(&mut self, run: &Run) {
        if run.attempt > 1 {
            say(&format!("attempt {}, run {}", run.attempt, run.run_id));
        }
        self.current = Some(Log::new(self.context, run.run_id));
    }
}
