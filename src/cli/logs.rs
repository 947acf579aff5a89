//! `orch logs ID`: the output of a job's runs, read from the state directory of this machine.
//!
//! On a terminal nothing that a run wrote is obeyed; into a pipe or a file it goes as it is.

use std::collections::HashSet;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use super::{
    context::{Context, explain},
    escape::Stream,
    exit::{Exit, say},
    output, wait,
};
use crate::{
    db::{
        Db,
        jobs::{Progress, Run},
    },
    model::{JobId, RunId},
    shim::log::{LogReader, Piece},
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
    log.print()?;
    log.end()?;
    if !log.is_here()? {
        say(&whereabouts(context, run));
        return Ok(Exit::from_success(run.log_bytes_kept == Some(0)));
    }
    Ok(Exit::Done)
}

/// The output of one run on its way to stdout.
struct Log {
    run_id: RunId,
    reader: LogReader,
    /// Set where stdout is a terminal.
    escape: Option<Stream>,
    json: bool,
}

impl Log {
    fn new(context: &Context, run_id: RunId) -> Self {
        let escape = (!context.json && output::stdout_is_terminal()).then(Stream::default);
        Self { run_id, reader: LogReader::new(&context.settings.state_dir, run_id), escape, json: context.json }
    }

    /// Prints what there is and was not printed yet. Whether there was anything.
    fn print(&mut self) -> anyhow::Result<bool> {
        let mut moved = false;
        while let Some(piece) = self.reader.next_piece().with_context(|| self.complaint())? {
            moved = true;
            match (piece, &mut self.escape) {
                (Piece::Bytes(bytes), _) if self.json => {
                    output::document(&json!({ "run_id": self.run_id, "output": String::from_utf8_lossy(&bytes) }))?;
                }
                (Piece::Dropped(dropped), _) if self.json => {
                    output::document(&json!({ "run_id": self.run_id, "dropped": dropped }))?;
                }
                (Piece::Bytes(bytes), None) => output::write(&bytes)?,
                (Piece::Bytes(bytes), Some(escape)) => output::write(escape.next(&bytes).as_bytes())?,
                (Piece::Dropped(dropped), _) => {
                    say(&format!("{dropped} bytes of the output were not kept here (log_cap)"));
                }
            }
        }
        Ok(moved)
    }

    /// Prints what was kept back for a piece that will not come.
    fn end(&mut self) -> anyhow::Result<()> {
        match &mut self.escape {
            Some(escape) => output::write(escape.end().as_bytes()),
            None => Ok(()),
        }
    }

    fn is_here(&self) -> anyhow::Result<bool> {
        self.reader.is_here().with_context(|| self.complaint())
    }

    fn complaint(&self) -> String {
        format!("failed to read the output of run {}; read it as the user that runs the replica", self.run_id)
    }
}

/// Where the output of a run is, if it is not in this state directory.
fn whereabouts(context: &Context, run: &Run) -> String {
    let here = context.settings.state_dir.display();
    let host = run.host.as_deref().unwrap_or("an unknown host");
    let run_id = run.run_id;
    if run.log_bytes_kept == Some(0) {
        format!("run {run_id} wrote no output")
    } else if run.host.as_deref().is_some_and(|host| !is_this_host(host)) {
        format!("the output of run {run_id} is on {host}, where it ran: read it there with `orch logs`")
    } else if run.spawned_at.is_none() {
        format!("run {run_id} never began, so there is no output")
    } else {
        format!(
            "the output of run {run_id} is not in {here}: name the state directory of its replica with --state-dir, unless \
             it was removed after keep_finished"
        )
    }
}

fn is_this_host(host: &str) -> bool {
    nix::unistd::gethostname().is_ok_and(|name| name.to_string_lossy() == host)
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
                    moved |= self.finish_current()?;
                    self.begin(&run);
                }
            }
        }
        if let Some(current) = &mut self.current {
            moved |= current.print()?;
        }
        Ok(moved)
    }

    /// Prints the rest of the run at hand.
    pub(super) fn finish_current(&mut self) -> anyhow::Result<bool> {
        let Some(mut current) = self.current.take() else { return Ok(false) };
        let moved = current.print()?;
        current.end()?;
        Ok(moved)
    }

    fn begin(&mut self, run: &Run) {
        if run.attempt > 1 {
            say(&format!("attempt {}, run {}", run.attempt, run.run_id));
        }
        if run.host.as_deref().is_some_and(|host| !is_this_host(host)) {
            say(&whereabouts(self.context, run));
        }
        self.current = Some(Log::new(self.context, run.run_id));
    }
}
