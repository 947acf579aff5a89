//! Which database is used, and how it is reached: `database_url`, else libpq's `PG*` variables, else the embedded
//! server's `database-url` in the state directory.
//!
//! Never connects. No refusal quotes a value, since any of them may hold the password.

use std::{
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use tokio_postgres::{Config, config::SslMode};

use super::{
    Settings,
    dsn::{self, Pairs},
    paths::{Environment, process_environment},
    pgpass,
};

/// The file below the state directory that the embedded server writes.
pub const DATABASE_URL_FILE: &str = "database-url";

/// The variables that name a database by themselves. `PGPASSWORD` or `PGAPPNAME` alone name none.
const NAMING: &[&str] = &["PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE"];

/// Where the choice of the database comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The setting `database_url` (or `DATABASE_URL`).
    Setting,
    /// The `PG*` variables.
    Variables,
    /// The embedded server of this state directory.
    StateDir(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting => f.write_str("the database of database_url"),
            Self::Variables => f.write_str("the database of the PG* variables"),
            Self::StateDir(directory) => write!(f, "the embedded Postgres of {}", directory.display()),
        }
    }
}

/// A database and why it is that one. Its `Debug` shows no password.
#[derive(Debug, Clone)]
pub struct Database {
    /// How to reach it.
    pub config: Config,
    /// Why it is that one.
    pub source: Source,
}

/// The database that the settings or the `PG*` variables name; `None` where neither does.
pub fn explicit_database(settings: &Settings) -> anyhow::Result<Option<Database>> {
    explicit_from(settings, &process_environment)
}

/// The database of every command but `orch up`: the explicit one, else the embedded one of the state directory.
pub fn database_config(settings: &Settings) -> anyhow::Result<Database> {
    database_from(settings, &process_environment)
}

/// Where renewals go: `renewal_url`, else the same database.
pub fn renewal_config(settings: &Settings, database: &Database) -> anyhow::Result<Config> {
    match &settings.renewal_url {
        Some(text) => resolve("renewal_url", text, &process_environment),
        None => Ok(database.config.clone()),
    }
}

/// A URL that orch wrote itself, such as the embedded server's: the `PG*` variables have no say in it.
pub fn own_url(text: &str) -> anyhow::Result<Config> {
    resolve("the database's URL", text, &|_| None)
}

/// Whether a text can name a database at all; refusals come at load and not at the first connection.
pub(super) fn validate(text: &str) -> Result<(), String> {
    let pairs = dsn::parse(text)?;
    translate(&pairs).map(drop)
}

fn explicit_from(settings: &Settings, environment: Environment<'_>) -> anyhow::Result<Option<Database>> {
    if let Some(text) = &settings.database_url {
        let config = resolve("database_url", text, environment)?;
        return Ok(Some(Database { config, source: Source::Setting }));
    }
    if NAMING.iter().any(|name| environment(name).is_some_and(|value| !value.is_empty())) {
        let config = resolve("the database of the PG* variables", "", environment)?;
        return Ok(Some(Database { config, source: Source::Variables }));
    }
    Ok(None)
}

fn database_from(settings: &Settings, environment: Environment<'_>) -> anyhow::Result<Database> {
    if let Some(database) = explicit_from(settings, environment)? {
        return Ok(database);
    }
    let file = settings.state_dir.join(DATABASE_URL_FILE);
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => bail!(
            "there is no database: set DATABASE_URL or PGHOST, or start \"orch up\", which brings its own ({} does not exist)",
            file.display()
        ),
        Err(error) => {
            return Err(error).with_context(|| {
                format!("cannot read {}: run as the user of orch up, or set DATABASE_URL", file.display())
            });
        }
    };
    let config = own_url(&text).with_context(|| format!("cannot use {}: start \"orch up\" again", file.display()))?;
    Ok(Database { config, source: Source::StateDir(settings.state_dir.clone()) })
}

/// A text and, for what it leaves out, the `PG*` variables, the password file and libpq's defaults.
fn resolve(what: &str, text: &str, environment: Environment<'_>) -> anyhow::Result<Config> {
    let variable = |name: &str| environment(name).and_then(|value| value.into_string().ok()).filter(|v| !v.is_empty());
    let mut pairs = dsn::parse(text).map_err(|message| anyhow!("{what} {message}"))?;
    for (keyword, name) in dsn::variables() {
        // A service or an address that the text rules out must not come back through the environment.
        let ruled_out = match keyword {
            "service" => !pairs.is_empty(),
            "hostaddr" => pairs.contains_key("host"),
            _ => pairs.contains_key(keyword),
        };
        if let Some(value) = variable(name).filter(|_| !ruled_out) {
            dsn::add(&mut pairs, keyword, value).map_err(|message| anyhow!("{name} {message}"))?;
        }
    }
    if !pairs.contains_key("user") {
        pairs.insert("user", system_user());
    }
    if !pairs.contains_key("host") && !pairs.contains_key("hostaddr") {
        pairs.insert("host", default_host(pairs.get("port").map_or("5432", String::as_str)));
    }
    if !pairs.contains_key("password") {
        let home = variable("HOME").map(|home| Path::new(&home).join(".pgpass"));
        let file = pairs.get("passfile").map(PathBuf::from).or(home);
        if let Some(password) = file.and_then(|file| pgpass::read(&file, wanted(&pairs))) {
            pairs.insert("password", password);
        }
    }
    translate(&pairs).map_err(|message| anyhow!("{what} {message}"))
}

/// What the password file is asked for: of several hosts the first. A socket's directory counts as `localhost`.
fn wanted(pairs: &Pairs) -> [&str; 4] {
    let first = |keyword: &str, default: &'static str| {
        pairs.get(keyword).and_then(|list| list.split(',').next()).filter(|v| !v.is_empty()).unwrap_or(default)
    };
    let user = first("user", "");
    let host = first("host", "localhost");
    let host = if SOCKET_DIRECTORIES.contains(&host) { "localhost" } else { host };
    [host, first("port", "5432"), pairs.get("dbname").map_or(user, String::as_str), user]
}

fn system_user() -> String {
    nix::unistd::User::from_uid(nix::unistd::Uid::effective())
        .ok()
        .flatten()
        .map_or_else(|| "postgres".to_owned(), |user| user.name)
}

const SOCKET_DIRECTORIES: &[&str] = &["/var/run/postgresql", "/tmp"];

fn default_host(port: &str) -> String {
    SOCKET_DIRECTORIES
        .iter()
        .find(|directory| Path::new(directory).join(format!(".s.PGSQL.{port}")).exists())
        .map_or_else(|| "localhost".to_owned(), |directory| (*directory).to_owned())
}

/// The driver's configuration.
fn translate(pairs: &Pairs) -> Result<Config, String> {
    let mut text = String::new();
    for (keyword, value) in pairs {
        let keyword = match (*keyword, value.as_str()) {
            ("passfile", _) | ("sslmode", "disable" | "allow" | "prefer") => continue,
            ("sslmode", "require" | "verify-ca" | "verify-full") => {
                return Err(format!(
                    "asks for TLS with sslmode {value}, which comes with a later version of orch: write sslmode=prefer, \
                     or reach the database over a tunnel"
                ));
            }
            ("sslmode", _) => return Err("has an unknown sslmode: write \"prefer\" or \"disable\"".to_owned()),
            ("channel_binding", "require") => {
                return Err("asks for channel binding, which needs TLS, and that comes with a later version of orch: \
                            write channel_binding=prefer"
                    .to_owned());
            }
            ("keepalives_count", _) => "keepalives_retries",
            (keyword, _) => keyword,
        };
        let value = value.replace('\\', "\\\\").replace('\'', "\\'");
        text.extend([keyword, "='", &value, "' "]);
    }
    // The driver's own words name the option at most, never a value; but only known options are told.
    let mut config: Config = text.parse().map_err(|error: tokio_postgres::Error| {
        let words = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let option = pairs.keys().find(|keyword| words.contains(&format!("`{keyword}`")));
        option.map_or_else(
            || "cannot be understood: write postgres://USER:PASSWORD@HOST:PORT/DATABASE".to_owned(),
            |option| format!("has a bad value for {option}: correct it"),
        )
    })?;
    config.ssl_mode(SslMode::Disable);
    if config.get_application_name().is_none() {
        config.application_name("orch");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(Duration::from_secs(5));
    }
    for (keyword, set) in [
        ("keepalives_idle", Config::keepalives_idle as fn(&mut Config, Duration) -> &mut Config),
        ("keepalives_interval", Config::keepalives_interval),
    ] {
        if !pairs.contains_key(keyword) {
            set(&mut config, Duration::from_secs(15));
        }
    }
    if !pairs.contains_key("keepalives_count") {
        config.keepalives_retries(3);
    }
    Ok(config)
}

#[cfg(test)]
mod tests;
