//! Waits for a job's end, and says it as an exit code.
//!
//! Asks the database again and again: nothing has to be heard for a wait to end, so a database that was away in between
//! costs time and nothing else.

use std::time::{Duration, Instant};

use anyhow::bail;

use super::{
    context::explain,
    exit::{Exit, say},
    logs::Follower,
};
use crate::{
    db::{self, Db, jobs::Progress},
    model::{JobId, JobStatus, Outcome},
};

/// The first pause between two questions; each is half as long again as the one before, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(50);

const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The longest while output is printed on the way: what a run wrote is to be seen within a second.
const LONGEST_FOLLOWING: Duration = Duration::from_millis(300);

/// How long the database may be away before the wait is given up.
const PATIENCE: Duration = Duration::from_mins(2);

/// Waits for the end of a job, printing its runs' output on the way if there is a follower, and exits as it did.
pub(super) async fn for_end(db: &Db, id: JobId, follower: Option<&mut Follower<'_>>) -> anyhow::Result<Exit> {
    match until_end(db, id, follower).await? {
        Some(progress) => finish(id, &progress),
        None => Ok(Exit::Unknown),
    }
}

/// Prints the output of a job's runs until it has ended, however it did.
pub(super) async fn follow(db: &Db, id: JobId, follower: &mut Follower<'_>) -> anyhow::Result<Exit> {
    Ok(Exit::from_success(until_end(db, id, Some(follower)).await?.is_some()))
}

/// Where the job stands once it has ended; none where that could not be learned, after why was said.
async fn until_end(db: &Db, id: JobId, mut follower: Option<&mut Follower<'_>>) -> anyhow::Result<Option<Progress>> {
    let mut pause = PAUSE;
    let longest = if follower.is_some() { LONGEST_FOLLOWING } else { LONGEST_PAUSE };
    let mut told_held = false;
    let mut away_since = None;
    loop {
        let progress = match db.job_progress(id).await {
            Ok(Some(progress)) => progress,
            Ok(None) => {
                say(&format!("job {id} is gone: somebody deleted its row"));
                return Ok(None);
            }
            Err(error) if is_passing(&error) => {
                let since = *away_since.get_or_insert_with(|| {
                    say("the database does not answer; waiting for it");
                    Instant::now()
                });
                if since.elapsed() > PATIENCE {
                    say(&format!("job {id} was not heard of again: {:#}", explain(&error)));
                    return Ok(None);
                }
                tokio::time::sleep(LONGEST_PAUSE).await;
                continue;
            }
            Err(error) => {
                say(&format!("job {id} cannot be read any more: {:#}", explain(&error)));
                return Ok(None);
            }
        };
        away_since = None;
        let mut moved = false;
        if let Some(follower) = &mut follower {
            moved = follower.step(db, id, &progress).await?;
            if progress.status.is_finished() {
                follower.finish_current(db).await?;
            }
        }
        if progress.status.is_finished() {
            return Ok(Some(progress));
        }
        if progress.status == JobStatus::Held && !told_held {
            let why = progress.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            say(&format!("job {id} is held{why}; `orch release {id}` lets it go on, and this still waits"));
        }
        told_held = progress.status == JobStatus::Held;
        pause = if moved { PAUSE } else { (pause * 3 / 2).min(longest) };
        tokio::time::sleep(pause).await;
    }
}

/// Whether the same question may be answered later.
pub(super) const fn is_passing(error: &db::Error) -> bool {
    matches!(error, db::Error::Unavailable(_) | db::Error::Conflict(_) | db::Error::Locked(_))
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
    say(&format!("job {id} {}{why}", progress.status));
    Ok(exit)
}
