//! How a command ends: the exit codes, and one sentence for whatever stopped it.
//!
//! Owns the meaning of every exit code and the last line on stderr. Never writes to stdout.

use std::{fmt, process::ExitCode};

use super::escape::printable;

/// What `--help` says about exit codes.
pub(super) const HELP: &str = "\
Exit codes:
  0    done; with `enqueue --wait`, the job succeeded
  1    refused or failed; with `--wait`, the job failed; `doctor` found something that is wrong
  2    the command line itself is wrong
  124  `--wait`: the job's last run timed out
  125  `--wait`: the job was enqueued, but its end could not be learned
  130  `--wait`: the job was cancelled
  141  the reader of stdout went away";

/// How a command that could be carried out ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// All was done.
    Done,
    /// Something was refused or found wrong; what and why has been printed.
    Failed,
    /// The awaited job's last run timed out.
    TimedOut,
    /// The awaited job was cancelled.
    Cancelled,
    /// The awaited job's end could not be learned; why has been printed.
    Unknown,
}

impl Exit {
    /// [`Exit::Done`] where `well`, else [`Exit::Failed`].
    pub(super) const fn from_success(well: bool) -> Self {
        if well { Self::Done } else { Self::Failed }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::TimedOut => 124,
            Exit::Unknown => 125,
            Exit::Cancelled => 130,
        })
    }
}

/// The reader of stdout is gone: end without a word, as a program does that SIGPIPE ends.
#[derive(Debug)]
pub(super) struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stdout was closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// The code of a command that could not be carried out, after its sentence was printed.
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<StdoutClosed>() {
        return ExitCode::from(141);
    }
    say(&format!("{error:#}"));
    ExitCode::FAILURE
}

/// A line for people, on stderr, beside the data. Nobody has to read it.
pub(super) fn remark(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// One line on stderr. A stderr that is gone is no reason to fail.
pub(super) fn say(sentence: &str) {
    use std::io::Write as _;
    let one_line = sentence.split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = writeln!(std::io::stderr(), "orch: {}", printable(&one_line));
}
