//! The state directory: who may use it, and what it is called, so that evidence found in it can be believed or not.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use uuid::Uuid;

/// The state directory of a replica, locked for as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    identity: Identity,
    _lock: File,
}

/// What this machine and this directory are, as the kernel sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The machine's name.
    pub host: String,
    /// The boot of the machine.
    pub boot_id: String,
    /// The pid namespace, e.g. `pid:[4026531836]`.
    pub pid_namespace: String,
    /// UUID in the directory, device and inode of its lock file: a copy has another.
    pub directory: String,
}

impl Identity {
    fn of(id: Uuid, lock: &std::fs::Metadata) -> anyhow::Result<Self> {
        Ok(Self {
            host: hostname(),
            boot_id: read_trimmed("/proc/sys/kernel/random/boot_id").context("failed to read the machine's boot id")?,
            pid_namespace: std::fs::read_link("/proc/self/ns/pid")
                .context("failed to read the pid namespace")?
                .to_string_lossy()
                .into_owned(),
            directory: format!("{id}/{}/{}", lock.dev(), lock.ino()),
        })
    }

    /// `replicas.state_dir_id`: the directory, and the pid namespace from which it was used.
    #[must_use]
    pub fn state_dir_id(&self) -> String {
        format!("{} {}", self.directory, self.pid_namespace)
    }

    /// Whether a `state_dir_id` names this very directory, from whatever pid namespace it was used.
    #[must_use]
    pub fn is_same_directory(&self, state_dir_id: &str) -> bool {
        state_dir_id.split(' ').next() == Some(self.directory.as_str())
    }

    /// Whether locks and processes seen here are evidence about a boot that registered with these two: same
    /// directory, same pid namespace, same boot of the machine.
    #[must_use]
    pub fn is_evidence_for(&self, state_dir_id: &str, boot_id: &str) -> bool {
        self.state_dir_id() == state_dir_id && self.boot_id == boot_id
    }
}

impl StateDir {
    /// Opens, or makes, the directory and takes its lock.
    ///
    /// # Errors
    /// Where it cannot be written, or another process holds it; each says what to do.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let advice = || format!("choose another with --state-dir or ORCH_STATE_DIR ({})", path.display());
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(path)
            .with_context(|| format!("failed to make the state directory; {}", advice()))?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .with_context(|| format!("failed to write to the state directory; {}", advice()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                lock.read_to_string(&mut holder).unwrap_or_default();
                bail!(
                    "another orch process{} uses the state directory {}; stop it, or {}",
                    Some(holder.trim())
                        .filter(|pid| !pid.is_empty())
                        .map(|pid| format!(" (pid {pid})"))
                        .unwrap_or_default(),
                    path.display(),
                    advice(),
                );
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("failed to lock the state directory; {}", advice()));
            }
        }
        // For people: a full disk must not keep a replica from ending and settling what an earlier boot left.
        if let Err(error) = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())) {
            tracing::warn!(%error, "failed to write the pid into the state directory's lock");
        }
        let id =
            read_or_make_id(&path.join("id")).with_context(|| format!("failed to name the directory; {}", advice()))?;
        let identity = Identity::of(id, &lock.metadata().context("failed to look at the lock file")?)?;
        Ok(Self { path: path.to_owned(), identity, _lock: lock })
    }

    /// What a directory is, without taking its lock; none where no replica ever used it.
    pub fn identity_of(path: &Path) -> anyhow::Result<Option<Identity>> {
        let id = match std::fs::read_to_string(path.join("id")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("failed to read {}", path.join("id").display()))?,
        };
        let Ok(lock) = path.join("lock").metadata() else { return Ok(None) };
        Identity::of(id.trim().parse().context("the state directory's id is no UUID")?, &lock).map(Some)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// The name of this machine, for people.
#[must_use]
pub(super) fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn read_trimmed(path: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(path)?.trim().to_owned())
}

fn read_or_make_id(path: &Path) -> anyhow::Result<Uuid> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().with_context(|| format!("{} holds no UUID; remove it", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = Uuid::new_v4();
            // Written aside and renamed: a crash leaves no half of a name.
            let new = path.with_extension("new");
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            writeln!(file, "{id}")?;
            file.sync_all()?;
            std::fs::rename(&new, path)?;
            Ok(id)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_on_the_directory_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        let refused = StateDir::open(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");
        drop(first);
        reopened(dir.path());
    }

    /// A child that another test forks has the lock as well until it becomes its program, so that it may last a moment.
    fn reopened(path: &std::path::Path) -> StateDir {
        let start = std::time::Instant::now();
        loop {
            match StateDir::open(path) {
                Ok(opened) => return opened,
                Err(error) => assert!(start.elapsed().as_secs() < 10, "{error:#}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[test]
    fn a_copied_directory_is_not_the_same_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (original, copy) = (dir.path().join("a"), dir.path().join("b"));
        let first = StateDir::open(&original).unwrap();
        std::fs::create_dir(&copy).unwrap();
        std::fs::copy(original.join("id"), copy.join("id")).unwrap();
        let second = StateDir::open(&copy).unwrap();
        assert!(!second.identity().is_same_directory(&first.identity().state_dir_id()));
    }

    #[test]
    fn a_directory_keeps_its_name_between_boots() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap().identity().state_dir_id();
        let second = reopened(dir.path());
        assert!(second.identity().is_same_directory(&first));
        assert!(!second.identity().is_evidence_for(&first, "another boot"));
    }
}
