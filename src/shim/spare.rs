//! Where a shim is born: in the directory of its run, or in a spare one, forked ahead of any run.
//!
//! Owns `<state_dir>/spares/`. What stands there has the name of a run that may come to be, is of none, and worth nothing to
//! anybody but the boot that made it. It becomes that run's directory whole: nobody ever sees half of one.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::{
    protocol::{RunDir, Spec},
    rundir::{Blank, JOB, LOCK, absent_is_fine, make_parent, private_file},
};
use crate::model::RunId;

const SPARES: &str = "spares";
const RUNS: &str = "runs";

/// The directory in which a shim gets ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Birthplace {
    /// Of the run that it is forked for.
    Run(RunId),
    /// Of none as yet: of the run with this name, should a claim open it.
    Spare(RunId),
}

impl Birthplace {
    /// As a spawner is told of it.
    pub(super) fn request(self) -> String {
        match self {
            Self::Run(run_id) => format!("{RUNS}/{run_id}"),
            Self::Spare(run_id) => format!("{SPARES}/{run_id}"),
        }
    }

    /// The run that is, or may be.
    pub(super) const fn run_id(self) -> RunId {
        match self {
            Self::Run(run_id) | Self::Spare(run_id) => run_id,
        }
    }

    /// What a spawner was told; none for anything else.
    pub(super) fn read(request: &str) -> Option<Self> {
        match request.split_once('/')? {
            (RUNS, run_id) => run_id.parse().ok().map(Self::Run),
            (SPARES, run_id) => run_id.parse().ok().map(Self::Spare),
            _ => None,
        }
    }

    /// Where that is.
    pub(super) fn path(self, state_dir: &Path) -> PathBuf {
        state_dir.join(self.request())
    }
}

/// A directory that waits for a run.
#[derive(Debug)]
pub struct SpareDir {
    path: PathBuf,
    run_id: RunId,
    blank: Blank,
}

impl SpareDir {
    /// Makes one. After an error nothing of it is left.
    pub fn make(state_dir: &Path) -> io::Result<Self> {
        let run_id = RunId::new();
        let path = Birthplace::Spare(run_id).path(state_dir);
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        // What can be made now need not be made when a run waits for it.
        let made = DirBuilder::new().mode(0o700).create(path.join(JOB));
        let blank = made
            .and_then(|()| private_file(&path.join(LOCK)))
            .and_then(|_| Blank::make(&path))
            .inspect_err(|_| drop(fs::remove_dir_all(&path)))?;
        Ok(Self { path, run_id, blank })
    }

    /// The one run whose directory it may become.
    #[must_use]
    pub const fn run_id(&self) -> RunId {
        self.run_id
    }

    /// How its shim is asked for.
    pub(super) const fn birthplace(&self) -> Birthplace {
        Birthplace::Spare(self.run_id)
    }

    /// Makes it the directory of its run, with everything that a shim needs. An error of kind `AlreadyExists`: the run
    /// has one, for example because it was given up; that one stands, and after any error this one does not.
    pub fn become_run(self, run: &RunDir, spec: &Spec, payload: &[u8]) -> io::Result<()> {
        let Self { path, run_id, blank } = self;
        if run.run_id() != run_id {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the directory is for another run"));
        }
        let move_it =
            || renameat2(AT_FDCWD, &path, AT_FDCWD, run.path(), RenameFlags::RENAME_NOREPLACE).map_err(io::Error::from);
        blank
            .fill(&path, spec, payload)
            .and_then(|()| match move_it() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    make_parent(run.path())?;
                    move_it()
                }
                outcome => outcome,
            })
            .inspect_err(|_| drop(fs::remove_dir_all(&path)))
    }

    /// Removes it. The shim in it goes by itself when its channel ends.
    pub fn remove(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_dir_all(&self.path))
    }

    /// Removes what earlier boots left of theirs.
    pub fn remove_all(state_dir: &Path) -> io::Result<()> {
        absent_is_fine(fs::remove_dir_all(state_dir.join(SPARES)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spawner_reads_what_it_is_told_and_nothing_else() {
        for place in [Birthplace::Run(RunId::new()), Birthplace::Spare(RunId::new())] {
            assert_eq!(Birthplace::read(&place.request()), Some(place));
        }
        for told in ["", "runs/", "runs/..", "spares/x", "leases/0199e0a1-7a7e-7000-8000-000000000000", "/etc"] {
            assert_eq!(Birthplace::read(told), None, "{told}");
        }
    }
}
