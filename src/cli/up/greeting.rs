//! The first words of a replica, once it works: where it listens, what it works on, what it serves.

use super::super::context::place;
use crate::config::{Database, LogFormat, Settings};

/// What a person who started it wants to know once it works.
pub(super) struct Greeting {
    format: LogFormat,
    address: String,
    database: String,
    state_dir: String,
    replica: String,
    slots: usize,
    agents: String,
}

impl Greeting {
    pub(super) fn new(settings: &Settings, database: &Database) -> Self {
        let agents = settings.agents.keys().cloned().collect::<Vec<_>>().join(", ");
        Self {
            format: settings.log_format,
            address: format!("http://{}", settings.listen),
            database: format!("{} ({})", database.source, place(&database.server)),
            state_dir: settings.state_dir.display().to_string(),
            replica: settings.name.clone(),
            slots: settings.max_concurrency,
            agents: if agents.is_empty() { "none; write [agents.NAME] in orch.toml".to_owned() } else { agents },
        }
    }

    pub(super) fn say(self) {
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
