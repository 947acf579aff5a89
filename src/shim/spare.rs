//! Where a shim is born: in the directory of its run, or in a spare one, forked ahead of any run.
//!
//! Owns `<state_dir>/spares/`. What stands there is of no run, and worth nothing to anybody but the boot that made it. It
//! becomes a run's directory whole, by its name: nobody ever sees half of one.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use uuid::Uuid;

use super::{
    protocol::{RunDir, Spec},
    rundir::{JOB, LOCK, PAYLOAD, SPEC, absent_is_fine, fill, make_parent, private_file},
};
use crate::model::RunId;

const SPARES: &str = "spares";
const RUNS: &str = "runs";

/// The directory in which a shim gets ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Birthplace {
    /// Of the run that it is forked for.
    Run(RunId),
    /// Of none as yet.
    Spare(Uuid),
}

impl Birthplace {
    /// As a spawner is told of it.
    pub(super) fn request(self) -> String {
        match self {
            Self::Run(run_id) => format!("{RUNS}/{run_id}"),
            Self::Spare(name) => format!("{SPARES}/{name}"),
        }
    }

    /// What a spawner was told; none for anything else.
    pub(super) fn read(request: &str) -> Option<Self> {
        match request.split_once('/')? {
            (RUNS, run_id) => run_id.parse().ok().map(Self::Run),
            (SPARES, name) => name.parse().ok().map(Self::Spare),
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
    name: Uuid,
}

impl SpareDir {
    /// Makes one. After an error nothing of it is left.
    pub fn make(state_dir: &Path) -> io::Result<Self> {
        let name = Uuid::new_v4();
        let path = Birthplace::Spare(name).path(state_dir);
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        // What can be made now need not be made when a run waits for it.
        let made = DirBuilder::new().mode(0o700).create(path.join(JOB));
        made.and_then(|()| [LOCK, PAYLOAD, SPEC].iter().try_for_each(|name| private_file(&path.join(name)).map(drop)))
            .inspect_err(|_| drop(fs::remove_dir_all(&path)))?;
        Ok(Self { path, name })
    }

    /// How its shim is asked for.
    pub(super) const fn birthplace(&self) -> Birthplace {
        Birthplace::Spare(self.name)
    }

    /// Makes it the directory of this run, with everything that a shim needs. An error of kind `AlreadyExists`: the run
    /// has one, for example because it was given up; that one stands, and after any error this one does not.
    pub fn become_run(&self, run: &RunDir, spec: &Spec, payload: &[u8]) -> io::Result<()> {
        make_parent(run.path())
            .and_then(|()| fill(&self.path, spec, payload))
            .and_then(|()| {
                let kept = RenameFlags::RENAME_NOREPLACE;
                Ok(renameat2(AT_FDCWD, &self.path, AT_FDCWD, run.path(), kept)?)
            })
            .inspect_err(|_| drop(self.remove()))
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
        for place in [Birthplace::Run(RunId::new()), Birthplace::Spare(Uuid::new_v4())] {
            assert_eq!(Birthplace::read(&place.request()), Some(place));
        }
        for told in ["", "runs/", "runs/..", "spares/x", "leases/0199e0a1-7a7e-7000-8000-000000000000", "/etc"] {
            assert_eq!(Birthplace::read(told), None, "{told}");
        }
    }
}
