//! The embedded Postgres: kept between runs, found after a kill, never root's, and one sentence for what is wrong.

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    task::Poll,
};

use nix::{sys::signal, unistd::Pid};
use orch::{config, embedded};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::support::{Capability, Orch, eventually, processes_beneath, requires};

/// A state directory; what still runs in it at the end of the test is killed.
struct State(TempDir);

impl State {
    fn new() -> Self {
        // As root the server is another user, who must be able to pass through.
        let mut builder = tempfile::Builder::new();
        Self(builder.prefix("orch-embedded-").permissions(Permissions::from_mode(0o711)).tempdir().unwrap())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// A child that another test forks has the owner's lock as well until it becomes its program, so that it may last a
    /// moment after its owner has let go.
    async fn start(&self) -> embedded::Embedded {
        eventually("the owner's lock to be free", async || match embedded::start(self.0.path()).await {
            Ok(started) => Some(started),
            Err(error) if error.to_string().contains("another \"orch up\" uses") => None,
            Err(error) => panic!("{error:#}\n{}", self.log()),
        })
        .await
    }

    async fn refusal(&self) -> String {
        match embedded::start(self.0.path()).await {
            Ok(_) => panic!("it started"),
            Err(error) => format!("{error:#}"),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("postgres/server.log")).unwrap_or_default()
    }

    fn postmaster(&self) -> Pid {
        let text = fs::read_to_string(self.path("postgres/data/postmaster.pid")).unwrap();
        Pid::from_raw(text.lines().next().unwrap().parse().unwrap())
    }

    async fn nothing_is_left(&self) {
        eventually("the server's processes to end", async || processes_beneath(self.0.path()).is_empty().then_some(()))
            .await;
    }
}

impl Drop for State {
    fn drop(&mut self) {
        for pid in processes_beneath(self.0.path()) {
            let _ = signal::kill(Pid::from_raw(pid), signal::Signal::SIGKILL);
        }
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = config::own_url(url).unwrap().connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn show(client: &Client, setting: &str) -> String {
    client.query_one(&format!("show {setting}"), &[]).await.unwrap().get(0)
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn it_is_durable_private_and_kept_between_runs() {
    let state = State::new();
    let server = state.start().await;
    let url = server.url().to_owned();
    assert_eq!(fs::read_to_string(state.path("database-url")).unwrap().trim(), url);
    for file in ["database-url", "postgres/password", "postgres/server.log", "postgres/server.lock"] {
        assert_eq!(mode(&state.path(file)), 0o600, "{file}");
    }
    assert_eq!(mode(&state.path("postgres/data")), 0o700);

    let client = connect(&url).await;
    for (setting, expected) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("server_encoding", "UTF8"),
        ("password_encryption", "scram-sha-256"),
    ] {
        assert_eq!(show(&client, setting).await, expected, "{setting}");
    }
    let mut wrong = config::own_url(&url).unwrap();
    wrong.password("wrong");
    assert!(wrong.connect(NoTls).await.is_err(), "another password is let in");
    client.batch_execute("create table kept (n int); insert into kept values (7)").await.unwrap();
    // A connection that is still open must not hold the stop up.
    server.stop().await.unwrap();
    state.nothing_is_left().await;

    let again = state.start().await;
    assert_eq!(again.url(), url, "the same password and, since it was free, the same port");
    let n: i32 = connect(&url).await.query_one("select n from kept", &[]).await.unwrap().get(0);
    assert_eq!(n, 7);
    again.stop().await.unwrap();

    let port = config::own_url(&url).unwrap().get_ports()[0];
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let elsewhere = state.start().await;
    assert_ne!(elsewhere.url(), url, "a taken port is not waited for");
    connect(elsewhere.url()).await;
    elsewhere.stop().await.unwrap();
    drop(taken);
}

#[tokio::test]
async fn one_that_dies_is_started_again_where_it_was_while_its_owner_lives() {
    let state = State::new();
    let mut server = state.start().await;
    let (url, postmaster) = (server.url().to_owned(), state.postmaster());
    connect(&url).await.batch_execute("create table kept ()").await.unwrap();
    signal::kill(postmaster, signal::Signal::SIGKILL).unwrap();
    let back = async {
        eventually("the server to answer again, at the same address", async || {
            let (client, connection) = config::own_url(&url).unwrap().connect(NoTls).await.ok()?;
            tokio::spawn(connection);
            client.batch_execute("table kept").await.ok()
        })
        .await;
    };
    tokio::select! {
        gone = server.keep() => panic!("it is not kept: {gone:#}"),
        () = back => {}
    }
    assert_ne!(state.postmaster(), postmaster);
    server.stop().await.unwrap();
    state.nothing_is_left().await;
}

#[tokio::test]
async fn it_outlives_its_owner_is_found_again_and_has_one_owner_at_a_time() {
    let state = State::new();
    let first = state.start().await;
    let url = first.url().to_owned();
    let refusal = state.refusal().await;
    assert!(refusal.contains("another \"orch up\"") && refusal.contains("--state-dir"), "{refusal}");

    let postmaster = state.postmaster();
    // As a kill -9 of the owner: nobody says goodbye to the server.
    drop(first);
    let second = state.start().await;
    assert_eq!((second.url(), state.postmaster()), (url.as_str(), postmaster), "the same server");

    // A crash of the server, and of its owner with it.
    connect(&url).await.batch_execute("create table kept ()").await.unwrap();
    signal::kill(postmaster, signal::Signal::SIGKILL).unwrap();
    drop(second);
    let third = state.start().await;
    assert_ne!(state.postmaster(), postmaster);
    connect(third.url()).await.batch_execute("table kept").await.unwrap();
    third.stop().await.unwrap();
    state.nothing_is_left().await;
}

#[tokio::test]
async fn a_killed_orch_up_leaves_it_running_and_the_next_one_stops_it_last() {
    let orch = Orch::without_database();
    orch.config("[agents.hello]\ncommand = [\"echo\", \"hello, {{ payload.name }}\"]\n");
    let missing = orch.run(["queue"]).await;
    assert!(missing.stderr.contains("start \"orch up\", which brings its own"), "{missing:?}");

    let replica = orch.up().await;
    orch.run(["enqueue", "hello", "{\"name\": \"$(id)\"}", "--wait"]).await.ok();
    // What is asked below is whether it is found, not whether it had arrived before the kill.
    eventually("the output to arrive", async || orch.run(["logs", "1"]).await.status.success().then_some(())).await;
    let pid_file = orch.state_dir().join("postgres/data/postmaster.pid");
    let postmaster = || {
        let text = fs::read_to_string(&pid_file).unwrap_or_default();
        text.lines().next().and_then(|line| line.parse().ok()).map(Pid::from_raw)
    };
    let first = postmaster().unwrap();
    assert_eq!(nix::unistd::getpgid(Some(first)).unwrap(), first, "Ctrl-C would reach it");
    replica.kill().await;

    let logs = orch.run(["logs", "1"]).await.ok();
    assert_eq!(logs.stdout, "hello, $(id)\n", "found by every other command");
    assert!(logs.stderr.contains("using the embedded Postgres of"), "{logs:?}");
    let mut replica = orch.up().await;
    assert_eq!(postmaster(), Some(first), "the same server");
    replica.signal(signal::Signal::SIGTERM);
    assert!(replica.ended().await.success(), "{}", replica.log());
    assert_eq!(postmaster(), None, "stopped in order");
    eventually("every process to end", async || processes_beneath(&orch.path("")).is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_pid_file_whose_pid_is_anothers_does_not_keep_it_from_starting() {
    let state = State::new();
    state.start().await.stop().await.unwrap();
    // The pid of a living process of the server's own user, which Postgres itself would take for a postmaster.
    let mut decoy = std::process::Command::new("sleep");
    if nix::unistd::geteuid().is_root() {
        let owner = std::os::unix::fs::MetadataExt::uid(&state.path("postgres/data").metadata().unwrap());
        std::os::unix::process::CommandExt::uid(&mut decoy, owner);
    }
    let mut decoy = decoy.arg("600").current_dir("/").spawn().unwrap();
    let file = state.path("postgres/data/postmaster.pid");
    let data = state.path("postgres/data");
    fs::write(&file, format!("{}\n{}\n1700000000\n5999\n\n127.0.0.1\n\nready   \n", decoy.id(), data.display()))
        .unwrap();
    let server = state.start().await;
    assert!(decoy.try_wait().unwrap().is_none(), "the decoy was signalled");
    server.stop().await.unwrap();
    assert!(decoy.try_wait().unwrap().is_none(), "the decoy was signalled");
    decoy.kill().unwrap();
    decoy.wait().unwrap();
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing_running() {
    let state = State::new();
    state.start().await.stop().await.unwrap();
    let pid_file = state.path("postgres/data/postmaster.pid");
    let mut start = Box::pin(embedded::start(state.0.path()));
    // Looked at before every step of the start: the file is there well before the server can answer.
    std::future::poll_fn(|context| {
        if pid_file.exists() {
            return Poll::Ready(());
        }
        assert!(start.as_mut().poll(context).is_pending(), "it was ready before it began");
        Poll::Pending
    })
    .await;
    drop(start);
    state.nothing_is_left().await;
    state.start().await.stop().await.unwrap();
}

#[tokio::test]
async fn half_made_data_are_made_again() {
    let state = State::new();
    fs::create_dir_all(state.path("postgres/data.new/base")).unwrap();
    fs::write(state.path("postgres/data.new/PG_VERSION"), "15\n").unwrap();
    fs::write(state.path("postgres/initdb-password"), "old").unwrap();
    let server = state.start().await;
    connect(server.url()).await;
    assert!(!state.path("postgres/data.new").exists() && !state.path("postgres/initdb-password").exists());
    server.stop().await.unwrap();

    fs::remove_file(state.path("postgres/password")).unwrap();
    let refusal = state.refusal().await;
    assert!(refusal.contains("password") && refusal.contains("restore the file"), "{refusal}");
}

#[tokio::test]
async fn what_cannot_be_is_one_sentence() {
    let state = State::new();
    fs::create_dir_all(state.path("postgres/data")).unwrap();
    fs::write(state.path("postgres/password"), "x").unwrap();
    for (version, words) in
        [("9", "are of version 9, and orch needs 14 or later"), ("x", "no data directory of Postgres")]
    {
        fs::write(state.path("postgres/data/PG_VERSION"), version).unwrap();
        let refusal = state.refusal().await;
        assert!(refusal.contains(words) && !refusal.contains('\n'), "{refusal}");
    }
    // A directory in which not even root can write.
    let refusal = format!("{:#}", embedded::start(Path::new("/proc/orch")).await.unwrap_err());
    assert!(
        refusal.contains("cannot write the state directory /proc/orch: name another with --state-dir"),
        "{refusal}"
    );

    if requires(&[Capability::Root]) {
        fs::set_permissions(state.0.path(), Permissions::from_mode(0o700)).unwrap();
        let below = state.path("below");
        let refusal = format!("{:#}", embedded::start(&below).await.unwrap_err());
        let closed = format!("the directory {} is closed to the user", state.0.path().display());
        assert!(refusal.contains(&closed), "{refusal}");
    }
}
