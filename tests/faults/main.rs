//! The fault suite: real replicas (the built binary) on a real Postgres, a fault, and two judges that share no code with
//! orch. `table` lists the rows; `cargo test --test faults -- NAME` runs some, `-- --ignored` those of the long run.
//!
//! The same binary is the test jobs' program: `faults witness DIR PROGRAM…` (see `witness`).
#![allow(clippy::unwrap_used, reason = "a test says no by panicking")]

#[path = "../it/support/mod.rs"]
mod support;

mod auditor;
mod bouncer;
mod bound;
mod case;
mod container;
mod disk;
mod failpoints;
mod group;
mod hand;
mod kept;
mod network;
mod node;
mod processes;
mod proxy;
mod recovery;
mod rows;
mod spares;
mod table;
mod witness;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|word| word == "witness") {
        return witness::run(arguments);
    }
    let arguments = libtest_mimic::Arguments::from_args();
    // Leaves through `exit`, which also ends the test server.
    libtest_mimic::run(&arguments, table::trials()).exit()
}
