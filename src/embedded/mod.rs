//! The embedded Postgres: what `orch up` brings where nobody names a database, kept between runs.
//!
//! Owns `postgres/` and `database-url` in the state directory. The server runs on loopback, as an unprivileged user
//! where orch is root, and outlives an `orch up` that is killed; the next one finds it. Whether it lives is asked of a
//! lock that the server inherits and the kernel drops with its last process, never of a pid. Never runs Postgres as
//! root, never without fsync, and never touches a server that it did not start.

mod account;
mod cluster;
mod home;
mod install;
mod server;

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use tokio::process::Child;

use self::{account::Account, home::Home};

/// Between two looks whether the server lives.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A running embedded server. Dropped, the server goes on; [`Embedded::stop`] ends it.
#[derive(Debug)]
pub struct Embedded {
    home: Home,
    password: String,
    port: u16,
    url: String,
    /// The postmaster, where this process started it; kept so that its end is collected.
    child: Option<Child>,
    /// Held as long as this server is this process's to use and to stop.
    _owner: std::fs::File,
}

/// Starts the embedded server of a state directory, or finds the one that an earlier `orch up` left running, and
/// writes its `database-url`. Makes what is missing: the directory, an installation, the data.
///
/// Dropped before it is done, it leaves nothing running but an `initdb`, which ends by itself.
///
/// # Errors
/// A sentence that says what to do: another `orch up` uses it, no server can be had, the directory cannot be written,
/// the data are of a version that is not installed.
pub async fn start(state_dir: &Path) -> anyhow::Result<Embedded> {
    let account = Account::for_server()?;
    let home = Home::open(state_dir, account)?;
    let owner = home.lock_owner()?;
    let password = cluster::password(&home)?;
    let (port, child) = match server::find(&home, &password).await? {
        server::Found::Running(port) => {
            tracing::info!(port, "found the embedded Postgres of an earlier run");
            (port, None)
        }
        server::Found::Nothing(lock) => {
            let installed = cluster::choose_installation(&home).await?;
            cluster::initialize(&home, &installed, &password, &lock).await?;
            let (port, child) = server::launch(&home, &installed, &password, lock).await?;
            tracing::info!(port, version = installed.major, data = %home.data().display(), "started the embedded Postgres");
            (port, Some(child))
        }
    };
    let url = server::url(&password, port);
    home.write_private(&home.database_url(), &url)?;
    Ok(Embedded { home, password, port, url, child, _owner: owner })
}

impl Embedded {
    /// Its URL, with the password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Looks after the server: one that has died is started again, at the same port, as often as it takes. Comes back only
    /// if it could be started at another port alone, where nobody looks for it.
    pub async fn keep(&mut self) -> anyhow::Error {
        let mut complained = false;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.revive().await {
                Ok(None) => complained = false,
                Ok(Some(port)) if port == self.port => {
                    tracing::warn!(port, "the embedded Postgres had died and is started again");
                    complained = false;
                }
                Ok(Some(port)) => {
                    return anyhow::anyhow!(
                        "the embedded Postgres died, its port {} was taken meanwhile, and it is at {port} now: start `orch up` again",
                        self.port
                    );
                }
                Err(error) if !complained => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the embedded Postgres died and cannot be started; going on trying"
                    );
                    complained = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Starts the server if none of its processes lives. Its port, if it was started.
    async fn revive(&mut self) -> anyhow::Result<Option<u16>> {
        let Some(lock) = self.home.try_lock_server()? else { return Ok(None) };
        server::remove_foreign_pid_file(&self.home)?;
        let installed = cluster::choose_installation(&self.home).await?;
        let (port, child) = server::launch(&self.home, &installed, &self.password, lock).await?;
        // The former one is gone: the lock says so. Letting go of its handle collects it.
        self.child = Some(child);
        Ok(Some(port))
    }

    /// Stops the server, after everything else: connections that are left are ended (a "fast" shutdown), and what was
    /// committed is on disk.
    ///
    /// # Errors
    /// If it does not end within a minute even when told to end at once.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let stopped = server::stop(&self.home, Duration::from_secs(50)).await;
        if let Some(mut child) = self.child.take() {
            // Its last act was to let go of the lock; where it is given up, it is not waited for.
            let _ = tokio::time::timeout(Duration::from_secs(5), child.wait()).await;
        }
        stopped.with_context(|| format!("cannot stop the embedded Postgres of {}", self.home.root().display()))
    }
}
