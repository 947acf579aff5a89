//! The one test server of this process: which it is, and the thread that it lives on.
//!
//! The thread has a runtime of its own, because a container started inside one test's runtime dies with it. A static
//! is never dropped, so the end of the process asks the thread to stop the server, and waits for that.

use std::{
    sync::{Arc, Condvar, Mutex, OnceLock},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{Client, Config, NoTls};

use super::{
    container::{self, ContainerServer},
    database,
    embedded::{self, EmbeddedServer},
    eventually::PATIENCE,
    leftover::{TAG, remove_marks_of_the_gone, say, take_mark},
};

/// Settings of every server that the suite starts: no durability, and connections enough for tests in parallel.
pub(crate) const SETTINGS: [&str; 6] = [
    "fsync=off",
    "full_page_writes=off",
    "max_connections=300",
    "shared_buffers=64MB",
    "max_wal_size=2GB",
    "timezone=UTC",
];

/// What tests ask of the server's thread.
pub(crate) enum Request {
    /// A new database, made from the migrated template or empty.
    Create { migrated: bool, reply: oneshot::Sender<Result<String, String>> },
    /// A database that is not needed any more.
    Drop(String),
    /// The end of the process.
    Stop,
}

/// The handle of the server's thread.
pub(crate) struct Server {
    requests: mpsc::UnboundedSender<Request>,
    /// How to reach the server; `dbname` is the maintenance database.
    pub(crate) config: Config,
    stopped: Arc<(Mutex<bool>, Condvar)>,
}

enum Kind {
    Given,
    Container(Box<ContainerServer>),
    Embedded(Box<EmbeddedServer>),
}

static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();

/// The server of this process, started by the first test that asks.
pub(crate) fn server() -> &'static Server {
    match SERVER.get_or_init(start) {
        Ok(server) => server,
        Err(why) => panic!("no test server: {why}"),
    }
}

impl Server {
    /// Sends a request to the thread, which lives as long as the process.
    pub(crate) fn send(&self, request: Request) {
        // After the end has begun there is nobody to ask, and nothing to ask for.
        let _ = self.requests.send(request);
    }
}

fn start() -> Result<Server, String> {
    let (ready, started) = std::sync::mpsc::channel();
    let (requests, inbox) = mpsc::unbounded_channel();
    let stopped = Arc::new((Mutex::new(false), Condvar::new()));
    let done = Arc::clone(&stopped);
    std::thread::Builder::new()
        .name("test server".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(live(&ready, inbox)),
                Err(error) => drop(ready.send(Err(error.to_string()))),
            }
            *done.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = true;
            done.1.notify_all();
        })
        .map_err(|error| error.to_string())?;
    let config = started.recv().map_err(|_| "its thread panicked".to_owned())??;
    stop_at_exit();
    Ok(Server { requests, config, stopped })
}

#[expect(unsafe_code, reason = "the only way to be called when the test harness ends the process")]
fn stop_at_exit() {
    extern "C" fn stop() {
        let Some(Ok(server)) = SERVER.get() else { return };
        server.send(Request::Stop);
        let (stopped, changed) = &*server.stopped;
        let guard = stopped.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Bounded: what could not be stopped in time is removed by the next run.
        drop(changed.wait_timeout_while(guard, Duration::from_secs(20), |stopped| !*stopped));
    }
    // SAFETY: `stop` neither panics nor needs what the main thread has already torn down.
    unsafe { libc::atexit(stop) };
}

async fn live(ready: &std::sync::mpsc::Sender<Result<Config, String>>, mut inbox: mpsc::UnboundedReceiver<Request>) {
    let mark = take_mark();
    remove_marks_of_the_gone();
    let (kind, config) = match choose().await {
        Ok(choice) => choice,
        Err(why) => return drop(ready.send(Err(why))),
    };
    match connect_patiently(&config, &kind).await {
        Ok(client) => {
            let version = client.query_one("select current_setting('server_version')", &[]).await;
            let version = version.map_or_else(|error| error.to_string(), |row| row.get(0));
            say(&format!("test server: Postgres {version}"));
            drop(ready.send(Ok(config.clone())));
            database::serve(&client, &config, &mut inbox).await;
        }
        Err(why) => drop(ready.send(Err(why))),
    }
    match kind {
        Kind::Given => {}
        Kind::Container(server) => server.stop().await,
        Kind::Embedded(server) => server.stop().await,
    }
    drop(mark);
}

/// Chooses and starts a server, and says which.
async fn choose() -> Result<(Kind, Config), String> {
    let mut config = Config::new();
    config.user("postgres").dbname("postgres").connect_timeout(Duration::from_secs(5));
    if let Ok(url) = std::env::var("ORCH_TEST_DATABASE_URL") {
        let mut given: Config = url.parse().map_err(|error| format!("ORCH_TEST_DATABASE_URL: {error}"))?;
        // One maintenance database for all, since the locks that mark live test processes are per database.
        given.dbname("postgres");
        say(&format!("test server: ORCH_TEST_DATABASE_URL, {:?}", given.get_hosts()));
        return Ok((Kind::Given, given));
    }
    let wish = std::env::var("ORCH_TEST_SERVER").ok();
    let why = match wish.as_deref() {
        Some("embedded") => "as ORCH_TEST_SERVER says".to_owned(),
        None | Some("container") => match containerized(&mut config).await {
            Ok(kind) => return Ok((kind, config)),
            // A wish is not met by something else, and where everything is required containers are, too.
            Err(refusal) if wish.is_some() || std::env::var("ORCH_TEST_REQUIRE").as_deref() == Ok("all") => {
                return Err(refusal);
            }
            Err(refusal) => refusal,
        },
        Some(other) => return Err(format!("ORCH_TEST_SERVER is {other:?}: say container or embedded")),
    };
    embedded::remove_leftovers();
    let server = EmbeddedServer::start().await?;
    say(&format!("test server: embedded, {:?}; {why}", server.config.get_ports()));
    let config = server.config.clone();
    Ok((Kind::Embedded(Box::new(server)), config))
}

async fn containerized(config: &mut Config) -> Result<Kind, String> {
    if !container::engine_answers().await {
        return Err("no Docker engine answers".to_owned());
    }
    container::remove_leftovers().await;
    let server = ContainerServer::start().await?;
    say(&format!("test server: container of {}, {}:{}", server.image, server.host, server.port));
    config.host(&server.host).port(server.port);
    Ok(Kind::Container(Box::new(server)))
}

async fn connect_patiently(config: &Config, kind: &Kind) -> Result<Client, String> {
    let start = std::time::Instant::now();
    loop {
        let error = match config.connect(NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return Ok(client);
            }
            Err(error) => error,
        };
        let ended = match kind {
            // These have answered before, or somebody else answers for them.
            Kind::Given | Kind::Embedded(_) => true,
            Kind::Container(_) => false,
        };
        if ended || start.elapsed() > PATIENCE * 2 {
            let log = match kind {
                Kind::Given | Kind::Embedded(_) => String::new(),
                Kind::Container(server) => server.log().await,
            };
            return Err(format!("{error:?}\n{log}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The name of this process's `n`th database.
pub(crate) fn database_name(n: usize) -> String {
    format!("orch_test_{}_{n}", *TAG)
}
