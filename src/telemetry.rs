//! What orch says about itself: lines on stderr, for people or as JSON. Data goes to stdout and never through here.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::LogFormat;

/// What is logged when nobody says otherwise: orch itself, and of all else what needs attention. A lost connection is told
/// once by the loop that needed it, not by each connection of the pool.
const DEFAULT_FILTER: &str = "warn,orch=info,deadpool.postgres=error";

/// Begins to log. The filter is `ORCH_LOG`, else `RUST_LOG`, in the words of `tracing`: `debug`, `orch::replica=trace`.
///
/// A filter that cannot be read is told on stderr and the default stands, since no run should die of it.
/// A second call changes nothing.
pub fn init(format: LogFormat) {
    let set = ["ORCH_LOG", "RUST_LOG"].into_iter().find_map(|name| {
        let value = std::env::var(name).ok().filter(|value| !value.trim().is_empty())?;
        Some((name, value))
    });
    let (filter, refused) = match &set {
        None => (EnvFilter::new(DEFAULT_FILTER), None),
        Some((name, text)) => match filter(text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(DEFAULT_FILTER), Some((name, error))),
        },
    };
    // A line that cannot be written is lost. To complain of that on the same closed stderr would panic, in whichever
    // task happened to log.
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let started = match format {
        LogFormat::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
    if let (Ok(()), Some((name, error))) = (started, refused) {
        tracing::warn!(
            "{name} is no filter and is left out ({error}): write for example \"debug\" or \"warn,orch=debug\""
        );
    }
}

/// A bare level means orch's own: `debug` must not drown it in what its libraries say.
fn filter(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    match text.trim().parse::<tracing_subscriber::filter::LevelFilter>() {
        Ok(level) => EnvFilter::try_new(format!("warn,orch={level},deadpool.postgres=error")),
        Err(_) => EnvFilter::try_new(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_level_is_orchs_own() {
        let shown = filter("debug").unwrap().to_string();
        assert!(shown.contains("orch=debug") && shown.contains("warn"), "{shown}");
        assert!(filter("orch::replica=trace,tokio_postgres=info").is_ok());
        assert!(filter("orch=loud=very").is_err());
    }
}
