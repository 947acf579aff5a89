//! `orch up`: a replica, HTTP and, where no database is named, an embedded Postgres, until it is told to stop.
//!
//! Owns the order of starting and stopping, and the signals. Everything that can be refused is refused before anything is
//! claimed; the embedded server stops last.

use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::{
    context::{Context, explain, place, switches},
    exit::{Exit, say},
};
use crate::{
    config::{self, Database, Drain, LogFormat, Settings, Source},
    db::{
        Db,
        schema::{self, SchemaState},
    },
    embedded::{self, Embedded},
    http,
    model::ReplicaId,
    ops::prune,
    replica::{self, Agents, Shutdown, StateDir},
    telemetry,
};

/// The settings say it all.
#[derive(Debug, Args)]
pub(super) struct UpArgs {}

pub(super) fn run(context: Context, _: UpArgs) -> anyhow::Result<Exit> {
    telemetry::init(context.settings.log_format);
    end_with_a_panic();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(up(context.settings))?;
    Ok(Exit::Done)
}

/// A panic is a bug, and a replica that goes on without one of its tasks would hold what that task held. It ends at once
/// instead; its runs go on, and the next start settles them.
fn end_with_a_panic() {
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("a bug ended this replica: {panic}; its runs go on, start it again"));
        std::process::abort();
    }));
}

async fn up(settings: Settings) -> anyhow::Result<()> {
    let shutdown = Shutdown::default();
    tokio::spawn(obey(Signals::new()?, shutdown.clone(), settings.drain));
    let state_dir = StateDir::open(&settings.state_dir)?;
    let listener = TcpListener::bind(settings.listen).await.map_err(|error| {
        anyhow!(
            "cannot listen on {}: {error}; stop what listens there, or choose another with --listen",
            settings.listen
        )
    })?;
    if let Some(database) = config::explicit_database(&settings)? {
        return serve(settings, state_dir, listener, &database, shutdown).await;
    }
    let server = tokio::select! {
        server = embedded::start(&settings.state_dir) => server?,
        // A first start may take as long as a download does.
        () = shutdown.drain.cancelled() => bail!("stopped before the embedded Postgres was ready"),
    };
    let ended = serve_embedded(settings, state_dir, listener, &server, shutdown).await;
    if let Err(error) = server.stop().await {
        tracing::warn!(error = format!("{error:#}"), "the embedded Postgres did not stop as it should");
    }
    ended
}

/// On the embedded server: nobody else looks after its schema, so this does.
async fn serve_embedded(
    settings: Settings,
    state_dir: StateDir,
    listener: TcpListener,
    server: &Embedded,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let source = Source::StateDir(settings.state_dir.clone());
    let database = Database { config: config::own_url(server.url())?, source };
    schema::migrate(&database.config).await.map_err(|error| super::migrate::explain(&error))?;
    serve(settings, state_dir, listener, &database, shutdown).await
}

async fn serve(
    settings: Settings,
    state_dir: StateDir,
    listener: TcpListener,
    database: &Database,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let pool = |config, size| Db::new(config, size, settings.prepared_statements).map_err(|error| explain(&error));
    let db = pool(database.config.clone(), settings.pool_size)?;
    let renewals = pool(config::renewal_config(&settings, database)?, 1)?;
    match schema::check(&db).await.map_err(|error| explain(&error))? {
        SchemaState::Current => {}
        state => bail!("{state}"),
    }

    let (agents, agents_seen) = watch::channel(Agents::new(settings.agents.clone()));
    tokio::spawn(reread_agents(signal(SignalKind::hangup())?, settings.config.clone(), agents));
    let (registered, replica) = watch::channel(None);
    let paused = watch::Sender::new(None);
    let info = http::Info {
        switches: switches(&settings),
        lease: settings.lease,
        replica: replica.clone(),
        paused: paused.subscribe(),
        stopping: shutdown.drain.clone(),
    };
    let stop_http = CancellationToken::new();
    let mut served = tokio::spawn(http::serve(listener, db.clone(), info, stop_http.clone()));

    // Ends with the runtime, wherever it stands: the next round of any replica goes on.
    tokio::spawn(once_registered(replica, prune::run(db.clone(), settings.keep_finished)));
    let mut greeting = Some(Greeting::new(&settings, database));
    let ready = move |id| {
        registered.send_replace(Some(id));
        if let Some(greeting) = greeting.take() {
            greeting.say();
        }
    };
    let start =
        replica::Start { settings, db, renewals, state_dir, agents: agents_seen, shutdown: shutdown.clone(), paused };
    let mut replica = std::pin::pin!(replica::run(start, ready));
    let ended = tokio::select! {
        ended = &mut replica => ended,
        // Nobody could see the replica any more: it stops as if it had been told to.
        http = &mut served => {
            shutdown.drain.cancel();
            let replica = replica.await;
            let why = match http {
                Ok(Ok(())) => anyhow!("it ended"),
                Ok(Err(error)) => error.into(),
                Err(error) => error.into(),
            };
            return replica.and(Err(why.context("HTTP stopped, and the replica with it")));
        }
    };
    stop_http.cancel();
    let _ = served.await;
    ended
}

/// Does nothing before the replica has registered: one that is paused must not touch what may be another's.
async fn once_registered(mut replica: watch::Receiver<Option<ReplicaId>>, work: impl Future<Output = ()>) {
    if replica.wait_for(Option::is_some).await.is_ok() {
        work.await;
    }
}

/// What a person who started it wants to know once it works.
struct Greeting {
    format: LogFormat,
    address: String,
    database: String,
    state_dir: String,
    replica: String,
    slots: usize,
    agents: String,
}

impl Greeting {
    fn new(settings: &Settings, database: &Database) -> Self {
        let agents = settings.agents.keys().cloned().collect::<Vec<_>>().join(", ");
        Self {
            format: settings.log_format,
            address: format!("http://{}", settings.listen),
            database: format!("{} ({})", database.source, place(&database.config)),
            state_dir: settings.state_dir.display().to_string(),
            replica: settings.name.clone(),
            slots: settings.max_concurrency,
            agents: if agents.is_empty() { "none; write [agents.NAME] in orch.toml".to_owned() } else { agents },
        }
    }

    fn say(self) {
        let Self { format, address, database, state_dir, replica, slots, agents } = self;
        match format {
            LogFormat::Json => tracing::info!(address, database, state_dir, replica, slots, agents, "ready"),
            LogFormat::Text => {
                let text = format!(
                    "orch {} is ready\n  http      {address}\n  database  {database}\n  state     {state_dir}\n  \
                     replica   {replica}, {slots} slots\n  agents    {agents}\n",
                    env!("CARGO_PKG_VERSION")
                );
                // A stderr that nobody reads is no reason to fail.
                let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
            }
        }
    }
}

/// Reads the agents again whenever it is asked to; a file that is wrong changes nothing.
async fn reread_agents(mut asked: Signal, path: Option<std::path::PathBuf>, agents: watch::Sender<Agents>) {
    while asked.recv().await.is_some() {
        let read = path.as_deref().context("there is no orch.toml to read again").and_then(config::reload_agents);
        match read {
            Ok(read) => {
                tracing::info!(agents = read.len(), "read the agents again");
                agents.send_replace(Arc::new(read));
            }
            Err(error) => tracing::error!(error = format!("{error:#}"), "the agents stay as they were"),
        }
    }
}

/// What tells the process to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The first signal drains, the second means now.
async fn obey(mut signals: Signals, shutdown: Shutdown, drain: Drain) {
    let (at_first, then) = match drain {
        Drain::Finish => ("running jobs may finish", "running jobs are interrupted"),
        Drain::Handover => ("running jobs go on for the next start here", "running jobs go on for the next start here"),
    };
    let first = signals.next().await;
    tracing::info!(signal = first, "stopping: nothing more is claimed, {at_first}; once more means now");
    shutdown.drain.cancel();
    let second = signals.next().await;
    tracing::warn!(signal = second, "stopping now: {then}");
    shutdown.now.cancel();
}
