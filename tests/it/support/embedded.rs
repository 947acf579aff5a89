//! Orch's own embedded Postgres as the test server: an installed one, newest first, else one that is downloaded.
//!
//! It stands in a temporary directory named by the process's tag, and gives up its durability.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use tokio_postgres::{Client, Config};

use super::{
    leftover::{TAG, is_gone},
    sweep::kill_beneath,
};

const PREFIX: &str = "orch-test-postgres-";

/// A running server; [`EmbeddedServer::stop`] ends it.
#[derive(Debug)]
pub(crate) struct EmbeddedServer {
    server: orch::embedded::Embedded,
    home: PathBuf,
    /// How to reach it.
    pub(crate) config: Config,
}

impl EmbeddedServer {
    /// Starts one.
    pub(crate) async fn start() -> Result<Self, String> {
        let home = std::env::temp_dir().join(format!("{PREFIX}{}", *TAG));
        let made = fs::create_dir(&home)
            // As root the server is another user, who must be able to pass through.
            .and_then(|()| fs::set_permissions(&home, fs::Permissions::from_mode(0o711)));
        made.map_err(|error| format!("make {}: {error}", home.display()))?;
        let server = orch::embedded::start(&home).await.map_err(|error| format!("{error:#}"))?;
        let config = orch::config::own_url(server.url()).map_err(|error| format!("{error:#}"))?;
        Ok(Self { server, home, config })
    }

    /// Ends the server and removes its directory.
    pub(crate) async fn stop(self) {
        // What does not end in order is killed: nobody wants its data.
        let _ = self.server.stop().await;
        kill_beneath(&self.home);
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// Kills and removes the servers of test processes that are gone.
pub(crate) fn remove_leftovers() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().and_then(|name| name.strip_prefix(PREFIX)).is_some_and(is_gone) {
            kill_beneath(&entry.path());
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
