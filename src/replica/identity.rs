//! Whether the database is the one that this state directory served, and the one that it says it is. Until that is so,
//! or a person has said that it shall be (`orch doctor --accept-identity`), a replica is paused: it registers nothing.
//!
//! Owns the file `database` in the state directory. Never writes over what is remembered or noted, but in [`accept`].

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Once,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{launch::blocking, outage::jittered};
use crate::{
    db::{Db, identity::Identity},
    model::{Disagreement, Fingerprint, IdentityFacts, Memory, RunId},
    shim::protocol::RunDir,
};

/// How often a paused replica looks again.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What stands in the file `database`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    /// The database's name, for people.
    database: String,
    #[serde(flatten)]
    fingerprint: Fingerprint,
}

/// A look at database and state directory together.
#[derive(Debug, Clone)]
pub struct Look {
    state_dir: PathBuf,
    database: Identity,
    facts: IdentityFacts,
}

/// Looks; changes nothing.
///
/// # Errors
/// Where the database does not answer or the state directory cannot be read.
pub async fn look(db: &Db, state_dir: &Path) -> anyhow::Result<Look> {
    let database = db.identity().await.context("failed to ask the database which one it is")?;
    let dir = state_dir.to_owned();
    let (remembered, runs) = blocking(move || Ok((read(&dir)?, RunDir::list(&dir)?)))
        .await
        .with_context(|| format!("failed to read the state directory {}", state_dir.display()))?;
    // What is remembered tells more than its runs: one that was given up early was never known to any database.
    let unknown_runs = if remembered == Memory::Nothing && !runs.is_empty() {
        let runs: Vec<RunId> = runs.iter().map(RunDir::run_id).collect();
        let known = db.known_runs(&runs).await.context("failed to ask the database for the runs found here")?;
        runs.len() - known.len()
    } else {
        0
    };
    let facts = IdentityFacts {
        server: database.server,
        recorded: database.recorded,
        has_runs: database.has_runs,
        remembered,
        unknown_runs,
    };
    Ok(Look { state_dir: state_dir.to_owned(), database, facts })
}

impl Look {
    /// Which database this is, for people.
    #[must_use]
    pub fn database(&self) -> String {
        format!("{} ({})", self.database.name, self.database.server)
    }

    /// Whether the server tells its system identifier; if not, databases of the same oid look alike.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.database.server.system_identifier.is_some()
    }

    /// Why nothing may be done, and what to do about it: one sentence. None where all agree.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        let (here, dir) = (self.database(), self.state_dir.display());
        let accept = "`orch doctor --accept-identity`";
        Some(match self.facts.disagreement()? {
            Disagreement::Restored(recorded) => format!(
                "the database {here} says that it is another one ({recorded}), so it is a restored dump or a copy whose \
                 jobs may be running for the original: correct DATABASE_URL, or, if this is the original from now on \
                 (restored after a loss, moved, upgraded), run {accept} here with the same settings"
            ),
            Disagreement::NewDatabase(remembered) => format!(
                "the database {here} is new and empty, and the state directory {dir} served another one ({remembered}): \
                 correct DATABASE_URL, or, if the other one was dropped for good, run {accept} here with the same settings"
            ),
            Disagreement::OtherDatabase(remembered) => format!(
                "the state directory {dir} served another database ({remembered}) than {here}: correct DATABASE_URL, or \
                 choose another directory with --state-dir, or, if the other database is gone for good, run {accept} here \
                 with the same settings, after which what still runs here for it is ended"
            ),
            Disagreement::UnknownRuns(count) => format!(
                "the state directory {dir} holds {count} runs of which the database {here} knows nothing: correct \
                 DATABASE_URL, or choose another directory with --state-dir, or, if their database is gone for good, run \
                 {accept} here with the same settings, after which they are ended"
            ),
            Disagreement::Garbled => format!(
                "the file {} cannot be understood, so that nobody knows which database the directory served: if it was \
                 {here}, run {accept} here with the same settings",
                path(&self.state_dir).display()
            ),
        })
    }
}

/// Whether all agree: `Ok(Err(why))` where they do not. Where they do, what was not noted or remembered yet now is.
pub(super) async fn agree(db: &Db, state_dir: &Path) -> anyhow::Result<Result<(), String>> {
    let look = look(db, state_dir).await?;
    if let Some(why) = look.obstacle() {
        return Ok(Err(why));
    }
    let server = look.database.server;
    if !look.is_whole() {
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            warn!(
                "the server does not tell its system identifier to this user: a restored dump can be told from the \
                   original by the database's oid alone (grant execute on function pg_control_system() to change that)"
            );
        });
    }
    if look.facts.recorded.is_none_or(|recorded| recorded.system_identifier.is_none()) {
        db.note_identity(server).await.context("failed to note which database this is")?;
    }
    let known = match look.facts.remembered {
        Memory::Of(remembered) => remembered.system_identifier.is_some() || !look.is_whole(),
        Memory::Nothing | Memory::Garbled => false,
    };
    if !known && let Err(error) = remember(&look).await {
        // A full disk must not keep a replica from ending and settling what an earlier boot left.
        warn!(error = format!("{error:#}"), "failed to remember which database this directory serves");
    }
    Ok(Ok(()))
}

/// Waits until all agree; `false` if told to stop before. Says once what is wrong, and holds it in `paused` meanwhile.
///
/// # Errors
/// Where the first look fails; later ones are repeated.
pub(super) async fn wait_until_agreed(
    db: &Db,
    state_dir: &Path,
    paused: &watch::Sender<Option<String>>,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    loop {
        let before = paused.borrow().clone();
        match agree(db, state_dir).await {
            Ok(Ok(())) => {
                if paused.send_replace(None).is_some() {
                    info!("the database and the state directory agree: no longer paused");
                }
                return Ok(true);
            }
            Ok(Err(why)) => {
                if before.as_ref() != Some(&why) {
                    error!("paused: {why}");
                    paused.send_replace(Some(why));
                }
            }
            Err(error) if before.is_none() => return Err(error),
            Err(error) => debug!(error = format!("{error:#}"), "still paused"),
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(LOOK_EVERY)) => {}
            () = stop.cancelled() => return Ok(false),
        }
    }
}

/// Writes, on an operator's word, that this database is the original and this directory serves it. Returns what
/// disagreed before; `None`, and nothing is written, where nothing did.
///
/// # Errors
/// Where database or state directory cannot be read or written.
pub async fn accept(db: &Db, state_dir: &Path) -> anyhow::Result<Option<Look>> {
    if !state_dir.is_dir() {
        bail!(
            "there is no state directory {}: run this on the machine of the paused replica, with its settings",
            state_dir.display()
        );
    }
    let look = look(db, state_dir).await?;
    let Some(why) = look.obstacle() else { return Ok(None) };
    let detail = serde_json::json!({
        "host": super::state_dir::hostname(),
        "state_dir": state_dir,
        "recorded": look.facts.recorded,
        "accepted": look.database.server,
        "because": why,
    });
    db.accept_identity(look.database.server, &detail).await.context("failed to note which database this is")?;
    remember(&look).await.with_context(|| format!("failed to write {}", path(state_dir).display()))?;
    Ok(Some(look))
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("database")
}

fn read(state_dir: &Path) -> io::Result<Memory> {
    match fs::read(path(state_dir)) {
        Ok(text) => Ok(match serde_json::from_slice::<Remembered>(&text) {
            Ok(remembered) => Memory::Of(remembered.fingerprint),
            Err(_) => Memory::Garbled,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Memory::Nothing),
        Err(error) => Err(error),
    }
}

async fn remember(look: &Look) -> anyhow::Result<()> {
    let remembered = Remembered { database: look.database.name.clone(), fingerprint: look.database.server };
    let dir = look.state_dir.clone();
    blocking(move || write(&dir, &remembered)).await?;
    Ok(())
}

/// Aside and renamed: a crash leaves the old text or the new one. Readable by all, since an operator who accepts may be
/// another user than the replica.
fn write(state_dir: &Path, remembered: &Remembered) -> io::Result<()> {
    let path = path(state_dir);
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&new)?;
    serde_json::to_writer(&mut file, remembered)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(state_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_remembers_what_it_was_told_last() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Memory::Nothing);
        for system in [Some(i64::MAX), None] {
            let fingerprint = Fingerprint { system_identifier: system, database_oid: u32::MAX };
            write(dir.path(), &Remembered { database: "orch".to_owned(), fingerprint }).unwrap();
            assert_eq!(read(dir.path()).unwrap(), Memory::Of(fingerprint));
        }
        for half in ["", "{\"database\":\"orch\",\"system_identifier\":73", "{}"] {
            fs::write(path(dir.path()), half).unwrap();
            assert_eq!(read(dir.path()).unwrap(), Memory::Garbled, "{half:?}");
        }
    }
}
