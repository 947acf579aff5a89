//! Spawner and shim: the room that forks, waits and kills.
//!
//! A replica starts one **spawner** (this binary, executed again as `orch __shim` before it had a thread) and asks it over
//! a socket to start runs; for each the spawner forks one **shim**, which holds the run's process tree until it is empty.
//!
//! | file | |
//! |---|---|
//! | `protocol`, `wire` | what replica and shim tell each other, and its frames |
//! | `rundir`, `note` | the run's directory, its lock, and the shim's note in it |
//! | `spare` | the directories in which shims wait that were forked ahead of any run |
//! | `client`, `handle` | the replica's side: launch, hear, terminate |
//! | `spawner` | the process that forks shims |
//! | `lease` | until when a replica's runs are its own: written by it, read by its shims |
//! | `hold`, `tend`, `ending` | the shim: its lock, its loop, the order of its end |
//! | `start`, `birth` | the job's first steps, and how the shim hears of them |
//! | `unborn` | the job's process before it is told which program to become |
//! | `peers`, `clock` | who speaks with a shim; its clock |
//! | `tree`, `cgroup`, `pidns`, `process` | the three containments and what they stand on |
//! | `sweep`, `survey` | what a dead shim left; which containments can be had |
//! | `redact` | secrets in the output, replaced before it is kept |
//! | `spool`, `log` | the bounded output, written and read |
//! | `sys` | the system calls without a safe wrapper |
//!
//! When a tree is told to end (the lease, a timeout, silence) is decided by `model::fence`. This room knows no database.

mod birth;
mod bounds;
mod cgroup;
pub mod client;
mod clock;
mod ending;
mod handle;
mod hold;
mod lease;
pub mod log;
mod note;
mod peers;
mod pidns;
mod process;
pub mod protocol;
mod redact;
mod rundir;
mod spare;
mod spawner;
mod spool;
mod start;
mod survey;
mod sweep;
mod sys;
mod tend;
mod tree;
mod unborn;
mod wire;

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{ExitCode, abort},
    time::Duration,
};

/// Entry of the binary executed again as `orch __shim`: the spawner, or a survey of the containments. Must be called
/// before a thread exists.
#[must_use]
pub fn main() -> ExitCode {
    // A panic must not unwind out of a forked child into the code of its parent.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("orch __shim: {panic}");
        abort();
    }));
    let arguments: Vec<OsString> = std::env::args_os().skip(2).collect();
    let words: Vec<Option<&str>> = arguments.iter().map(|argument| argument.to_str()).collect();
    let outcome = match (words.as_slice(), arguments.get(1).map(PathBuf::from)) {
        ([Some("spawner"), _, Some(wait)], Some(state_dir)) => {
            spawner::run(state_dir, Duration::from_millis(wait.parse().unwrap_or_default()))
        }
        ([Some("survey"), _], Some(state_dir)) => survey::print(&state_dir),
        _ => {
            eprintln!("orch __shim is started by orch itself");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orch __shim: {error}");
            ExitCode::FAILURE
        }
    }
}
