//! The directory of a run: `<state_dir>/runs/<run_id>/`, its names, its lock, its beginning and its end.
//!
//! Owns the layout and the rule that whoever holds `lock` decides whether the run ever starts. A shim never makes the
//! directory; a replica does, before it asks for the start, or to write `void` in it. Never signals, never waits.
//!
//! | name | |
//! |---|---|
//! | `lock` | held by the shim for as long as it lives; says who holds the tree |
//! | `void` | nothing may start here any more |
//! | `spec.json` | 0600, removed once the program runs: without it nothing starts. Empty where a spare shim was told what it says |
//! | `exit.json` | how it ended |
//! | `payload.json` | the payload, readable by the job's user |
//! | `socket` | where a successor reaches the shim |
//! | `log/` | the output, made with its first byte (`spool`) |
//! | `job/` | the only place here where the job's user may write; `job/result.json` is its result |

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, fchown},
    path::{Path, PathBuf},
};

use nix::unistd::{Uid, User, getgrouplist};

use super::protocol::{Exit, Identity, Spec};
use crate::model::RunId;

pub(super) const LOCK: &str = "lock";
pub(super) const VOID: &str = "void";
pub(super) const SPEC: &str = "spec.json";
pub(super) const EXIT: &str = "exit.json";
pub(super) const EXIT_TEMPORARY: &str = "exit.json.new";
pub(super) const PAYLOAD: &str = "payload.json";
pub(super) const SOCKET: &str = "socket";
pub(super) const LOG: &str = "log";
pub(super) const JOB: &str = "job";
pub(super) const RESULT: &str = "result.json";

/// The directory of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    state_dir: PathBuf,
    run_id: RunId,
    path: PathBuf,
}

/// The proof that no shim lives in a run directory and none can start there until this is dropped.
#[derive(Debug)]
pub struct RunLock {
    file: File,
}

impl RunDir {
    /// Names the directory; touches nothing.
    #[must_use]
    pub fn new(state_dir: &Path, run_id: RunId) -> Self {
        let path = state_dir.join("runs").join(run_id.to_string());
        Self { state_dir: state_dir.to_owned(), run_id, path }
    }

    /// The state directory that this run belongs to.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The run.
    #[must_use]
    pub const fn run_id(&self) -> RunId {
        self.run_id
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file whose lock the shim holds.
    #[must_use]
    pub fn lock_path(&self) -> PathBuf {
        self.path.join(LOCK)
    }

    /// The file that forbids the start.
    #[must_use]
    pub fn void_path(&self) -> PathBuf {
        self.path.join(VOID)
    }

    /// What is to be started.
    #[must_use]
    pub fn spec_path(&self) -> PathBuf {
        self.path.join(SPEC)
    }

    /// How it ended.
    #[must_use]
    pub fn exit_path(&self) -> PathBuf {
        self.path.join(EXIT)
    }

    /// `ORCH_PAYLOAD_FILE`.
    #[must_use]
    pub fn payload_path(&self) -> PathBuf {
        self.path.join(PAYLOAD)
    }

    /// `ORCH_RESULT_FILE`.
    #[must_use]
    pub fn result_path(&self) -> PathBuf {
        self.path.join(JOB).join(RESULT)
    }

    /// Where the job starts unless its agent names a directory.
    #[must_use]
    pub fn job_path(&self) -> PathBuf {
        self.path.join(JOB)
    }

    /// Where a successor reaches the shim. Longer than a socket's address may be: see [`super::client::attach`].
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.path.join(SOCKET)
    }

    /// The output. None stands there for a run that wrote nothing.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Makes the directory with everything that a shim needs. After an error nothing of it is left.
    pub fn create(&self, spec: &Spec, payload: &[u8]) -> io::Result<()> {
        let make = |path: &Path| DirBuilder::new().mode(0o700).create(path);
        match make(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_parent(&self.path)?;
                make(&self.path)?;
            }
            outcome => outcome?,
        }
        make(&self.job_path())
            .and_then(|()| {
                let mut blank = Blank::make(&self.path)?;
                let identity = blank.fill(&self.path, spec, payload)?;
                blank.write_spec(&Spec { identity, ..spec.clone() })
            })
            .inspect_err(|_| drop(fs::remove_dir_all(&self.path)))
    }

    /// Says in `spec.json`, which stands there empty, what is to be started. Where it does not stand the start was forbidden.
    pub(super) fn write_spec(&self, spec: &Spec) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).truncate(true).open(self.spec_path())?;
        file.write_all(&serde_json::to_vec(spec)?)
    }

    /// Takes the lock without waiting. `None`: a shim holds it, so the run has begun. An error of kind `NotFound`: there
    /// is no such directory.
    pub fn try_lock(&self) -> io::Result<Option<RunLock>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.lock_path())?;
        match file.try_lock() {
            Ok(()) => Ok(Some(RunLock { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Like [`Self::try_lock`], but makes the directory if there is none: the way to give up a claim whose start may
    /// still be under way.
    pub fn try_lock_or_make(&self) -> io::Result<Option<RunLock>> {
        make_parent(&self.path)?;
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.try_lock(),
        }
    }

    /// Forbids the start for ever. The lock is asked for because without it a shim may already be past its look at `void`.
    pub fn write_void(&self, _lock: &RunLock) -> io::Result<()> {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.void_path()).map(drop)
    }

    /// Whether the start was forbidden.
    pub fn is_void(&self) -> io::Result<bool> {
        self.void_path().try_exists()
    }

    /// How the run ended, if its shim has said so. A text that is cut off or empty says nothing: it is what a crash of
    /// the machine leaves of an end that was not yet made durable.
    pub fn read_exit(&self) -> io::Result<Option<Exit>> {
        match fs::read(self.exit_path()) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All runs of a state directory that are not retired, oldest first. Names that are no run are passed over.
    pub fn list(state_dir: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(state_dir.join("runs")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            if let Some(run_id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
                found.push(run_id);
            }
        }
        found.sort_unstable();
        Ok(found.into_iter().map(|run_id| Self::new(state_dir, run_id)).collect())
    }

    /// After the settle, and once the output is where it is to be kept: removes everything. May be repeated after an error.
    pub fn retire(self) -> io::Result<()> {
        // `spec.json` first and `lock` and `void` last: a shim that is still on its way must not find a startable run.
        absent_is_fine(fs::remove_file(self.spec_path()))?;
        absent_is_fine(remove_tree(&self.job_path()))?;
        absent_is_fine(remove_tree(&self.log_path()))?;
        for name in [EXIT, EXIT_TEMPORARY, PAYLOAD, SOCKET, VOID, LOCK] {
            absent_is_fine(fs::remove_file(self.path.join(name)))?;
        }
        absent_is_fine(remove_tree(&self.path))
    }
}

impl RunLock {
    /// Whether a shim ever held this run: its note is written before the first process of the job exists.
    pub fn has_begun(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() > 0)
    }

    /// The locked file; its text is the shim's note about what it holds.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

/// Where what is known of a run only when it is to start is written: empty files, in a directory that has the `job` directory.
#[derive(Debug)]
pub(super) struct Blank {
    payload: File,
    spec: File,
}

impl Blank {
    pub(super) fn make(directory: &Path) -> io::Result<Self> {
        Ok(Self { payload: private_file(&directory.join(PAYLOAD))?, spec: private_file(&directory.join(SPEC))? })
    }

    /// Writes the payload, and gives the job what is its own; `directory` is where they stand. Whom the job becomes.
    pub(super) fn fill(&mut self, directory: &Path, spec: &Spec, payload: &[u8]) -> io::Result<Option<Identity>> {
        let identity = spec.user.as_deref().map(look_up).transpose()?.flatten();
        self.payload.write_all(payload)?;
        // Nobody else can give files away; what an ordinary user may not, the shim says as an error of the start.
        if let Some(Identity { uid, gid, .. }) = &identity
            && Uid::effective().is_root()
        {
            chown(directory.join(JOB), Some(*uid), Some(*gid))?;
            fchown(&self.payload, Some(*uid), Some(*gid))?;
            // The job's user passes through, and can neither list nor write.
            fs::set_permissions(directory, fs::Permissions::from_mode(0o711))?;
        }
        Ok(identity)
    }

    /// Writes what a shim is to read before it starts anything.
    pub(super) fn write_spec(&mut self, spec: &Spec) -> io::Result<()> {
        self.spec.write_all(&serde_json::to_vec(spec)?)
    }
}

/// Makes the directory of all runs, if there is none.
pub(super) fn make_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(path);
    match DirBuilder::new().mode(0o711).create(parent) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // The umask must not keep the jobs' users from passing through.
        Ok(()) => fs::set_permissions(parent, fs::Permissions::from_mode(0o711)),
        error => error,
    }
}

/// A file of our own in a directory where nobody else may write, empty.
pub(super) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

pub(super) fn absent_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Removes a directory even where a job has taken its owner's rights away from parts of it.
fn remove_tree(path: &Path) -> io::Result<()> {
    // Most are empty by now, or not there.
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {}
        outcome => return outcome,
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            unlock_tree(path);
            fs::remove_dir_all(path)
        }
        outcome => outcome,
    }
}

fn unlock_tree(path: &Path) {
    let mut left = vec![path.to_owned()];
    while let Some(directory) = left.pop() {
        drop(fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)));
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        left.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
}

fn look_up(name: &str) -> io::Result<Option<Identity>> {
    let Some(user) = User::from_name(name)? else { return Ok(None) };
    let name = std::ffi::CString::new(user.name)?;
    let groups = getgrouplist(&name, user.gid)?.into_iter().map(nix::unistd::Gid::as_raw).collect();
    Ok(Some(Identity { uid: user.uid.as_raw(), gid: user.gid.as_raw(), groups }))
}
