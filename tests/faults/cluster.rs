//! A Postgres of a row's own, which it may crash. From the installed programs, in a directory that goes with it.

use std::{
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, chown},
    path::PathBuf,
    process::{Command, Output},
};

use nix::unistd::{User, geteuid};
use tempfile::TempDir;
use tokio_postgres::{Config, NoTls};

use crate::support::{eventually, installed_postgres};

/// A server; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Cluster {
    bin: PathBuf,
    home: TempDir,
    user: Option<User>,
    port: u16,
}

impl Cluster {
    /// Makes and starts one.
    pub(crate) async fn start() -> Self {
        let bin = installed_postgres().expect("a row that needs an installed Postgres says so");
        let home = tempfile::Builder::new().prefix("orch-cluster-").tempdir().expect("a temporary directory");
        // Postgres refuses to run as root.
        let user = geteuid().is_root().then(|| {
            let found = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
            found.expect("a user who is not root")
        });
        if let Some(user) = &user {
            chown(home.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("a directory to give away");
            std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o700)).expect("its permissions");
        }
        let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr()).expect("a free port").port();
        let cluster = Self { bin, home, user, port };
        let data = cluster.data();
        let data = data.to_str().expect("a path of letters");
        let made = cluster.run("initdb", &["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]);
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        cluster.come_back().await;
        cluster
    }

    /// How to reach its one database.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user("postgres").dbname("postgres");
        config
    }

    /// The same as a URL.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Crashes it: what was not committed is gone, and every connection with it.
    pub(crate) fn crash(&self) {
        let crashed = self.control(&["stop", "-m", "immediate"]);
        assert!(crashed.status.success(), "pg_ctl: {}", String::from_utf8_lossy(&crashed.stderr));
    }

    /// Starts it, and waits until it answers. Without fsync: a crash of the server loses nothing that the machine keeps.
    pub(crate) async fn come_back(&self) {
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=100 -c shared_buffers=32MB \
             -c fsync=off",
            self.port
        );
        let log = self.home.path().join("log");
        let started = self.control(&["start", "-W", "-o", &options, "-l", log.to_str().expect("a path of letters")]);
        assert!(started.status.success(), "pg_ctl: {}", String::from_utf8_lossy(&started.stderr));
        eventually("the crashed server to answer", async || self.config().connect(NoTls).await.is_ok().then_some(()))
            .await;
    }

    fn control(&self, words: &[&str]) -> Output {
        let data = self.data();
        let words: Vec<&str> = words.iter().copied().chain(["-D", data.to_str().expect("a path of letters")]).collect();
        self.run("pg_ctl", &words)
    }

    fn run(&self, program: &str, words: &[&str]) -> Output {
        let program = self.bin.join(program);
        let mut command = match &self.user {
            None => Command::new(&program),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args(["--clear-groups", "--reuid", &user.uid.to_string(), "--regid", &user.gid.to_string()]);
                command.arg(&program);
                command
            }
        };
        // A descriptor of this process would keep a pipe open for as long as the server lives.
        command.args(words).current_dir("/").env("LC_ALL", "C.UTF-8").stdin(std::process::Stdio::null());
        if words.contains(&"start") {
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        }
        command.output().unwrap_or_else(|error| panic!("{}: {error}", program.display()))
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.control(&["stop", "-m", "immediate"]);
    }
}
