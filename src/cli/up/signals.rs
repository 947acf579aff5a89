//! What signals make of a replica: SIGTERM and SIGINT stop it, SIGHUP has it read its files again.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, anyhow};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{
    config::{self, Drain, Settings},
    http::Tokens,
    replica::{Agents, Shutdown},
};

/// What is read again when it is asked for.
pub(super) struct Reread {
    asked: Signal,
    agents: watch::Sender<Agents>,
    tokens: Option<watch::Sender<Tokens>>,
}

impl Reread {
    pub(super) fn new(agents: watch::Sender<Agents>, tokens: Option<watch::Sender<Tokens>>) -> std::io::Result<Self> {
        Ok(Self { asked: signal(SignalKind::hangup())?, agents, tokens })
    }

    /// Reads `orch.toml`'s agents and the tokens again whenever it is asked to; a file that is wrong changes nothing.
    pub(super) async fn run(mut self, settings: Settings) {
        while self.asked.recv().await.is_some() {
            let path = settings.config.as_deref();
            match path.context("there is no orch.toml to read again").and_then(config::reload_agents) {
                Ok(read) => {
                    tracing::info!(agents = read.len(), "read the agents again");
                    self.agents.send_replace(Arc::new(read));
                }
                Err(error) => tracing::error!(error = format!("{error:#}"), "the agents stay as they were"),
            }
            if let (Some(tokens), Some(path)) = (&self.tokens, &settings.http_token_file) {
                match read_tokens(path) {
                    Ok(read) => {
                        tracing::info!(tokens = read.count(), "read the tokens again");
                        tokens.send_replace(read);
                    }
                    Err(error) => tracing::error!(%error, "the tokens stay as they were"),
                }
            }
        }
    }
}

/// The tokens of a file, or a sentence that says what is wrong with it.
pub(super) fn read_tokens(path: &Path) -> anyhow::Result<Tokens> {
    Tokens::read(path).map_err(|sentence| anyhow!(sentence))
}

/// What tells the process to stop.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
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
pub(super) async fn obey(mut signals: Signals, shutdown: Shutdown, drain: Drain) {
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
