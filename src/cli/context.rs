//! What every command needs: the settings, the way to print, and the database, with sentences for when it says no.

use anyhow::anyhow;

use super::exit::say;
use crate::{
    config::{self, Database, Overrides, Settings, Source},
    db::{
        self, Db, Server,
        queue::Switches,
        schema::{self, SchemaState},
    },
};

/// A command asks a few questions, one after the other.
const CONNECTIONS: usize = 2;

/// What a command works with.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) settings: Settings,
    /// Whether data is JSON, one document a line, instead of text.
    pub(super) json: bool,
}

impl Context {
    /// Reads the settings.
    pub(super) fn load(overrides: &Overrides, json: bool) -> anyhow::Result<Self> {
        Ok(Self { settings: config::load(overrides)?, json })
    }

    /// The database that the settings, the environment or the state directory name. Says so where nobody named one.
    pub(super) fn database(&self) -> anyhow::Result<Database> {
        let database = config::database_config(&self.settings)?;
        if matches!(database.source, Source::StateDir(_)) {
            say(&format!("using {}", database.source));
        }
        Ok(database)
    }

    /// A pool on that database, after a look at whether its schema is this binary's.
    pub(super) async fn db(&self) -> anyhow::Result<Db> {
        let database = self.database()?;
        let own = matches!(database.source, Source::StateDir(_));
        let db = self.pool(database)?;
        let state = schema::check(&db).await.map_err(|error| match error {
            db::Error::Unavailable(why) if own => {
                anyhow!("the embedded Postgres does not answer ({why}): start `orch up`; if it runs, it starts its Postgres again, and its log says why it cannot")
            }
            error => explain(&error),
        })?;
        match state {
            SchemaState::Current => Ok(db),
            state => Err(anyhow!("{state}")),
        }
    }

    /// A pool that no connection was made for yet.
    pub(super) fn pool(&self, database: Database) -> anyhow::Result<Db> {
        Db::new(database.server, CONNECTIONS, self.settings.prepared_statements).map_err(|error| explain(&error))
    }
}

/// The switches that a summary of this process shows.
pub(super) const fn switches(settings: &Settings) -> Switches {
    Switches {
        reaper_enabled: settings.reaper_enabled,
        sanitize_enabled: settings.impossible_queued_sanitize_enabled,
        serial_gate_enabled: settings.serial_gate_enabled,
    }
}

/// Where a database is, for people; never its password.
pub(super) fn place(server: &Server) -> String {
    let hosts: Vec<String> = server.hosts().iter().map(db::place).collect();
    let first = server.hosts().first();
    let user = first.and_then(|host| host.get_user()).unwrap_or("-");
    format!("{} on {} as {user}", first.and_then(|host| host.get_dbname()).unwrap_or(user), hosts.join(","))
}

/// One sentence of what went wrong and what to do about it.
pub(super) fn explain(error: &db::Error) -> anyhow::Error {
    match error {
        db::Error::Refused { message, hint, .. } => match hint {
            Some(hint) => anyhow!("{message}: {hint}"),
            None => anyhow!("{message}"),
        },
        db::Error::Unavailable(why) => {
            anyhow!("cannot reach the database ({why}): start it, or correct DATABASE_URL or PGHOST")
        }
        db::Error::Untrusted(why) => anyhow!("cannot reach the database over TLS: {why}"),
        db::Error::Data { message, constraint: Some(constraint), .. } => {
            anyhow!("the database refuses the value: {message} (constraint {constraint}); nothing was changed")
        }
        db::Error::Data { message, .. } => anyhow!("the database refuses the value: {message}; nothing was changed"),
        db::Error::Conflict(why) => anyhow!("another transaction was in the way ({why}): try again"),
        db::Error::Locked(why) => anyhow!("another session holds a lock ({why}): try again when it is done"),
        db::Error::Server { code, message } => match code.as_str() {
            "28P01" | "28000" => {
                anyhow!(
                    "the database does not let this user in ({message}): correct user and password in DATABASE_URL or PG*"
                )
            }
            "3D000" => anyhow!("{message}: create it, or correct DATABASE_URL or PGDATABASE"),
            "3F000" | "42P01" | "42703" | "42883" => {
                anyhow!("the database's schema is not this version's ({message}): run `orch migrate`")
            }
            "42501" => anyhow!("{message}: connect as a user who may, or have the right granted"),
            _ => anyhow!("the database failed: {error}"),
        },
    }
}
