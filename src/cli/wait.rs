//! Waits for a job's end, and says it as an exit code.
//!
//! Asks the database again and again: nothing has to be heard for a wait to end, so a database that was away in between
//! costs time and nothing else.

use std::time::{Duration, Instant};

use anyhow::bail;

use super::{context::explain, exit::Exit};
use crate::{
    db::{self, Db, jobs::Progress},
    model::{JobId, JobStatus, Outcome},
};

/// The first pause between two questions; each is half as long again as the one before, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(50);

const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long the database may be away before the wait is given up.
const PATIENCE: Duration = Duration::from_mins(2);

/// Waits for the end of a job.
pub(super) async fn for_end(db: &Db, id: JobId) -> anyhow::Result<Exit> {
    let mut pause = PAUSE;
    let mut told_held = false;
    let mut away_since = None;
    loop {
        let progress = match db.job_progress(id).await {
            Ok(Some(progress)) => progress,
            Ok(None) => return Ok(unknown(&format!("job {id} is gone: somebody deleted its row"))),
            Err(error @ (db::Error::Unavailable(_) | db::Error::Conflict(_) | db::Error::Locked(_))) => {
                let since = *away_since.get_or_insert_with(|| {
                    eprintln!("the database does not answer; waiting for it");
                    Instant::now()
                });
                if since.elapsed() > PATIENCE {
                    let error = explain(&error);
                    return Ok(unknown(&format!("job {id} was not heard of again: {error:#}")));
                }
                tokio::time::sleep(LONGEST_PAUSE).await;
                continue;
            }
            Err(error) => return Ok(unknown(&format!("job {id} cannot be read: {:#}", explain(&error)))),
        };
        away_since = None;
        if progress.status.is_finished() {
            return finish(id, &progress);
        }
        if progress.status == JobStatus::Held && !told_held {
            let why = progress.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            super::exit::say(&format!(
                "job {id} is held{why}; `orch release {id}` lets it go on, and this still waits"
            ));
        }
        told_held = progress.status == JobStatus::Held;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        tokio::time::sleep(pause).await;
    }
}

fn finish(id: JobId, progress: &Progress) -> anyhow::Result<Exit> {
    let exit = match (progress.status, progress.last_outcome) {
        (JobStatus::Succeeded, _) => return Ok(Exit::Done),
        (JobStatus::Failed, Some(Outcome::TimedOut)) => Exit::TimedOut,
        (JobStatus::Cancelled, _) => Exit::Cancelled,
        (JobStatus::Failed, _) => Exit::Failed,
        (status, _) => bail!("job {id} is {status}, which is no end"),
    };
    let why = progress.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
    super::exit::say(&format!("job {id} {}{why}", progress.status));
    Ok(exit)
}

fn unknown(sentence: &str) -> Exit {
    super::exit::say(sentence);
    Exit::Unknown
}
