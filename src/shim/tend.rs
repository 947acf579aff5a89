//! The one loop in which a shim tends its run: from the program's start until its tree is empty.
//!
//! Owns what the shim waits for and hears; what follows in time from it stands in `tend/end`. Everything is polled here,
//! and nothing else may block, so that no slow reader, full pipe or stuck start delays an end. First at each wake-up comes
//! the lease: whoever was frozen may have slept beyond its end.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{signal::Signal, signalfd::SignalFd},
    unistd::{Pid, UnlinkatFlags, unlinkat},
};

use super::{
    birth::{Birth, News},
    bounds::Bounds,
    clock::{Alarm, now},
    hold::Held,
    lease::Lease,
    peers::{PEERS_MAX, Peers},
    process,
    protocol::{Cause, Exit, Reason, Report, Request, SpawnError, Started},
    redact::Redactor,
    rundir::SPEC,
    spawner::Inheritance,
    spool::Spool,
    start::failure,
    sys::{self, End},
    tree::{self, Known, Tree},
    unborn::Unborn,
};
use crate::model::fence::{self, Stage};

/// Children reaped, and pieces of output read, before everything else is looked at again.
const REAP_BOUND: usize = 1024;
const READ_BOUND: usize = 16;
/// One piece of output.
const PIECE: usize = 16 * 1024;
/// From one report of the output's growth to the next.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// From the start until a successor can reach us, unless the replica is gone before: what is over by then needs no socket, and
/// a program that begins does not share the machine with the making of one.
const LISTEN_AFTER: Duration = Duration::from_millis(50);
/// Where it could not be made, for want of room or of descriptors.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Where the poll's own timer is all there is.
const WITHOUT_ALARM: Duration = Duration::from_millis(100);
/// Descriptors to poll: signals, alarm, birth, output, the tree, who knocks, and whoever is there.
const WATCHED_MAX: usize = 6 + PEERS_MAX;

mod end;

struct Run<'a> {
    held: &'a Held,
    inheritance: &'a Inheritance,
    lease: Lease,
    /// K.
    grace: Duration,
    peers: &'a mut Peers,
    signals: &'a SignalFd,
    alarm: Alarm,
    tree: Tree,
    bounds: Bounds,
    birth: Option<Birth>,
    output: Option<File>,
    /// What comes out of `output` on its way to `spool`, where there are secrets.
    redactor: Option<Redactor>,
    spool: Spool,
    /// The main process while it is our child and not reaped.
    main: Option<Pid>,
    main_end: Option<End>,
    childless: bool,
    reap_again: bool,
    remarks: Vec<String>,
    /// Known, but not yet running the program.
    candidate: Option<Started>,
    timeout_at: Option<Duration>,
    /// The program's start, or its last byte of output.
    heard_at: Duration,
    /// How much output was reported, and when more may be.
    reported: u64,
    report_at: Duration,
    /// When the socket is to be made, if it was not.
    listen_at: Option<Duration>,
    stage: Stage,
    /// When something is due, if nothing happens before.
    due_at: Duration,
    /// Whether those who outlived the main process have been looked at.
    is_followed: bool,
    told: HashSet<Known>,
    /// Whether it was said that no KILL ends it.
    is_unending: bool,
    killed: HashSet<Known>,
    exit: Exit,
}

/// Starts the program and tends it. Comes back when its tree is empty; an error: nothing was started.
pub(super) fn tend(
    held: &Held,
    lease: Lease,
    inheritance: &Inheritance,
    peers: &mut Peers,
    signals: &SignalFd,
    alarm: Alarm,
    unborn: Option<Unborn>,
) -> Result<Exit, SpawnError> {
    let spec = &held.spec;
    let run = held.directory.try_clone().map_err(|error| failure("open the run's directory", error))?;
    let (planted, output, birth) = tree::plant(held, inheritance, &lease, unborn)?;
    let mut run = Run {
        held,
        inheritance,
        lease,
        grace: Duration::from_millis(spec.kill_grace_ms),
        peers,
        signals,
        alarm,
        tree: planted.tree,
        bounds: planted.bounds,
        birth: Some(birth),
        output: Some(output),
        redactor: Redactor::of(spec),
        spool: Spool::new(run, spec.log_cap),
        main: planted.main,
        main_end: None,
        childless: false,
        reap_again: false,
        remarks: planted.remarks,
        candidate: None,
        timeout_at: None,
        heard_at: Duration::ZERO,
        reported: 0,
        report_at: Duration::ZERO,
        listen_at: Some(now().saturating_add(LISTEN_AFTER)),
        stage: Stage::Living,
        due_at: Duration::ZERO,
        is_followed: false,
        told: HashSet::new(),
        is_unending: false,
        killed: HashSet::new(),
        exit: Exit { silence_timeout_ms: spec.silence_timeout_ms, ..Exit::new(spec.run_id) },
    };
    if let Some(main) = planted.main {
        run.know(main);
    }
    // Whatever happened meanwhile; an order may have come in one piece with the word to begin.
    run.look_at_lease();
    run.hear_peers();
    while !run.is_over() {
        run.turn();
    }
    Ok(run.finish())
}

impl Run<'_> {
    /// Waits until something happens, and looks at everything. Where nothing did, it is the lease alone that is read.
    fn turn(&mut self) {
        let is_idle = self.wait() == Ok(0) && !self.reap_again;
        self.look_at_lease();
        if !is_idle {
            self.read_signals();
            self.hear_birth();
            self.read_output(READ_BOUND);
            if let Tree::Pidns(init) = &self.tree {
                self.main_end = self.main_end.or_else(|| init.hear());
            }
            self.hear_peers();
        }
        self.keep_time();
        self.report_output();
        self.listen();
    }

    /// Opens the socket when it is time. Without it a successor cannot reach us; the run is none the worse for that.
    fn listen(&mut self) {
        if self.listen_at.is_some_and(|at| at <= now() || self.peers.is_alone()) {
            let made = self.peers.listen(&self.held.directory);
            self.listen_at = made.is_err().then(|| now().saturating_add(LISTEN_AGAIN_AFTER));
        }
    }

    /// Waits for as long as nothing is due, but never longer than until the lease is to be read again. How many
    /// descriptors are ready; an error is an interruption, or want of memory: then everything is looked at.
    fn wait(&mut self) -> nix::Result<i32> {
        // An idle run sets no timer for its output.
        let report_at = (self.spool.total() > self.reported).then_some(self.report_at);
        // It follows suspended time too, which the poll's own timer does not.
        let is_set = self.alarm.set(report_at.into_iter().chain(self.listen_at).chain([self.due_at]).min()).is_ok();
        let patience = match (self.reap_again, is_set) {
            (true, _) => Duration::ZERO,
            (false, true) => fence::look_every(self.grace),
            (false, false) => fence::look_every(self.grace).min(WITHOUT_ALARM),
        };
        let mut watched: [_; WATCHED_MAX] = std::array::from_fn(|_| PollFd::new(self.alarm.as_fd(), PollFlags::POLLIN));
        let mut count = 1;
        self.watch(|fd| {
            if let Some(place) = watched.get_mut(count) {
                *place = fd;
                count += 1;
            }
        });
        poll(&mut watched[..count], PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO))
    }

    /// What to poll for, beside the alarm.
    fn watch<'a>(&'a self, mut add: impl FnMut(PollFd<'a>)) {
        add(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
        self.birth.iter().for_each(|birth| add(PollFd::new(birth.as_fd(), PollFlags::POLLIN)));
        self.output.iter().for_each(|output| add(PollFd::new(output.as_fd(), PollFlags::POLLIN)));
        match &self.tree {
            Tree::Pidns(init) if !init.is_reaped => add(PollFd::new(init.control.as_fd(), PollFlags::POLLIN)),
            // Its last change is read by `is_over`, after which it is quiet until the next.
            Tree::Cgroup { events, .. } if self.main_end.is_some() => {
                add(PollFd::new(events.as_fd(), PollFlags::POLLPRI));
            }
            _ => {}
        }
        self.peers.watch(add);
    }

    fn hear_peers(&mut self) {
        for request in &self.peers.attend() {
            self.heed(request);
        }
    }

    fn heed(&mut self, request: &Request) {
        match *request {
            Request::Terminate { grace_ms, reason } => {
                self.end(Cause::Terminated(reason), now().saturating_add(Duration::from_millis(grace_ms)));
            }
            Request::Follow { replica_id } => {
                let opened = Lease::open(&self.inheritance.state_dir, replica_id, &self.inheritance.boot_id);
                // One that grants nothing (any more) is not followed, and who asked for it is not answered: the former
                // owner's stands.
                if let Ok(lease) = opened
                    && now().saturating_add(self.grace) < lease.deadline()
                {
                    self.lease = lease;
                    self.peers.tell_following(replica_id);
                }
            }
            // It has begun, and has not ended.
            Request::Begin { .. } | Request::Stored => {}
        }
    }

    fn read_signals(&mut self) {
        let mut has_died = self.reap_again;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGCHLD as u32 {
                has_died = true;
            } else {
                self.end(Cause::Terminated(Reason::Stop), now().saturating_add(self.grace));
            }
        }
        if has_died {
            self.reap();
        }
    }

    fn reap(&mut self) {
        self.reap_again = true;
        for _ in 0..REAP_BOUND {
            match sys::reap() {
                Ok(Some((pid, end))) if Some(pid) == self.main => {
                    self.main = None;
                    self.main_end = Some(end);
                }
                Ok(Some((pid, end))) => {
                    if let Tree::Pidns(init) = &mut self.tree
                        && init.pid == pid
                    {
                        init.is_reaped = true;
                        // What it said last counts; if it could say nothing, the main process ended with it.
                        self.main_end = self.main_end.or_else(|| init.hear()).or(Some(end));
                    }
                }
                outcome => {
                    self.childless = outcome == Err(Errno::ECHILD);
                    self.reap_again = false;
                    return;
                }
            }
        }
    }

    /// The main process has this pid, and its start time can be read as long as it is not reaped.
    fn know(&mut self, main: Pid) {
        let pid_started = process::stat(main.as_raw()).map_or(0, |stat| stat.started);
        let remarks = std::mem::take(&mut self.remarks);
        self.candidate =
            Some(Started { pid: main.as_raw(), pid_started, containment: self.tree.containment(), remarks });
    }

    fn hear_birth(&mut self) {
        while let Some(birth) = &self.birth {
            match birth.hear() {
                None => return,
                Some(News::Hello(pid)) => {
                    self.know(pid);
                    if let Some(birth) = &self.birth {
                        birth.go();
                    }
                }
                Some(News::Failed(error)) => {
                    self.exit.never_started = Some(error);
                    self.birth = None;
                }
                Some(News::Runs) => {
                    self.birth = None;
                    self.program_runs();
                }
            }
        }
    }

    fn program_runs(&mut self) {
        let Some(started) = self.candidate.take() else {
            let message = "the process ended before it became the program".to_owned();
            self.exit.never_started = Some(SpawnError { temporary: true, message });
            return;
        };
        self.peers.tell(&Report::Started(started.clone()));
        self.exit.started = Some(started);
        self.heard_at = now();
        let timeout = self.held.spec.timeout_ms.map(Duration::from_millis);
        self.timeout_at = timeout.map(|timeout| self.heard_at.saturating_add(timeout));
        // It holds the environment, secrets and all.
        let _ = unlinkat(&self.held.directory, SPEC, UnlinkatFlags::NoRemoveDir);
    }

    /// Reads a bounded number of pieces of what has come. Whether anything has.
    fn read_output(&mut self, pieces: usize) -> bool {
        let mut piece = [0; PIECE];
        let mut has_come = false;
        for _ in 0..pieces {
            let Some(output) = &mut self.output else { break };
            match output.read(&mut piece) {
                Ok(0) => {
                    self.output = None;
                    self.keep_rest();
                }
                Ok(count) => {
                    has_come = true;
                    self.keep(&piece[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if has_come {
            self.heard_at = now();
        }
        has_come
    }

    fn keep(&mut self, bytes: &[u8]) {
        match &mut self.redactor {
            None => self.spool.write(bytes),
            Some(redactor) => redactor.take(bytes, |bytes| self.spool.write(bytes)),
        }
    }

    /// Nothing more is read.
    fn keep_rest(&mut self) {
        if let Some(redactor) = &mut self.redactor {
            redactor.finish(|bytes| self.spool.write(bytes));
        }
    }

    /// Says how much output has come, if it has grown and was not said just now.
    fn report_output(&mut self) {
        let total = self.spool.total();
        if total > self.reported && self.report_at <= now() {
            self.peers.tell_output(total);
            self.reported = total;
            self.report_at = now().saturating_add(REPORT_EVERY);
        }
    }
}
