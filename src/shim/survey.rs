//! Which containments this machine offers to this user, found out by trying.
//!
//! Owns the answer that `orch doctor` prints and the spawner goes by. The trying forks, so it happens in a process of
//! its own with one thread; a replica asks for it through [`best_containment`]. Leaves nothing behind.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    path::Path,
    process::{Command, Stdio},
};

use nix::sys::wait::{WaitStatus, waitpid};
use serde::{Deserialize, Serialize};

use super::{
    bounds::{Controller, Hierarchies},
    cgroup::Home,
    pidns, sys,
};
use crate::model::{Containment, RunId};

/// What a run can be held by here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// What a run gets unless its agent demands something else.
    pub best: Containment,
    /// Every containment that can be had, best first.
    pub available: Vec<Containment>,
    /// Why each of the others cannot.
    pub refused: Vec<(Containment, String)>,
    /// Whether `memory_max` can be had for a run's whole tree.
    pub limits_memory: bool,
    /// Whether `pids_max` can.
    pub limits_pids: bool,
}

/// Tries every containment, as a spawner of `exe` (see [`super::client::own_exe`]) for this state directory would.
/// Blocking, for some milliseconds.
pub fn best_containment(exe: &Path, state_dir: &Path) -> io::Result<Survey> {
    let output =
        Command::new(exe).args(["__shim", "survey"]).arg(state_dir).env_clear().stdin(Stdio::null()).output()?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        io::Error::other(format!("the survey of containments ended with {}: {}", output.status, said.trim()))
    })
}

/// The process that is asked: prints the survey as JSON.
pub(super) fn print(state_dir: &Path) -> io::Result<()> {
    let home = Home::find(state_dir);
    let hierarchies = Hierarchies::find(state_dir);
    let survey = try_all(&home, &hierarchies);
    if let Ok(home) = home {
        home.leave();
    }
    hierarchies.leave();
    let mut out = io::stdout();
    serde_json::to_writer(&mut out, &survey)?;
    out.flush()
}

fn try_all(home: &Result<Home, String>, hierarchies: &Hierarchies) -> Survey {
    let (mut available, mut refused) = (Vec::new(), Vec::new());
    let cgroup = home.clone().and_then(|home| try_cgroup(&home).map_err(|error| error.to_string()));
    let pidns = try_pidns().map_err(|error| error.to_string());
    for (containment, outcome) in [(Containment::Cgroup, cgroup), (Containment::Pidns, pidns)] {
        match outcome {
            Ok(()) => available.push(containment),
            Err(reason) => refused.push((containment, reason)),
        }
    }
    available.push(Containment::Sweep);
    // In the run's own cgroup only where that is what holds it.
    let best = available[0];
    let own = |file| best == Containment::Cgroup && home.as_ref().is_ok_and(|home| home.hands_down(file));
    let limits_memory = own("memory.max") || hierarchies.has(Controller::Memory);
    let limits_pids = own("pids.max") || hierarchies.has(Controller::Pids);
    Survey { best, available, refused, limits_memory, limits_pids }
}

fn try_cgroup(home: &Home) -> io::Result<()> {
    let group = home.make_group(RunId::new())?;
    let outcome = File::open(group.path()).and_then(|directory| try_clone(0, Some(&directory)));
    group.remove();
    outcome
}

fn try_pidns() -> io::Result<()> {
    try_clone(pidns::namespaces(), None)
}

fn try_clone(namespaces: i32, cgroup: Option<&File>) -> io::Result<()> {
    let child = sys::clone(namespaces, cgroup.map(AsFd::as_fd), || 0)?;
    match waitpid(child, None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        status => Err(io::Error::other(format!("the child ended with {status:?}"))),
    }
}
