//! `orch completions SHELL`: what a shell needs to complete orch's command line.

use clap::Args;
use clap_complete::Shell;

use super::{command, exit::Exit, output};

/// For which shell.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "orch", &mut script);
    output::write(&script)?;
    Ok(Exit::Done)
}
