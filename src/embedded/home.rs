//! The files of the embedded server: where they are, who may read them, and the two locks.
//!
//! `postgres/owner.lock` is held by the `orch up` that uses the server; `postgres/server.lock` is inherited by the
//! server itself, as its standard input, so that it is free exactly when no process of the server is left.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use super::account::Account;
use crate::config::DATABASE_URL_FILE;

/// The server's part of a state directory.
#[derive(Debug)]
pub(super) struct Home {
    state_dir: PathBuf,
    root: PathBuf,
    pub(super) account: Account,
}

impl Home {
    /// Makes the directories where they are missing. As root they can be passed through, not listed, by the server's
    /// user, and only its data are its own.
    pub(super) fn open(state_dir: &Path, account: Account) -> anyhow::Result<Self> {
        let state_dir = std::path::absolute(state_dir).context("cannot find the state directory")?;
        let root = state_dir.join("postgres");
        let mode = if account.is_other() { 0o711 } else { 0o700 };
        let prepared = DirBuilder::new().recursive(true).mode(mode).create(&root).and_then(|()| {
            for directory in [&state_dir, &root].into_iter().filter(|_| account.is_other()) {
                let now = directory.metadata()?.permissions().mode();
                if now & 0o001 == 0 {
                    std::fs::set_permissions(directory, Permissions::from_mode(now | 0o001))?;
                }
            }
            Ok(())
        });
        prepared.with_context(|| {
            format!("cannot write the state directory {}: name another with --state-dir", state_dir.display())
        })?;
        if let Some((closed, user)) = account.closed_directory(&root) {
            bail!(
                "the directory {} is closed to the user {user}, whom Postgres runs as: \
                 open it (chmod o+x), or name another state directory with --state-dir",
                closed.display()
            );
        }
        Ok(Self { state_dir, root, account })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Where the data are made, before they are moved to their place whole.
    pub(super) fn unfinished_data(&self) -> PathBuf {
        self.root.join("data.new")
    }

    pub(super) fn password(&self) -> PathBuf {
        self.root.join("password")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("server.log")
    }

    pub(super) fn database_url(&self) -> PathBuf {
        self.state_dir.join(DATABASE_URL_FILE)
    }

    /// Takes the lock of the one `orch up` that uses this server.
    pub(super) fn lock_owner(&self) -> anyhow::Result<File> {
        self.try_lock("owner.lock")?.with_context(|| {
            format!(
                "another \"orch up\" uses the embedded Postgres of {}: stop it, give this one another --state-dir, \
                 or set DATABASE_URL (the other one's stands in {})",
                self.state_dir.display(),
                self.database_url().display()
            )
        })
    }

    /// The lock of the server's processes, if none of them lives.
    pub(super) fn try_lock_server(&self) -> anyhow::Result<Option<File>> {
        self.try_lock("server.lock")
    }

    fn try_lock(&self, name: &str) -> anyhow::Result<Option<File>> {
        let path = self.root.join(name);
        let file = open_private(&path, OpenOptions::new().create(true).truncate(false).read(true).write(true))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}: is it on a local disk?", path.display()))
            }
        }
    }

    /// Writes a file that nobody else may read, whole or not at all, and on disk before this returns.
    pub(super) fn write_private(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".new");
        let unfinished = PathBuf::from(unfinished);
        let mut file = open_private(&unfinished, OpenOptions::new().create(true).truncate(true).write(true))?;
        file.set_permissions(Permissions::from_mode(0o600))
            .and_then(|()| file.write_all(format!("{text}\n").as_bytes()))
            .and_then(|()| file.sync_all())
            .and_then(|()| std::fs::rename(&unfinished, path))
            .and_then(|()| sync_directory(path.parent().unwrap_or(&self.root)))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Opens a file that nobody else may read.
pub(super) fn open_private(path: &Path, options: &mut OpenOptions) -> anyhow::Result<File> {
    options.mode(0o600).open(path).with_context(|| {
        format!("cannot write {}: make the state directory writable or name another with --state-dir", path.display())
    })
}

/// Puts a directory's entries on disk.
pub(super) fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

/// A file's text, without the line's end; `None` where there is no file.
pub(super) fn read_line(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}: make it readable", path.display())),
    }
}
