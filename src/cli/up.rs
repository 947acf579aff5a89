//! `orch up`: a replica, HTTP and, where no database is named, an embedded Postgres, until it is told to stop.
//!
//! Owns the order of starting and stopping. Everything that can be refused is refused before anything is
//! claimed; the embedded server stops last.

mod greeting;
mod service;
mod signals;

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{anyhow, bail};
use clap::Args;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use self::{
    greeting::Greeting,
    service::{Facts, Manager},
    signals::{Reread, Signals, obey, read_tokens},
};
use super::{
    context::{Context, explain, switches},
    exit::{Exit, say},
};
use crate::{
    config::{self, Database, Settings, Source},
    db::{
        Db, Witness,
        schema::{self, SchemaState},
    },
    embedded, http,
    model::ReplicaId,
    ops::prune,
    replica::{self, Shutdown, StateDir},
    telemetry,
};

/// The settings say it all.
#[derive(Debug, Args)]
pub(super) struct UpArgs {}

pub(super) fn run(context: Context, _: UpArgs) -> anyhow::Result<Exit> {
    telemetry::init(context.settings.log_format);
    end_with_a_panic();
    super::block_on(async {
        up(context.settings).await?;
        Ok(Exit::Done)
    })
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
    let tokens = settings.http_token_file.as_deref().map(read_tokens).transpose()?.map(watch::Sender::new);
    let state_dir = StateDir::open(&settings.state_dir)?;
    let listener = TcpListener::bind(settings.listen).await.map_err(|error| {
        anyhow!(
            "cannot listen on {}: {error}; stop what listens there, or choose another with --listen",
            settings.listen
        )
    })?;
    if let Some(database) = config::explicit_database(&settings)? {
        return serve(settings, Held { state_dir, listener, tokens }, &database, shutdown).await;
    }
    let mut server = tokio::select! {
        server = embedded::start(&settings.state_dir) => server?,
        // A first start may take as long as a download does.
        () = shutdown.drain.cancelled() => bail!("stopped before the embedded Postgres was ready"),
    };
    let url = server.url().to_owned();
    let ended = tokio::select! {
        ended = serve_embedded(settings, Held { state_dir, listener, tokens }, &url, shutdown) => ended,
        // What runs goes on, and the next start adopts it.
        gone = server.keep() => Err(gone),
    };
    if let Err(error) = server.stop().await {
        tracing::warn!(error = format!("{error:#}"), "the embedded Postgres did not stop as it should");
    }
    ended
}

/// What is had before a database is looked for: nobody else then has the directory or the port.
struct Held {
    state_dir: StateDir,
    listener: TcpListener,
    tokens: Option<watch::Sender<http::Tokens>>,
}

/// On the embedded server: nobody else looks after its schema, so this does.
async fn serve_embedded(settings: Settings, held: Held, url: &str, shutdown: Shutdown) -> anyhow::Result<()> {
    let source = Source::StateDir(settings.state_dir.clone());
    let database = Database { server: config::own_url(url)?.into(), source };
    schema::migrate(&database.server).await.map_err(|error| super::migrate::explain(&error))?;
    serve(settings, held, &database, shutdown).await
}

async fn serve(settings: Settings, held: Held, database: &Database, shutdown: Shutdown) -> anyhow::Result<()> {
    let witness = Witness::default();
    let pool = |server, size| {
        Db::believing(server, size, settings.prepared_statements, &witness).map_err(|error| explain(&error))
    };
    let db = pool(database.server.clone(), settings.pool_size)?;
    let renewals = pool(config::renewal_server(&settings, database)?, replica::MOST_RENEWALS)?;
    match schema::check(&db).await.map_err(|error| explain(&error))? {
        SchemaState::Current => {}
        state => bail!("{state}"),
    }

    let (agents, agents_seen) = watch::channel(Arc::new(settings.agents.clone()));
    let tokens = held.tokens.as_ref().map(watch::Sender::subscribe);
    tokio::spawn(Reread::new(agents, held.tokens)?.run(settings.clone()));
    let (registered, replica) = watch::channel(None);
    let (paused, renewed) = (watch::Sender::new(None), watch::Sender::new(()));
    let unending = watch::Sender::new(BTreeSet::new());
    if let Some(manager) = Manager::of_this_process(settings.lease)? {
        let facts = Facts {
            replica: replica.clone(),
            paused: paused.subscribe(),
            renewed: renewed.subscribe(),
            stopping: shutdown.drain.clone(),
        };
        // Ends with the runtime: as long as this process renews its lease, it says so.
        tokio::spawn(manager.tell(facts));
    }
    let info = http::Info {
        switches: switches(&settings),
        lease: settings.lease,
        replica: replica.clone(),
        paused: paused.subscribe(),
        unending: unending.subscribe(),
        stopping: shutdown.drain.clone(),
        payload_max: settings.payload_max,
        tokens,
    };
    let stop_http = CancellationToken::new();
    let mut served = tokio::spawn(http::serve(held.listener, db.clone(), info, stop_http.clone()));

    // Ends with the runtime, wherever it stands: the next round of any replica goes on.
    tokio::spawn(once_registered(replica, prune::run(db.clone(), settings.keep_finished)));
    let mut greeting = Some(Greeting::new(&settings, database));
    let ready = move |id| {
        registered.send_replace(Some(id));
        if let Some(greeting) = greeting.take() {
            greeting.say();
        }
    };
    let start = replica::Start {
        executor: replica::Executor::Processes,
        settings,
        db,
        renewals,
        state_dir: held.state_dir,
        agents: agents_seen,
        shutdown: shutdown.clone(),
        paused,
        renewed,
        unending,
    };
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
