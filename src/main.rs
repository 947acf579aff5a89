//! The one binary. Re-executed as `orch __shim` it must not have started a thread, so that is looked for before
//! anything else happens.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    orch::failpoint::arm();
    match std::env::args_os().nth(1) {
        Some(word) if word == "__shim" => orch::shim::main(),
        _ => orch::cli::main(),
    }
}
