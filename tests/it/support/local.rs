//! A Postgres of the test process's own, from server binaries that are installed here.
//!
//! Data, socket and log stand in one temporary directory, named by the process's tag. As root the server runs as an
//! unprivileged user, since Postgres refuses to run as root.

use std::{
    env, fs,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::leftover::{TAG, is_gone};

const PREFIX: &str = "orch-test-postgres-";

/// A running server; [`LocalServer::stop`] ends it.
#[derive(Debug)]
pub(crate) struct LocalServer {
    bin: PathBuf,
    home: PathBuf,
    owner: Option<(u32, u32)>,
    postmaster: Child,
    /// Where it listens, on 127.0.0.1.
    pub(crate) port: u16,
}

/// Where an installed server's programs are: `ORCH_TEST_PG_BIN`, `PATH`, then where distributions put them, newest
/// first.
pub(crate) fn installed() -> Option<PathBuf> {
    let versions = |root: &str, below: &str| {
        let mut found: Vec<(u32, PathBuf)> = fs::read_dir(root)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let digits: String = entry.file_name().to_str()?.chars().filter(char::is_ascii_digit).collect();
                Some((digits.parse().ok()?, entry.path().join(below)))
            })
            .collect();
        found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        found.into_iter().map(|(_, path)| path)
    };
    let given = env::var_os("ORCH_TEST_PG_BIN").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    given
        .into_iter()
        .chain(versions("/usr/lib/postgresql", "bin"))
        .chain(env::split_paths(&path))
        .chain(versions("/opt/homebrew/opt", "bin"))
        .find(|bin| bin.join("initdb").is_file() && bin.join("postgres").is_file())
}

impl LocalServer {
    /// Makes a data directory and starts a server on a free port. It may not answer yet.
    pub(crate) fn start() -> Result<Self, String> {
        let bin = installed()
            .ok_or("no Postgres server is installed; install one, start Docker, or set ORCH_TEST_DATABASE_URL")?;
        let bin = bin.canonicalize().map_err(|error| error.to_string())?;
        let home = env::temp_dir().join(format!("{PREFIX}{}", *TAG));
        let owner = nix::unistd::geteuid().is_root().then(unprivileged).transpose()?;
        let text = |error: std::io::Error| format!("make {}: {error}", home.display());
        fs::create_dir(&home).map_err(text)?;
        if let Some((uid, gid)) = owner {
            chown(&home, Some(uid), Some(gid)).map_err(text)?;
        }
        let initdb = program(&bin, "initdb", owner, &home)
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--pgdata"])
            .arg(home.join("data"))
            .output()
            .map_err(text)?;
        if !initdb.status.success() {
            return Err(format!("initdb: {}", String::from_utf8_lossy(&initdb.stderr)));
        }
        let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr()).map_err(text)?.port();
        let log = fs::File::create(home.join("log")).map_err(text)?;
        let mut command = program(&bin, "postgres", owner, &home);
        command.arg("-D").arg(home.join("data")).arg("-k").arg(&home).args(["-p", &port.to_string()]);
        for setting in super::server::SETTINGS {
            command.args(["-c", setting]);
        }
        // A group of its own: Ctrl-C is for the tests, which then stop it in order.
        let postmaster = command
            .args(["-c", "listen_addresses=127.0.0.1"])
            .process_group(0)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("start {}: {error}", bin.join("postgres").display()))?;
        Ok(Self { bin, home, owner, postmaster, port })
    }

    /// Where its programs are.
    pub(crate) fn bin(&self) -> &Path {
        &self.bin
    }

    /// What the server has said, for the message of a failed start.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// Whether the postmaster has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.postmaster.try_wait(), Ok(None))
    }

    /// Ends the server at once and removes its directory.
    pub(crate) fn stop(mut self) {
        stop_in(&self.bin, &self.home, self.owner);
        let _ = self.postmaster.wait();
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// Stops and removes the servers of test processes that are gone.
pub(crate) fn remove_leftovers() {
    for entry in fs::read_dir(env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(tag) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        if is_gone(tag) {
            let owner = nix::unistd::geteuid().is_root().then(unprivileged).transpose().ok().flatten();
            if let Some(bin) = installed() {
                stop_in(&bin, &entry.path(), owner);
            }
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn stop_in(bin: &Path, home: &Path, owner: Option<(u32, u32)>) {
    // A server that is not running any more is what was wished for.
    let _ = program(bin, "pg_ctl", owner, home)
        .args(["stop", "--silent", "--mode=immediate", "--pgdata"])
        .arg(home.join("data"))
        .stderr(Stdio::null())
        .status();
}

fn program(bin: &Path, name: &str, owner: Option<(u32, u32)>, home: &Path) -> Command {
    let mut command = Command::new(bin.join(name));
    // Not the caller's PG* variables, and a directory that the server's user may enter.
    command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default()).current_dir(home);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
    command
}

/// The user that a server of root's runs as.
fn unprivileged() -> Result<(u32, u32), String> {
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| nix::unistd::User::from_name(name).ok().flatten())
        .map(|user| (user.uid.as_raw(), user.gid.as_raw()))
        .ok_or_else(|| "neither a user postgres nor nobody to run the server as".to_owned())
}
