//! The server's processes: found, started, waited for, stopped.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    net::TcpListener,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::Child;
use tokio_postgres::NoTls;

use super::{
    home::{Home, open_private, read_line},
    install::Installed,
};
use crate::config::own_url;

/// Settings that must hold whatever `postgresql.conf` says: reached over loopback alone, and what is committed stays.
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
    "logging_collector=off",
    "log_destination=stderr",
    "cluster_name=orch",
];

/// How long a server may take to answer: it may have a crash to recover from.
const PATIENCE: Duration = Duration::from_mins(5);

/// How long a server that is there may be silent before someone has to look at it.
const SILENCE: Duration = Duration::from_mins(1);

const PAUSE: Duration = Duration::from_millis(50);

/// A log larger than this is set aside at the next start.
const LOG_CAP: u64 = 16 << 20;

/// What is there of an earlier run.
pub(super) enum Found {
    /// A server that answers to our password, at this port.
    Running(u16),
    /// No process at all, and the lock that proves it.
    Nothing(File),
}

/// The URL of the server at a port.
pub(super) fn url(password: &str, port: u16) -> String {
    format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres")
}

/// What an earlier run left: a server that answers, or nothing. One that is just starting or stopping is waited for.
pub(super) async fn find(home: &Home, password: &str) -> anyhow::Result<Found> {
    let start = Instant::now();
    loop {
        if let Some(lock) = home.try_lock_server()? {
            remove_foreign_pid_file(home)?;
            return Ok(Found::Nothing(lock));
        }
        if let Some(port) = PidFile::read(home).and_then(|file| file.port)
            && answers(password, port).await
        {
            return Ok(Found::Running(port));
        }
        if start.elapsed() > SILENCE {
            bail!(
                "the embedded Postgres of an earlier run is there but does not answer: look at {} and end it",
                home.log().display()
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Starts the server; it answers when this returns. It inherits the lock and the log, and outlives this process.
pub(super) async fn launch(
    home: &Home,
    installed: &Installed,
    password: &str,
    lock: File,
) -> anyhow::Result<(u16, Child)> {
    rotate_log(home);
    let mut preferred = last_port(home);
    for _ in 0..5 {
        let port = preferred.take().map_or_else(free_port, Ok)?;
        let mut log = open_private(&home.log(), OpenOptions::new().create(true).append(true).read(true))?;
        let log_start = log.seek(SeekFrom::End(0)).context("cannot read the server's log")?;
        let mut command = home.account.command(&installed.bin.join("postgres"), home.root());
        command.arg("-D").arg(home.data()).arg("-c").arg(format!("port={port}"));
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        let child = command
            .stdin(lock.try_clone()?)
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot start {}", installed.bin.join("postgres").display()))?;
        let mut starting = Starting(Some(child));
        if starting.answers(password, port).await?
            && let Some(child) = starting.0.take()
        {
            return Ok((port, child));
        }
        // It ended. If someone else took the port between our look and its start, another port will do.
        if is_free(port) {
            let mut said = String::new();
            log.seek(SeekFrom::Start(log_start))?;
            log.take(64 << 10).read_to_string(&mut said).unwrap_or_default();
            let reason = said.lines().rev().find(|line| line.contains("FATAL")).or_else(|| said.lines().last());
            bail!(
                "the embedded Postgres does not start: {} (its log is {})",
                reason.unwrap_or("it said nothing").trim(),
                home.log().display()
            );
        }
    }
    Err(anyhow!("the embedded Postgres finds no free port on 127.0.0.1: end what takes them, or set DATABASE_URL"))
}

/// Ends the server: fast first, at once when that takes longer than `patience`.
pub(super) async fn stop(home: &Home, patience: Duration) -> anyhow::Result<()> {
    for (signal, patience) in [(Signal::SIGINT, patience), (Signal::SIGQUIT, Duration::from_secs(10))] {
        let start = Instant::now();
        let mut told = false;
        while start.elapsed() < patience {
            if home.try_lock_server()?.is_some() {
                return Ok(());
            }
            // The lock says that a process of the server lives; its own file says which one leads.
            if !told && let Some(pid) = PidFile::read(home).filter(|file| file.is_of(home)).map(|file| file.pid) {
                told = kill(Pid::from_raw(pid), signal).is_ok();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    bail!("it does not end: look at {}", home.log().display())
}

/// A server that does not answer yet. Whoever stops waiting for it ends it.
struct Starting(Option<Child>);

impl Starting {
    /// Whether it answered (`true`) or ended before it did (`false`).
    async fn answers(&mut self, password: &str, port: u16) -> anyhow::Result<bool> {
        let start = Instant::now();
        while let Some(child) = &mut self.0 {
            if child.try_wait().context("cannot wait for the embedded Postgres")?.is_some() {
                return Ok(false);
            }
            if answers(password, port).await {
                return Ok(true);
            }
            if start.elapsed() > PATIENCE {
                bail!("the embedded Postgres takes too long to start: look at its log");
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(false)
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        // The id is there only as long as the child was not collected, so that it is no other process's.
        if let Some(pid) = self.0.as_ref().and_then(Child::id) {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGINT);
        }
    }
}

/// Whether a server that knows our password answers there. With SCRAM it proves that it does, so that it is ours.
async fn answers(password: &str, port: u16) -> bool {
    let Ok(mut config) = own_url(&url(password, port)) else { return false };
    config.connect_timeout(Duration::from_secs(2));
    match tokio::time::timeout(Duration::from_secs(5), config.connect(NoTls)).await {
        Ok(Ok((client, connection))) => {
            // Dropping the client ends the connection in order.
            drop(client);
            connection.await.is_ok()
        }
        _ => false,
    }
}

/// `postmaster.pid`: what a server says of itself.
struct PidFile {
    pid: i32,
    port: Option<u16>,
}

impl PidFile {
    fn path(home: &Home) -> PathBuf {
        home.data().join("postmaster.pid")
    }

    fn read(home: &Home) -> Option<Self> {
        let text = std::fs::read_to_string(Self::path(home)).ok()?;
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok().filter(|pid| *pid > 1)?;
        Some(Self { pid, port: lines.nth(2).and_then(|line| line.trim().parse().ok()) })
    }

    /// Whether the process with this pid is at home in the data directory, as a postmaster is. Where that cannot be
    /// asked, the lock alone must do.
    fn is_of(&self, home: &Home) -> bool {
        if !std::path::Path::new("/proc/self").exists() {
            return true;
        }
        let data = home.data().canonicalize().unwrap_or_else(|_| home.data());
        std::fs::read_link(format!("/proc/{}/cwd", self.pid)).is_ok_and(|cwd| cwd == data)
    }
}

/// A pid file whose pid was given to somebody else would keep the server from starting for ever. The lock says that no
/// server of ours lives; if that pid is not at home in the data directory either, the file is a dead server's.
pub(super) fn remove_foreign_pid_file(home: &Home) -> anyhow::Result<()> {
    let Some(file) = PidFile::read(home) else { return Ok(()) };
    if !std::path::Path::new("/proc/self").exists() {
        return Ok(());
    }
    if file.is_of(home) {
        bail!(
            "a Postgres that orch did not start runs on {} (pid {}): stop it first, with pg_ctl stop -D",
            home.data().display(),
            file.pid
        );
    }
    let path = PidFile::path(home);
    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}, which a dead server left", path.display()))
}

/// The port of the last run, if it is free: what people noted down goes on working.
fn last_port(home: &Home) -> Option<u16> {
    let text = read_line(&home.database_url()).ok().flatten()?;
    own_url(&text).ok()?.get_ports().first().copied().filter(|port| is_free(*port))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

fn free_port() -> anyhow::Result<u16> {
    let socket = TcpListener::bind(("127.0.0.1", 0)).context("there is no free port on 127.0.0.1")?;
    Ok(socket.local_addr()?.port())
}

fn rotate_log(home: &Home) {
    let log = home.log();
    if log.metadata().is_ok_and(|metadata| metadata.len() > LOG_CAP) {
        let mut older = log.clone().into_os_string();
        older.push(".1");
        // A log that cannot be set aside goes on growing, which is no reason not to start.
        let _ = std::fs::rename(&log, older);
    }
}
