//! The one binary. Re-executed as `orch __shim` or `orch __embedded` it must not have started a thread,
//! so those are looked for before anything else happens.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(word) if word == "__shim" => orch::shim::main(),
        Some(word) if word == "__embedded" => orch::embedded::main(),
        _ => orch::cli::main(),
    }
}
