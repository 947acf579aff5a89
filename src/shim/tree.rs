//! The process tree of a run, whatever holds it together: begin it, count it, end it, see that it is empty.
//!
//! Owns the choice of the containment and what each means for the shim. The three differ only here. Decides nothing about
//! when: that is `model::fence`, and `tend` does it.

use std::{collections::HashSet, fs::File, io, os::fd::AsFd, path::PathBuf};

use nix::{
    sys::{
        resource::Resource,
        signal::{Signal, kill, killpg},
    },
    unistd::{Pid, getpgid, getpid},
};

use super::{
    birth::Birth,
    bounds::{Bounds, Controller},
    cgroup::{Events, Group, Usage},
    hold::Held,
    lease::Lease,
    note::{Note, Place},
    pidns::Init,
    process::{self, Process},
    protocol::{SpawnError, Spec},
    spawner::Inheritance,
    start::{Program, Streams, failure, output_pipe},
    sys,
    unborn::Unborn,
};
use crate::model::Containment;

/// A process by what tells it from every other of this boot: pid and start time.
pub(super) type Known = (i32, i64);

/// What holds the tree.
#[derive(Debug)]
pub(super) enum Tree {
    /// The job was born in this group; the shim stays outside.
    Cgroup { group: Group, events: Events },
    /// The namespace ends with its init.
    Pidns(Init),
    /// Everything that is below the shim.
    Sweep,
}

/// A tree whose first process exists.
#[derive(Debug)]
pub(super) struct Planted {
    pub(super) tree: Tree,
    /// The main process, where it is the shim's own child. In a namespace it says its pid itself.
    pub(super) main: Option<Pid>,
    /// Limits of it beside what holds it.
    pub(super) bounds: Bounds,
    /// Wishes that could not be had as asked.
    pub(super) remarks: Vec<String>,
}

/// Why there is no tree of one kind.
enum Refusal {
    /// It cannot be had here: the next best will do, unless this one was demanded.
    Unavailable(String),
    /// Nothing can be started now.
    Failed(SpawnError),
}

impl From<SpawnError> for Refusal {
    fn from(error: SpawnError) -> Self {
        Self::Failed(error)
    }
}

/// Starts the program: what was forked ahead becomes it, or it is forked now. Beside the tree, where its output comes from, and
/// where it is heard whether it runs.
pub(super) fn plant(
    held: &Held,
    inheritance: &Inheritance,
    lease: &Lease,
    unborn: Option<Unborn>,
) -> Result<(Planted, File, Birth), SpawnError> {
    let program = Program::prepare(&held.spec, &held.dir)?;
    if let Some(planted) = unborn.and_then(|unborn| plant_unborn(unborn, &program, held, inheritance, lease)) {
        return Ok(planted);
    }
    let (output, streams, birth) = connect(held, lease).map_err(|error| failure("connect the program", error))?;
    // The streams end here, or the end of the program's last copy would not be seen.
    fork_program(&held.spec, inheritance, &held.lock, program, &streams).map(|planted| (planted, output, birth))
}

/// Makes the output's pipe, opens the input and makes the birth socket.
fn connect(held: &Held, lease: &Lease) -> io::Result<(File, Streams, Birth)> {
    let (output, theirs) = output_pipe()?;
    let (birth, child) = Birth::pair()?;
    Ok((output, Streams { stdin: held.input()?, output: theirs, birth: child, lease: lease.file()? }, birth))
}

/// Forks the program in the containment that was demanded, or in the best there is.
fn fork_program(
    spec: &Spec,
    inheritance: &Inheritance,
    lock: &File,
    mut program: Program,
    streams: &Streams,
) -> Result<Planted, SpawnError> {
    let demanded = spec.containment.as_ref().map(std::slice::from_ref);
    let mut refusals = Vec::new();
    for containment in demanded.unwrap_or(Containment::ALL) {
        program.forget_limits();
        let (bounds, remarks) = (Bounds::default(), Vec::new());
        let mut planting = Planting { spec, inheritance, lock, program: &mut program, streams, bounds, remarks };
        let outcome = match containment {
            Containment::Cgroup => planting.in_cgroup(),
            Containment::Pidns => planting.in_namespace(),
            Containment::Sweep => planting.below_shim(),
        };
        match outcome {
            Ok((tree, main)) => {
                return Ok(Planted { tree, main, bounds: planting.bounds, remarks: planting.remarks });
            }
            Err(refusal) => {
                planting.bounds.remove();
                match refusal {
                    Refusal::Failed(error) => return Err(error),
                    Refusal::Unavailable(reason) => refusals.push(format!("containment {containment}: {reason}")),
                }
            }
        }
    }
    Err(SpawnError { temporary: false, message: refusals.join("; ") })
}

struct Planting<'a> {
    spec: &'a Spec,
    inheritance: &'a Inheritance,
    lock: &'a File,
    program: &'a mut Program,
    streams: &'a Streams,
    bounds: Bounds,
    remarks: Vec<String>,
}

impl Planting<'_> {
    fn in_cgroup(&mut self) -> Result<(Tree, Option<Pid>), Refusal> {
        let home = self.inheritance.home.as_ref().map_err(|reason| Refusal::Unavailable(reason.clone()))?;
        let group = home
            .make_group(self.spec.run_id)
            .map_err(|error| Refusal::Unavailable(format!("make a cgroup: {error}")))?;
        let memory = self.spec.memory_max.map(|max| group.limit_memory(max));
        let pids = self.spec.pids_max.map(|max| group.limit_pids(max));
        self.limit_without_controller(memory == Some(false), pids == Some(false));
        let planted = self.note(Containment::Cgroup, Some(group.path().to_owned()), None).and_then(|()| {
            let directory = File::open(group.path()).map_err(|error| refuse("open the cgroup", error))?;
            let events = group.events().map_err(|error| refuse("open the cgroup", error))?;
            let shim = getpid();
            let main =
                sys::clone(0, Some(directory.as_fd()), || self.program.become_it(self.streams, Some(shim), false));
            Ok((events, main.map_err(|error| refuse("start a process in a cgroup", error))?))
        });
        match planted {
            Ok((events, main)) => Ok((Tree::Cgroup { group, events }, Some(main))),
            Err(refusal) => {
                group.remove();
                Err(refusal)
            }
        }
    }

    fn in_namespace(&mut self) -> Result<(Tree, Option<Pid>), Refusal> {
        self.limit_without_controller(self.spec.memory_max.is_some(), self.spec.pids_max.is_some());
        self.note(Containment::Pidns, None, None)?;
        let init = Init::start(self.program, self.streams).map_err(|error| refuse("make a pid namespace", error))?;
        // The init waits for the word, so nothing of the job exists before the note says who it is.
        self.note(Containment::Pidns, None, Some((init.pid.as_raw(), init.started)))?;
        init.go().map_err(|error| failure("begin in the pid namespace", error))?;
        Ok((Tree::Pidns(init), None))
    }

    fn below_shim(&mut self) -> Result<(Tree, Option<Pid>), Refusal> {
        self.limit_without_controller(self.spec.memory_max.is_some(), self.spec.pids_max.is_some());
        self.note(Containment::Sweep, None, None)?;
        let shim = getpid();
        let main = sys::fork(|| self.program.become_it(self.streams, Some(shim), false));
        Ok((Tree::Sweep, Some(main.map_err(|error| failure("fork the program", error))?)))
    }

    fn note(&self, containment: Containment, cgroup: Option<PathBuf>, init: Option<Known>) -> Result<(), Refusal> {
        Ok(note(self.inheritance, self.lock, containment, cgroup, init)?)
    }

    /// Limits for which the run's own cgroup, if it has one, lacks the controller: from a v1 tree, else what the kernel holds
    /// for a process or a user instead, which is said.
    fn limit_without_controller(&mut self, memory: bool, pids: bool) {
        let (places, run_id) = (&self.inheritance.hierarchies, self.spec.run_id);
        let memory = self.spec.memory_max.filter(|_| memory);
        let memory = memory.filter(|max| !self.bounds.add(places, run_id, Controller::Memory, *max));
        let pids = self.spec.pids_max.filter(|_| pids);
        let pids = pids.filter(|max| !self.bounds.add(places, run_id, Controller::Pids, *max));
        self.program.enter(self.bounds.doors());
        if let Some(max) = memory {
            // Not RLIMIT_AS: address space that is only reserved would count, and many runtimes reserve a lot.
            self.program.limit(Resource::RLIMIT_DATA, max);
            self.remarks.push(
                "memory_max holds for the private memory of each process, since no cgroup memory controller can be had"
                    .to_owned(),
            );
        }
        if let Some(max) = pids {
            if self.program.has_user_of_its_own() {
                self.program.limit(Resource::RLIMIT_NPROC, max);
                self.remarks.push(
                    "pids_max holds for all processes of the job's user, since no cgroup pids controller can be had"
                        .to_owned(),
                );
            } else {
                self.remarks.push(
                    "pids_max is not applied: no cgroup pids controller can be had, and the job has no user of its own"
                        .to_owned(),
                );
            }
        }
    }
}

/// Says in the lock file what holds the tree.
fn note(
    inheritance: &Inheritance,
    lock: &File,
    containment: Containment,
    cgroup: Option<PathBuf>,
    init: Option<Known>,
) -> Result<(), SpawnError> {
    let boot_id = inheritance.boot_id.clone();
    Place::within(lock, inheritance.pid_namespace.clone())
        .map(|place| Note { boot_id, containment, cgroup, init, place: Some(place) })
        .and_then(|note| note.write(lock))
        .map_err(|error| failure("write the shim's note", error))
}

/// Has the process that was forked ahead become the program, if that is as the spec wants it held. None: it is gone, and
/// nothing was started.
fn plant_unborn(
    unborn: Unborn,
    program: &Program,
    held: &Held,
    inheritance: &Inheritance,
    lease: &Lease,
) -> Option<(Planted, File, Birth)> {
    let message = program.to_message()?;
    if !unborn.suits(&held.spec) {
        return None;
    }
    let cgroup = Some(unborn.waiting.group().path().to_owned());
    note(inheritance, &held.lock, Containment::Cgroup, cgroup, None).ok()?;
    unborn.birth.tell_program(&message, held.input().ok()?.as_fd(), lease.as_fd()).ok()?;
    let Unborn { waiting, events, birth, output } = unborn;
    let (pid, group) = waiting.born();
    let tree = Tree::Cgroup { group, events };
    Some((Planted { tree, main: Some(pid), bounds: Bounds::default(), remarks: Vec::new() }, output, birth))
}

/// Out of something is out of it in every containment; anything else may not be an obstacle to the next one.
fn refuse(what: &str, error: io::Error) -> Refusal {
    let exhausted = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE));
    let error = failure(what, error);
    if exhausted { Refusal::Failed(error) } else { Refusal::Unavailable(error.message) }
}

impl Tree {
    /// Its word.
    pub(super) const fn containment(&self) -> Containment {
        match self {
            Self::Cgroup { .. } => Containment::Cgroup,
            Self::Pidns(_) => Containment::Pidns,
            Self::Sweep => Containment::Sweep,
        }
    }

    /// TERM to all of it that is not among those `told`, who are added. `main` is the main process while it is not
    /// reaped. Nobody is told twice: a second TERM means "at once" to some programs.
    pub(super) fn terminate(&self, main: Option<Pid>, told: &mut HashSet<Known>) {
        // A process group is told as one, also its members that are being forked.
        if let Some(main) = main {
            signal_group(main, Signal::SIGTERM);
        }
        let mut tell = |process: &Process| {
            let is_told = told.len() >= process::DESCENDANTS_MAX || !told.insert((process.pid, process.started));
            if !is_told && (main.is_none() || getpgid(Some(Pid::from_raw(process.pid))).ok() != main) {
                process.signal(Signal::SIGTERM);
            }
        };
        match self {
            // All of it but the init, as one.
            Self::Pidns(init) => init.terminate(),
            Self::Cgroup { group, .. } => {
                group.each(&mut tell);
                // Whoever had the right to leave the group is still below the shim.
                each_descendant(tell);
            }
            Self::Sweep => each_descendant(tell),
        }
    }

    /// KILL to all of it.
    pub(super) fn kill(&self, main: Option<Pid>) {
        let kill_it = |process: &Process| {
            process.signal(Signal::SIGKILL);
        };
        match self {
            Self::Pidns(init) if !init.is_reaped => {
                let _ = kill(init.pid, Signal::SIGKILL);
            }
            Self::Pidns(_) => {}
            Self::Cgroup { group, .. } => {
                drop(group.kill());
                each_descendant(kill_it);
            }
            Self::Sweep => {
                if let Some(main) = main {
                    signal_group(main, Signal::SIGKILL);
                }
                each_descendant(kill_it);
            }
        }
    }

    /// The processes of it that live, as far as they can be seen.
    pub(super) fn living(&self) -> HashSet<Known> {
        let mut living = HashSet::new();
        match self {
            Self::Pidns(init) => living.extend(known(init.pid)),
            Self::Cgroup { group, .. } => {
                group.each(|process| {
                    let _ = living.insert((process.pid, process.started));
                });
                living.extend(known(getpid()));
            }
            Self::Sweep => living.extend(known(getpid())),
        }
        living
    }

    /// Whether nothing of it is left, when the shim has (or has no) children.
    pub(super) fn is_empty(&self, childless: bool) -> bool {
        match self {
            Self::Cgroup { events, .. } => childless && events.is_populated().is_ok_and(|populated| !populated),
            // The init is reaped after the whole namespace has ended; the descendants of a subreaper are its children
            // once their parents have died.
            Self::Pidns(_) | Self::Sweep => childless,
        }
    }

    /// What it has used, as far as it is counted for the tree as a whole.
    pub(super) fn usage(&self) -> Usage {
        if let Self::Cgroup { group, .. } = self { group.usage() } else { Usage::default() }
    }

    /// Takes away what held it, when it is empty.
    pub(super) fn remove(&self) {
        if let Self::Cgroup { group, .. } = self {
            group.remove();
        }
    }
}

/// Everybody below a process.
fn known(root: Pid) -> impl Iterator<Item = Known> {
    process::descendants(root.as_raw()).into_iter().map(|stat| (stat.pid, stat.started))
}

/// Signals the main process' group. It is not reaped, so the group can be no one else's; it may not be made yet.
fn signal_group(main: Pid, signal: Signal) {
    let _ = killpg(main, signal).or_else(|_| kill(main, signal));
}

/// Visits those below the shim, each held so that no stranger with its pid is meant.
fn each_descendant(mut visit: impl FnMut(&Process)) {
    for (pid, started) in known(getpid()) {
        if let Some(process) = Process::hold(pid)
            && process.started == started
        {
            visit(&process);
        }
    }
}
