//! The process that becomes the job's program, forked ahead of any run.
//!
//! Owns its wait: in the cgroup of the run that may come to be, with its output connected and nothing else open, for the one
//! message that says which program. It is born without the run's lock, goes with its shim, and begins nothing of itself: the
//! message is sent after the note is written, and its last step before the program is the look at the lease, as for any other.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    thread::sleep,
    time::Duration,
};

use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getpid, getppid},
};

use super::{
    birth::{Birth, hear_program},
    cgroup::{Events, Group},
    clock::now,
    protocol::Spec,
    spawner::Inheritance,
    start::{Program, Streams, message::MESSAGE_MAX, output_pipe, refusal, settle_down},
    sys,
};
use crate::model::{Containment, RunId};

/// KILL ends it at once, unless the machine is at its end. A shim waits for nothing without a bound.
const GONE_WITHIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// A shim's hold on it.
#[derive(Debug)]
pub(super) struct Unborn {
    pub(super) waiting: Waiting,
    pub(super) events: Events,
    pub(super) birth: Birth,
    pub(super) output: File,
}

/// The process and its cgroup. Both end with this, unless it was born.
#[derive(Debug)]
pub(super) struct Waiting {
    pid: Pid,
    group: Group,
    is_born: bool,
}

impl Waiting {
    pub(super) const fn group(&self) -> &Group {
        &self.group
    }

    /// It becomes a program: from here on it is the run's.
    pub(super) fn born(mut self) -> (Pid, Group) {
        self.is_born = true;
        (self.pid, self.group.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_born {
            let _ = kill(self.pid, Signal::SIGKILL);
            let until = now() + GONE_WITHIN;
            while waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) && now() < until {
                sleep(LOOK_AGAIN);
            }
            self.group.remove();
        }
    }
}

impl Unborn {
    /// Forks it. None where no cgroup can hold a run, or nothing can be forked now: then the program is forked when it is known.
    pub(super) fn fork(inheritance: &Inheritance, run_id: RunId) -> Option<Self> {
        let group = inheritance.home.as_ref().ok()?.make_group(run_id).ok()?;
        let unborn = Self::within(&group);
        if unborn.is_err() {
            group.remove();
        }
        unborn.ok()
    }

    fn within(group: &Group) -> io::Result<Self> {
        let (directory, events) = (File::open(group.path())?, group.events()?);
        let (output, theirs) = output_pipe()?;
        let (birth, child) = Birth::pair()?;
        let shim = getpid();
        let pid = sys::clone(0, Some(directory.as_fd()), || wait(shim, &theirs, &child))?;
        let waiting = Waiting { pid, group: group.clone(), is_born: false };
        Ok(Self { waiting, events, birth, output })
    }

    /// Whether it may become a program that is to be held like this. Sets the limits of its cgroup.
    pub(super) fn suits(&self, spec: &Spec) -> bool {
        let limits = || {
            let group = &self.waiting.group;
            let memory = spec.memory_max.is_none_or(|max| group.limit_memory(max));
            memory && spec.pids_max.is_none_or(|max| group.limit_pids(max))
        };
        spec.containment.is_none_or(|demanded| demanded == Containment::Cgroup) && limits()
    }
}

/// The life of the process, in a fresh child of the shim.
fn wait(shim: Pid, output: &OwnedFd, birth: &OwnedFd) -> i32 {
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    let _ = prctl::set_name(c"orch-unborn");
    if getppid() != shim {
        return 0;
    }
    // Neither the channel, by whose end the replica hears that the shim has gone, nor what the shim listens to.
    let Ok([output, birth]) = sys::keep_only([output.as_fd(), birth.as_fd()]) else { return 1 };
    if settle_down(&output).is_err() {
        return 1;
    }
    let mut message = vec![0; MESSAGE_MAX];
    let (length, [stdin, lease]) = loop {
        match hear_program(&birth, &mut message) {
            None => return 0,
            Some((length, Some(passed))) => break (length, passed),
            // Its own copy of what it will need: each page that it writes to for the first time is one that it waits for.
            Some((length, None)) => drop(Program::of_message(&message[..length])),
        }
    };
    let streams = Streams { stdin, output, birth, lease };
    match Program::of_message(&message[..length]) {
        Some(program) => program.become_it_now(&streams, shim),
        None => streams.fail(&refusal("read the message that says which program it is".to_owned())),
    }
}
