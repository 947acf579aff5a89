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
    protocol::{Request, RunDir, Spec},
    rundir::{Blank, JOB, LOCK, absent_is_fine, make_parent, private_file},
    wire,
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

    /// Makes it the directory of its run, with everything that a shim needs but the word. An error of kind `AlreadyExists`: the
    /// run has one, for example because it was given up; that one stands, and after any error this one does not.
    pub fn become_run(self, run: &RunDir, spec: &Spec, payload: &[u8]) -> io::Result<Word> {
        let Self { path, run_id, mut blank } = self;
        if run.run_id() != run_id {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the directory is for another run"));
        }
        let move_it =
            || renameat2(AT_FDCWD, &path, AT_FDCWD, run.path(), RenameFlags::RENAME_NOREPLACE).map_err(io::Error::from);
        let mut fill = || {
            let identity = blank.fill(&path, spec, payload)?;
            let word = Word::of(Spec { identity, ..spec.clone() })?;
            if word.frame.len() <= wire::REQUEST_MAX {
                return Ok(word);
            }
            // Too long to be heard in one piece.
            word.spec.as_deref().map_or(Ok(()), |spec| blank.write_spec(spec))?;
            Word::to_read(run_id)
        };
        fill()
            .and_then(|word| match move_it() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    make_parent(run.path())?;
                    move_it().map(|()| word)
                }
                outcome => outcome.map(|()| word),
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

/// What a shim is told to begin: which run, and what that is, or that it stands in the run's directory.
#[derive(Debug)]
pub struct Word {
    run_id: RunId,
    frame: Vec<u8>,
    spec: Option<Box<Spec>>,
}

impl Word {
    /// Start what stands in `spec.json`.
    pub(super) fn to_read(run_id: RunId) -> io::Result<Self> {
        Ok(Self { run_id, frame: wire::frame(&Request::Begin { run_id, spec: None })?, spec: None })
    }

    /// Start this.
    fn of(spec: Spec) -> io::Result<Self> {
        let (run_id, spec) = (spec.run_id, Box::new(spec));
        let frame = wire::frame(&Request::Begin { run_id, spec: Some(spec.clone()) })?;
        Ok(Self { run_id, frame, spec: Some(spec) })
    }

    /// Of which run it speaks.
    pub(super) const fn run_id(&self) -> RunId {
        self.run_id
    }

    /// As it goes over the channel.
    pub(super) fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// Has `spec.json` say what it says: whoever was to be told is gone, and another shim is to read it.
    pub(super) fn write_down(&self, run: &RunDir) -> io::Result<()> {
        self.spec.as_deref().map_or(Ok(()), |spec| run.write_spec(spec))
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
