//! Removes what finished runs left on this machine once it is old enough: `<state_dir>/done/<run_id>/`.
//!
//! Owns nothing but that one directory, and there only what is named as a run. Never follows a link, never touches
//! `runs/`, and does a bounded piece of work at a time, so that the loop that calls it stays on time.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tracing::{info, warn};

use crate::model::RunId;

/// What one call did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Directories removed.
    pub removed: usize,
    /// Whether `limit` was reached, so that there may be more.
    pub more: bool,
}

/// Removes at most `limit` directories of runs that ended more than `keep` ago. Blocks on the disk.
///
/// A run that cannot be removed is passed over; the error of the last such is returned once the others are gone.
pub fn prune_done(state_dir: &Path, keep: Duration, limit: usize) -> io::Result<Pruned> {
    match SystemTime::now().checked_sub(keep) {
        Some(cutoff) => prune_before(state_dir, cutoff, limit),
        None => Ok(Pruned::default()),
    }
}

/// Between two looks at what is old by now.
const EVERY: Duration = Duration::from_mins(10);
/// Directories removed in one piece of work.
const BATCH: usize = 200;

/// Prunes now and every ten minutes, for as long as it is polled. What fails is logged and tried again.
pub async fn run(state_dir: PathBuf, keep: Duration) {
    loop {
        let here = state_dir.clone();
        let pruned = tokio::task::spawn_blocking(move || prune_done(&here, keep, BATCH)).await;
        let more = match pruned.map_err(io::Error::other).flatten() {
            Ok(Pruned { removed: 0, .. }) => false,
            Ok(Pruned { removed, more }) => {
                info!(removed, "removed the output of runs that ended longer than keep_finished ago");
                more
            }
            Err(error) => {
                warn!(%error, "failed to remove old output; trying again later");
                false
            }
        };
        if !more {
            tokio::time::sleep(EVERY).await;
        }
    }
}

fn prune_before(state_dir: &Path, cutoff: SystemTime, limit: usize) -> io::Result<Pruned> {
    let mut pruned = Pruned::default();
    let entries = match fs::read_dir(state_dir.join("done")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(pruned),
        Err(error) => return Err(error),
    };
    let mut failure = None;
    for entry in entries {
        let entry = entry?;
        if pruned.removed == limit {
            pruned.more = true;
            break;
        }
        match is_old(&entry, cutoff)
            .and_then(|old| if old { fs::remove_dir_all(entry.path()).map(|()| true) } else { Ok(false) })
        {
            Ok(removed) => pruned.removed += usize::from(removed),
            // Somebody else removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(pruned), Err)
}

/// Whether the entry is the directory of a run that came here before `cutoff`.
fn is_old(entry: &fs::DirEntry, cutoff: SystemTime) -> io::Result<bool> {
    let Some(run) = entry.file_name().to_str().and_then(|name| name.parse::<RunId>().ok()) else { return Ok(false) };
    if claimed_at(run).is_some_and(|claimed| claimed > cutoff) {
        return Ok(false);
    }
    // Of the entry itself: a link is none of ours.
    let metadata = entry.metadata()?;
    Ok(metadata.is_dir() && came_at(&metadata).is_some_and(|came| came < cutoff))
}

/// When the directory was moved here, at the end of the run. Its modification time is no answer: that is when the run's
/// last log file was begun, which may be long before.
fn came_at(metadata: &fs::Metadata) -> Option<SystemTime> {
    let seconds = u64::try_from(metadata.ctime()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// When the run's name was made, which was before it ended; spares a look at the disk for every younger one.
fn claimed_at(run: RunId) -> Option<SystemTime> {
    let (seconds, nanos) = run.0.get_timestamp()?.to_unix();
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
        time::{Duration, SystemTime},
    };

    use uuid::{NoContext, Timestamp, Uuid};

    use super::{Pruned, prune_before, prune_done};

    const DAY: Duration = Duration::from_hours(24);

    /// A run that was claimed so long ago and ended just now.
    fn run(state: &Path, claimed: Duration) -> PathBuf {
        let claimed = SystemTime::now() - claimed;
        let unix = claimed.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let name = Uuid::new_v7(Timestamp::from_unix(NoContext, unix.as_secs(), 0)).to_string();
        let (live, done) = (state.join("runs").join(&name), state.join("done").join(&name));
        fs::create_dir_all(&live).unwrap();
        fs::create_dir_all(state.join("done")).unwrap();
        fs::write(live.join("0"), "output").unwrap();
        fs::File::open(&live).unwrap().set_modified(claimed).unwrap();
        fs::rename(&live, &done).unwrap();
        done
    }

    #[test]
    fn only_so_many_go_at_a_time() {
        let state = tempfile::tempdir().unwrap();
        let runs: Vec<_> = (1..4).map(|days| run(state.path(), DAY * days)).collect();
        let later = SystemTime::now() + DAY;
        assert_eq!(prune_before(state.path(), later, 2).unwrap(), Pruned { removed: 2, more: true });
        assert_eq!(prune_before(state.path(), later, 2).unwrap(), Pruned { removed: 1, more: false });
        assert!(runs.iter().all(|dir| !dir.exists()));
    }

    #[test]
    fn a_long_run_is_kept_from_its_end_on() {
        let state = tempfile::tempdir().unwrap();
        let long = run(state.path(), DAY * 30);
        assert_eq!(prune_done(state.path(), DAY * 14, 10).unwrap(), Pruned::default());
        assert!(long.join("0").exists());
    }

    #[test]
    fn a_run_that_was_claimed_after_the_cutoff_is_not_even_looked_at() {
        let state = tempfile::tempdir().unwrap();
        let young = run(state.path(), DAY);
        assert_eq!(prune_before(state.path(), SystemTime::now() - DAY * 2, 10).unwrap(), Pruned::default());
        assert!(young.exists());
    }

    #[test]
    fn what_is_no_run_stays_and_no_link_is_followed() {
        let state = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let done = state.path().join("done");
        let stranger = done.join("notes");
        fs::create_dir_all(&stranger).unwrap();
        fs::write(elsewhere.path().join("precious"), "").unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), done.join(Uuid::nil().to_string())).unwrap();
        assert_eq!(prune_before(state.path(), SystemTime::now() + DAY, 10).unwrap(), Pruned::default());
        assert!(stranger.exists() && elsewhere.path().join("precious").exists());
    }

    #[test]
    fn a_replica_that_never_finished_a_run_has_nothing_to_prune() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(prune_done(state.path(), DAY, 10).unwrap(), Pruned::default());
    }
}
