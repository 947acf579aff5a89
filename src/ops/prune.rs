//! Removes what finished runs left on this machine once it is old enough: `<state_dir>/done/<run_id>/`.
//!
//! Owns nothing but that one directory, and there only what is named as a run. Never follows a link, never touches
//! `runs/`, and does a bounded piece of work at a time, so that the loop that calls it stays on time.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

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
    let mut pruned = Pruned::default();
    let Some(cutoff) = SystemTime::now().checked_sub(keep) else { return Ok(pruned) };
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

/// Whether the entry is the directory of a run that was last written before `cutoff`.
fn is_old(entry: &fs::DirEntry, cutoff: SystemTime) -> io::Result<bool> {
    let Some(run) = entry.file_name().to_str().and_then(|name| name.parse::<RunId>().ok()) else { return Ok(false) };
    if claimed_at(run).is_some_and(|claimed| claimed > cutoff) {
        return Ok(false);
    }
    // Of the entry itself: a link is none of ours.
    let metadata = entry.metadata()?;
    Ok(metadata.is_dir() && metadata.modified()? < cutoff)
}

/// When the run's name was made, which was before it ended; spares a look at the disk for every younger one.
fn claimed_at(run: RunId) -> Option<SystemTime> {
    let (seconds, nanos) = run.0.get_timestamp()?.to_unix();
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        path::Path,
        time::{Duration, SystemTime},
    };

    use uuid::{Timestamp, Uuid};

    use super::{Pruned, prune_done};

    const DAY: Duration = Duration::from_hours(24);

    fn run(done: &Path, age: Duration) -> std::path::PathBuf {
        let ended = SystemTime::now() - age;
        let unix = ended.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let stamp = Timestamp::from_unix(uuid::NoContext, unix.as_secs() - 1, 0);
        let dir = done.join(Uuid::new_v7(stamp).to_string());
        fs::create_dir_all(dir.join("log")).unwrap();
        fs::write(dir.join("log/0"), "output").unwrap();
        File::open(&dir).unwrap().set_modified(ended).unwrap();
        dir
    }

    #[test]
    fn only_old_runs_go_and_only_so_many_at_a_time() {
        let state = tempfile::tempdir().unwrap();
        let done = state.path().join("done");
        let old: Vec<_> = (0..3).map(|n| run(&done, DAY * (15 + n))).collect();
        let young = run(&done, DAY * 13);
        assert_eq!(prune_done(state.path(), DAY * 14, 2).unwrap(), Pruned { removed: 2, more: true });
        assert_eq!(prune_done(state.path(), DAY * 14, 2).unwrap(), Pruned { removed: 1, more: false });
        assert!(old.iter().all(|dir| !dir.exists()));
        assert!(young.join("log/0").exists());
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
        assert_eq!(prune_done(state.path(), Duration::ZERO, 10).unwrap(), Pruned::default());
        assert!(stranger.exists() && elsewhere.path().join("precious").exists());
    }

    #[test]
    fn a_replica_that_never_finished_a_run_has_nothing_to_prune() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(prune_done(state.path(), DAY, 10).unwrap(), Pruned::default());
    }
}
