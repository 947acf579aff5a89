//! The schema: brings a database to this binary's, and says how one differs from it.
//!
//! Owns the order (lock, schema, migrations, definitions) and the history table. Safe when several processes migrate at
//! once, and when repeated. Never takes anything away that a migration does not: it knows no way down.

mod files;

pub use files::{DEFINITIONS, MIGRATIONS, migrate_sql};
use refinery::Runner;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::{Db, Error, Result, Server, Statement, statement};

/// The table of applied migrations.
pub const HISTORY: &str = "orch.schema_history";

const EXISTS: Statement = statement!("schema/exists", []);
const STATE: Statement = statement!("schema/state", []);

/// The statements of this file. They stand beside the definitions, below `sql/schema`.
pub const STATEMENTS: &[&Statement] = &[&EXISTS, &STATE];

/// How a database's schema stands to this binary's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaState {
    /// There is none.
    #[error("the database has no schema orch: run `orch migrate`")]
    Missing,
    /// Migrations are missing.
    #[error("the database's schema is at version {found} and this binary needs {known}: run `orch migrate`")]
    Older {
        /// The last version that was applied.
        found: i32,
        /// The last version that this binary has.
        known: i32,
    },
    /// A newer binary has migrated it.
    #[error(
        "the database's schema is at version {found}, made by a newer orch, and this binary knows {known}: run the newer orch"
    )]
    Newer {
        /// The last version that was applied.
        found: i32,
        /// The last version that this binary has.
        known: i32,
    },
    /// An applied migration is not the one that this binary has under its number.
    #[error(
        "migration {version} of the database is not this binary's: it was made by another build of orch; run that build, or begin with an empty database"
    )]
    Foreign {
        /// The version.
        version: i32,
    },
    /// All migrations are applied, but functions, views and triggers are another build's.
    #[error("the functions, views and triggers of the database are those of another build of orch: run `orch migrate`")]
    Drifted,
    /// It is this binary's.
    #[error("the database's schema is this binary's")]
    Current,
}

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateReport {
    /// The migrations that were applied, as `V1__create_jobs`; empty where all were there.
    pub applied: Vec<String>,
    /// The version of the schema.
    pub version: i32,
    /// Whether functions, views and triggers were another build's before; they are re-applied in any case, which
    /// brings back what was disabled or replaced by hand.
    pub definitions_changed: bool,
}

/// Why a migration was not done.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database said no, or could not be reached.
    #[error(transparent)]
    Db(#[from] Error),
    /// The schema is not one that this binary can bring up to date.
    #[error("{0}")]
    Unfit(SchemaState),
}

/// Brings the schema of a database to this binary's: migrations once each, functions, views and triggers anew.
///
/// Each migration is one transaction, and so are the definitions together. Where a table is in use for longer than five
/// seconds it gives up with [`Error::Locked`], having done whole steps only: repeat it.
pub async fn migrate(server: impl Into<Server>) -> Result<MigrateReport, MigrateError> {
    // The lock has a connection of its own, and lives in a transaction, so that it also holds through a pooler.
    let server = server.into();
    let (lock, _lock_task) = connect(&server).await?;
    lock.batch_execute(&format!(
        "begin; set local idle_in_transaction_session_timeout = 0; select pg_advisory_xact_lock({})",
        files::LOCK
    ))
    .await
    .map_err(Error::from)?;

    let (mut client, _task) = connect(&server).await?;
    client
        .batch_execute(&format!("set client_min_messages = 'warning'; {}", files::CREATE_SCHEMA))
        .await
        .map_err(Error::from)?;
    let before = state(&history(&client).await?);
    if matches!(before, SchemaState::Newer { .. } | SchemaState::Foreign { .. }) {
        return Err(MigrateError::Unfit(before));
    }

    let mut runner = Runner::new(&files::migrations());
    runner.set_migration_table_name(HISTORY);
    let report = runner.run_async(&mut client).await.map_err(|error| of_refinery(&error))?;
    define(&mut client).await?;
    Ok(MigrateReport {
        applied: report
            .applied_migrations()
            .iter()
            .map(|migration| format!("V{}__{}", migration.version(), migration.name()))
            .collect(),
        version: known_version(),
        definitions_changed: before != SchemaState::Current,
    })
}

/// Says how a database's schema stands to this binary's.
pub async fn check(db: &Db) -> Result<SchemaState> {
    let exists = db.query_opt(&EXISTS, &[]).await?.map(|row| row.try_get("exists")).transpose()?.unwrap_or(false);
    if !exists {
        return Ok(SchemaState::Missing);
    }
    Ok(state(&db.query(&STATE, &[]).await?.iter().map(Applied::read).collect::<Result<Vec<_>>>()?))
}

/// A row of the history, and the hash of the definitions beside it.
struct Applied {
    version: i32,
    checksum: String,
    schema_hash: Option<String>,
}

impl Applied {
    fn read(row: &tokio_postgres::Row) -> Result<Self> {
        Ok(Self {
            version: row.try_get("version")?,
            checksum: row.try_get::<_, Option<String>>("checksum")?.unwrap_or_default(),
            schema_hash: row.try_get("schema_hash")?,
        })
    }
}

fn known_version() -> i32 {
    files::migrations().last().map_or(0, refinery::Migration::version)
}

fn state(history: &[Applied]) -> SchemaState {
    let known = known_version();
    let Some(last) = history.last() else { return SchemaState::Missing };
    if last.version > known {
        return SchemaState::Newer { found: last.version, known };
    }
    let ours = files::migrations();
    let foreign = history.iter().find(|applied| {
        !ours.iter().any(|migration| {
            migration.version() == applied.version && migration.checksum().to_string() == applied.checksum
        })
    });
    if let Some(foreign) = foreign {
        return SchemaState::Foreign { version: foreign.version };
    }
    if history.len() < ours.len() {
        return SchemaState::Older { found: last.version, known };
    }
    if last.schema_hash.as_deref() != Some(files::definitions_hash().as_str()) {
        return SchemaState::Drifted;
    }
    SchemaState::Current
}

async fn history(client: &Client) -> Result<Vec<Applied>> {
    if !client.query_one(EXISTS.sql, &[]).await?.try_get::<_, bool>("exists")? {
        return Ok(Vec::new());
    }
    client.query(STATE.sql, &[]).await?.iter().map(Applied::read).collect()
}

/// Applies functions, views and triggers anew, and keeps their hash.
async fn define(client: &mut Client) -> Result<()> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(files::LOCK_TIMEOUT).await?;
    transaction.batch_execute(files::LATE_BOUND).await?;
    for (name, sql) in DEFINITIONS {
        tracing::debug!(definition = name, "applying");
        transaction.batch_execute(sql).await?;
    }
    transaction.batch_execute(files::COMMENTS).await?;
    transaction.execute("update orch.meta set schema_hash = $1", &[&files::definitions_hash()]).await?;
    transaction.commit().await?;
    Ok(())
}

/// Ends the connection's task with its owner, also where the owner is cancelled.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn connect(server: &Server) -> Result<(Client, Task)> {
    let (client, task) = server.connect().await?;
    Ok((client, Task(task)))
}

/// What the server said, where it was the server; refinery wraps it.
fn of_refinery(error: &refinery::Error) -> Error {
    use std::error::Error as _;
    let text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(server) = error.downcast_ref::<tokio_postgres::Error>() {
            return Error::from(server);
        }
        cause = error.source();
    }
    Error::Server { code: "?????".to_owned(), message: text }
}
