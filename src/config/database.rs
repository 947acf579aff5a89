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
use tokio_postgres::{Config, config::TargetSessionAttrs};

use super::{
    Settings,
    dsn::{self, Pairs},
    paths::{Environment, process_environment},
    pgpass, tls,
};
use crate::db::Server;

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
    pub server: Server,
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
pub fn renewal_server(settings: &Settings, database: &Database) -> anyhow::Result<Server> {
    match &settings.renewal_url {
        Some(text) => resolve("renewal_url", text, &process_environment),
        None => Ok(database.server.clone()),
    }
}

/// A URL that orch wrote itself, such as the embedded server's: one host, this machine, and the `PG*` variables have no say
/// in it.
pub fn own_url(text: &str) -> anyhow::Result<Config> {
    let server = resolve("the database's URL", text, &|_| None)?;
    server.hosts().first().cloned().context("the database's URL names no host")
}

/// Whether a text can name a database at all; refusals come at load and not at the first connection.
pub(super) fn validate(text: &str) -> Result<(), String> {
    let pairs = dsn::parse(text)?;
    servers(&pairs, None, &|_| None).map(drop)
}

fn explicit_from(settings: &Settings, environment: Environment<'_>) -> anyhow::Result<Option<Database>> {
    if let Some(text) = &settings.database_url {
        let server = resolve("database_url", text, environment)?;
        return Ok(Some(Database { server, source: Source::Setting }));
    }
    if NAMING.iter().any(|name| environment(name).is_some_and(|value| !value.is_empty())) {
        let server = resolve("the database of the PG* variables", "", environment)?;
        return Ok(Some(Database { server, source: Source::Variables }));
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
    let server = own_url(&text).with_context(|| format!("cannot use {}: start \"orch up\" again", file.display()))?;
    Ok(Database { server: server.into(), source: Source::StateDir(settings.state_dir.clone()) })
}

/// A text and, for what it leaves out, the `PG*` variables, the password file and libpq's defaults.
fn resolve(what: &str, text: &str, environment: Environment<'_>) -> anyhow::Result<Server> {
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
    let home = variable("HOME").map(PathBuf::from);
    let passwords = pairs.get("passfile").map(PathBuf::from).or(home.as_ref().map(|home| home.join(".pgpass")));
    let ask = |wanted: [&str; 4]| passwords.as_ref().and_then(|file| pgpass::read(file, wanted));
    // Somebody without a home has no default files, but what they could supply is missed.
    let home = home.unwrap_or_else(|| PathBuf::from("/nonexistent"));
    servers(&pairs, Some(&home), &ask).map_err(|message| anyhow!("{what} {message}"))
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

/// Asked for the password of `[host, port, database, user]`.
type Passwords<'a> = &'a dyn Fn([&str; 4]) -> Option<String>;

/// The hosts, each with what is common to all. `home` is where default files are; none: they are not looked for.
fn servers(pairs: &Pairs, home: Option<&Path>, passwords: Passwords<'_>) -> Result<Server, String> {
    let tls = tls::of(pairs, home)?;
    let list = |keyword: &str| -> Vec<&str> {
        pairs.get(keyword).map(|list| list.split(',').map(str::trim).collect()).unwrap_or_default()
    };
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err(format!("has {} hosts and {} addresses: write one address a host", names.len(), addresses.len()));
    }
    let count = names.len().max(addresses.len()).max(1);
    if ports.len() > 1 && ports.len() != count {
        return Err(format!("has {count} hosts and {} ports: write one port, or one a host", ports.len()));
    }
    let attrs = session_attrs(pairs, count)?;
    let mut hosts = Vec::with_capacity(count);
    for index in 0..count {
        let at = |list: &[&str]| list.get(index).filter(|value| !value.is_empty()).map(|value| (*value).to_owned());
        let port = if ports.len() == 1 { ports[0].to_owned() } else { at(&ports).unwrap_or_default() };
        let port = if port.is_empty() { "5432".to_owned() } else { port };
        let address = at(&addresses);
        // An address without a name is what its certificate must bear.
        let name = at(&names).or_else(|| address.clone()).unwrap_or_else(|| default_host(&port));
        let mut one = pairs.clone();
        one.insert("host", name.clone());
        one.insert("port", port.clone());
        match address {
            Some(address) => one.insert("hostaddr", address),
            None => one.remove("hostaddr"),
        };
        if !pairs.contains_key("password") {
            let user = pairs.get("user").map_or("", String::as_str);
            let place = if SOCKET_DIRECTORIES.contains(&name.as_str()) { "localhost" } else { &name };
            if let Some(password) = passwords([place, &port, pairs.get("dbname").map_or(user, String::as_str), user]) {
                one.insert("password", password);
            }
        }
        let mut config = translate(&one)?;
        config.target_session_attrs(attrs);
        hosts.push(config);
    }
    let random = match pairs.get("load_balance_hosts").map(String::as_str) {
        None | Some("disable") => false,
        Some("random") => true,
        Some(_) => return Err("has an unknown load_balance_hosts: write disable or random".to_owned()),
    };
    // One host may take its time; of several a silent one must not keep the others from being asked.
    let asked = count > 1 || pairs.contains_key("connect_timeout");
    let patience = hosts.first().and_then(Config::get_connect_timeout).copied().filter(|_| asked);
    Ok(Server::new(hosts, tls).in_random_order(random).with_patience(patience))
}

/// Which server will do. Of several hosts it is the one that takes writes: without that, a standby that comes first would
/// be served until its first refusal.
fn session_attrs(pairs: &Pairs, hosts: usize) -> Result<TargetSessionAttrs, String> {
    Ok(match pairs.get("target_session_attrs").map(String::as_str) {
        None if hosts > 1 => TargetSessionAttrs::ReadWrite,
        None | Some("any") => TargetSessionAttrs::Any,
        // A primary that was made read-only is of no use to orch, so that both mean the same.
        Some("read-write" | "primary") => TargetSessionAttrs::ReadWrite,
        Some("read-only") => TargetSessionAttrs::ReadOnly,
        Some(standby @ ("standby" | "prefer-standby")) => {
            return Err(format!(
                "has target_session_attrs={standby}, and orch writes to its database: write target_session_attrs=read-write"
            ));
        }
        Some(_) => {
            return Err("has an unknown target_session_attrs: write read-write, primary, read-only or any".to_owned());
        }
    })
}

/// The driver's configuration of one host.
fn translate(pairs: &Pairs) -> Result<Config, String> {
    let mut text = String::new();
    for (keyword, value) in pairs {
        let keyword = match *keyword {
            "passfile" | "target_session_attrs" | "load_balance_hosts" => continue,
            tls if tls.starts_with("ssl") => continue,
            "keepalives_count" => "keepalives_retries",
            keyword => keyword,
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
