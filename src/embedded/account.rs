//! Who the server runs as: the user of orch, or, since Postgres refuses root, an unprivileged one.

use std::{
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use nix::unistd::{Uid, User};
use tokio::process::Command;

/// The users that a server of root's may run as, the first that exists.
const UNPRIVILEGED: &[&str] = &["postgres", "nobody"];

/// The user of the server's processes and data.
#[derive(Debug, Clone)]
pub(super) struct Account {
    /// Name, uid and gid to change to; `None` where orch is no root and stays what it is.
    other: Option<(String, u32, u32)>,
}

impl Account {
    pub(super) fn for_server() -> anyhow::Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self { other: None });
        }
        let user = UNPRIVILEGED.iter().find_map(|name| User::from_name(name).ok().flatten()).context(
            "Postgres does not run as root, and there is neither a user postgres nor nobody for it: \
             create one (useradd --system postgres), run orch as an ordinary user, or set DATABASE_URL",
        )?;
        Ok(Self { other: Some((user.name, user.uid.as_raw(), user.gid.as_raw())) })
    }

    /// Whether the server's user is another than orch's.
    pub(super) fn is_other(&self) -> bool {
        self.other.is_some()
    }

    /// Gives a path to the server's user.
    pub(super) fn give(&self, path: &Path) -> std::io::Result<()> {
        self.other.as_ref().map_or(Ok(()), |(_, uid, gid)| chown(path, Some(*uid), Some(*gid)))
    }

    /// A program that runs as the server's user, in `directory`, with an environment of nothing but what it needs.
    ///
    /// The user changes between fork and exec, without supplementary groups; a group of its own keeps Ctrl-C, which
    /// is for orch, from it. It is not ended with orch.
    pub(super) fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").current_dir(directory).process_group(0).kill_on_drop(false);
        for name in ["PATH", "LD_LIBRARY_PATH", "TZ"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if let Some((_, uid, gid)) = &self.other {
            command.uid(*uid).gid(*gid);
        }
        command
    }

    /// Why the server's user cannot get to a directory: the first one on the way that is closed to it.
    pub(super) fn closed_directory(&self, directory: &Path) -> Option<(PathBuf, &str)> {
        let (name, uid, gid) = self.other.as_ref()?;
        let mut ancestors: Vec<&Path> = directory.ancestors().collect();
        ancestors.reverse();
        let closed = ancestors.into_iter().find(|path| {
            path.metadata().is_ok_and(|metadata| {
                let bit = match (metadata.uid() == *uid, metadata.gid() == *gid) {
                    (true, _) => 0o100,
                    (false, true) => 0o010,
                    (false, false) => 0o001,
                };
                metadata.mode() & bit == 0
            })
        })?;
        Some((closed.to_owned(), name))
    }
}
