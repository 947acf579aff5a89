//! A Postgres of a test's own, which it may configure, crash, replicate and promote. From the installed programs, in a
//! directory that goes with it.

use std::{
    ffi::OsString,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nix::unistd::{User, geteuid};
use tempfile::TempDir;
use tokio_postgres::{Config, NoTls};

use super::{eventually, free_port, installed_postgres};

/// Another network than this process's, for a server.
#[derive(Debug, Clone)]
pub(crate) struct Elsewhere {
    /// The program and the words that start another one there.
    pub(crate) enter: Vec<String>,
    /// The server's address.
    pub(crate) address: String,
    /// Where its clients are, as `pg_hba.conf` says it.
    pub(crate) clients: String,
}

/// A server; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Cluster {
    bin: PathBuf,
    home: TempDir,
    user: Option<User>,
    port: u16,
    elsewhere: Option<Elsewhere>,
    /// What its server sees beside the environment of the tests.
    env: Vec<(String, String)>,
}

impl Cluster {
    /// Makes and starts one.
    pub(crate) async fn start() -> Self {
        Self::start_with("", "", &[]).await
    }

    /// Makes and starts one with these lines of `postgresql.conf`, these before all others of `pg_hba.conf`, and these files
    /// beside them, readable by the server alone.
    pub(crate) async fn start_with(settings: &str, hba: &str, files: &[(&str, &str)]) -> Self {
        Self::place().begin(settings, hba, files).await
    }

    /// Makes and starts one in another network. This process reaches it over a socket in the file system.
    pub(crate) async fn start_elsewhere(elsewhere: Elsewhere) -> Self {
        let hba = format!("host all all {} trust", elsewhere.clients);
        let mut cluster = Self::place();
        cluster.elsewhere = Some(elsewhere);
        cluster.begin("", &hba, &[]).await
    }

    async fn begin(self, settings: &str, hba: &str, files: &[(&str, &str)]) -> Self {
        let cluster = self;
        let data = cluster.data_text();
        cluster.must("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]);
        for (name, text) in files {
            cluster.write(name, text);
        }
        cluster.append("postgresql.conf", settings);
        cluster.prepend("pg_hba.conf", hba);
        cluster.come_back().await;
        cluster
    }

    /// A streaming standby of this one, started, with the name under which the primary knows it.
    pub(crate) async fn standby(&self, name: &str) -> Self {
        self.standby_with(name, &[]).await
    }

    /// The same, with these variables in its environment.
    pub(crate) async fn standby_with(&self, name: &str, env: &[(String, String)]) -> Self {
        let mut standby = Self::place();
        standby.env = env.to_vec();
        let source = format!("host=127.0.0.1 port={} user=postgres application_name={name}", self.port);
        let data = standby.data_text();
        standby.must("pg_basebackup", &["-D", &data, "-d", &source, "-R", "-c", "fast", "-X", "stream", "--no-sync"]);
        standby.come_back().await;
        standby
    }

    /// Makes a primary of a standby, and waits until it is one.
    pub(crate) async fn promote(&self) {
        let promoted = self.control(&["promote", "-W"]);
        assert!(promoted.status.success(), "pg_ctl: {}", String::from_utf8_lossy(&promoted.stderr));
        eventually("the standby to be a primary", async || {
            let (client, connection) = self.config().connect(NoTls).await.ok()?;
            tokio::spawn(connection);
            let row = client.query_one("select not pg_is_in_recovery()", &[]).await.ok()?;
            row.get::<_, bool>(0).then_some(())
        })
        .await;
    }

    /// Adds lines to one of its files. They count from its next start.
    pub(crate) fn append(&self, name: &str, lines: &str) {
        let before = std::fs::read_to_string(self.data().join(name)).unwrap_or_default();
        self.write(name, &format!("{before}\n{lines}\n"));
    }

    /// Puts lines before all others of one of its files. They count once it is told to read it again.
    pub(crate) fn prepend(&self, name: &str, lines: &str) {
        let before = std::fs::read_to_string(self.data().join(name)).unwrap_or_default();
        self.write(name, &format!("{lines}\n{before}"));
    }

    fn write(&self, name: &str, text: &str) {
        let file = self.data().join(name);
        std::fs::write(&file, text).expect("a file of the cluster");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("its permissions");
        self.give_away(&file);
    }

    /// Gives a file to the server's user.
    pub(crate) fn give_away(&self, path: &Path) {
        if let Some(user) = &self.user {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("something to give away");
        }
    }

    /// A directory, a user and a port.
    fn place() -> Self {
        let bin = installed_postgres().expect("a test that needs an installed Postgres says so");
        let home = tempfile::Builder::new().prefix("orch-cluster-").tempdir().expect("a temporary directory");
        // Postgres refuses to run as root.
        let user = geteuid().is_root().then(|| {
            let found = ["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten());
            found.expect("a user who is not root")
        });
        let port = free_port();
        let cluster = Self { bin, home, user, port, elsewhere: None, env: Vec::new() };
        std::fs::set_permissions(cluster.home.path(), std::fs::Permissions::from_mode(0o700)).expect("its permissions");
        cluster.give_away(cluster.home.path());
        cluster
    }

    /// One of its programs, as its user, to a good end.
    pub(crate) fn must(&self, program: &str, words: &[&str]) {
        let made = self.run(program, words);
        assert!(made.status.success(), "{program}: {}", String::from_utf8_lossy(&made.stderr));
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// Where it listens: on 127.0.0.1, unless it is elsewhere.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How to reach its one database.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::new();
        match &self.elsewhere {
            None => config.host("127.0.0.1"),
            Some(_) => config.host_path(self.home.path()),
        };
        config.port(self.port).user("postgres").dbname("postgres");
        config
    }

    /// Where it is for its clients, as a URL.
    pub(crate) fn url(&self) -> String {
        let address = self.elsewhere.as_ref().map_or("127.0.0.1", |elsewhere| elsewhere.address.as_str());
        format!("postgres://postgres@{address}:{}/postgres", self.port)
    }

    /// Crashes it: what was not committed is gone, and every connection with it.
    pub(crate) fn crash(&self) {
        let crashed = self.control(&["stop", "-m", "immediate"]);
        assert!(crashed.status.success(), "pg_ctl: {}", String::from_utf8_lossy(&crashed.stderr));
    }

    /// Stops it as an operator would.
    pub(crate) fn stop(&self) {
        let stopped = self.control(&["stop", "-m", "fast"]);
        assert!(stopped.status.success(), "pg_ctl: {}", String::from_utf8_lossy(&stopped.stderr));
    }

    /// Whether its server runs, be it only to recover.
    pub(crate) fn is_running(&self) -> bool {
        self.control(&["status"]).status.success()
    }

    /// Starts it, and waits until it answers. Without fsync: a crash of the server loses nothing that the machine keeps.
    pub(crate) async fn come_back(&self) {
        let (address, sockets) = match &self.elsewhere {
            None => ("127.0.0.1", String::new()),
            Some(elsewhere) => (elsewhere.address.as_str(), self.home.path().display().to_string()),
        };
        let options = format!(
            "-p {} -c listen_addresses={address} -c unix_socket_directories={sockets} -c shared_buffers=32MB -c fsync=off",
            self.port
        );
        let log = self.home.path().join("log");
        let started = self.control(&["start", "-W", "-o", &options, "-l", log.to_str().expect("a path of letters")]);
        assert!(started.status.success(), "pg_ctl: {}", String::from_utf8_lossy(&started.stderr));
        eventually("the crashed server to answer", async || self.config().connect(NoTls).await.is_ok().then_some(()))
            .await;
    }

    fn control(&self, words: &[&str]) -> Output {
        let data = self.data_text();
        let words: Vec<&str> = words.iter().copied().chain(["-D", &data]).collect();
        self.run("pg_ctl", &words)
    }

    fn run(&self, program: &str, words: &[&str]) -> Output {
        let program = self.bin.join(program);
        let mut all: Vec<OsString> =
            self.elsewhere.iter().flat_map(|elsewhere| &elsewhere.enter).map(OsString::from).collect();
        if let Some(user) = &self.user {
            let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
            all.extend(["setpriv", "--clear-groups", "--reuid", &uid, "--regid", &gid].map(OsString::from));
        }
        // As the server's user: a library that is preloaded may make things of its own.
        all.push("env".into());
        all.extend(self.env.iter().map(|(name, value)| format!("{name}={value}").into()));
        all.push(program.clone().into());
        let mut command = Command::new(&all[0]);
        command.args(&all[1..]);
        // A descriptor of this process would keep a pipe open for as long as the server lives.
        command.args(words).current_dir("/").env("LC_ALL", "C.UTF-8").stdin(std::process::Stdio::null());
        if words.contains(&"start") {
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        }
        command.output().unwrap_or_else(|error| panic!("{}: {error}", program.display()))
    }

    fn data_text(&self) -> String {
        self.data().to_str().expect("a path of letters").to_owned()
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.control(&["stop", "-m", "immediate"]);
    }
}
