//! The one loop in which a shim tends its run: from the program's start until its tree is empty.
//!
//! Owns when the tree is told to end: a timeout, a request, a signal, or a main process that ended and left others. TERM,
//! then KILL, over the whole tree, until it is empty. Everything the shim waits for is polled here, and nothing else may
//! block, so that no slow reader, full pipe or stuck start delays an end.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl, openat},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        resource::{UsageWho, getrusage},
        signal::Signal,
        signalfd::SignalFd,
        stat::Mode,
    },
    unistd::{Pid, UnlinkatFlags, pipe2, unlinkat},
};

use super::{
    birth::{Birth, News},
    clock::{Alarm, now},
    ending::read_result,
    hold::Held,
    peers::Peers,
    process,
    protocol::{Cause, Exit, Reason, Report, Request, SpawnError, Started, Stdin},
    rundir::{PAYLOAD, SPEC},
    spawner::Inheritance,
    spool::Spool,
    start::{Program, Streams, failure},
    sys::{self, End},
    tree::{self, Known, Tree},
};

/// What the main process left behind has this long between TERM and KILL, or the run's own grace if that is shorter.
const LEFTOVER_GRACE: Duration = Duration::from_secs(1);
/// Between two rounds of KILL.
const ROUND: Duration = Duration::from_millis(50);
/// Containment `sweep` can lose to a tree that forks faster than it is swept; then it says so.
const SWEEP_BOUND: Duration = Duration::from_secs(10);
/// Children reaped, and pieces of output read, before everything else is looked at again.
const REAP_BOUND: usize = 1024;
const READ_BOUND: usize = 16;
/// One piece of output.
const PIECE: usize = 16 * 1024;
/// What a pipe can hold at most when its last writers are gone.
const DRAIN_BOUND: usize = 1024 * 1024;

struct Run<'a> {
    held: &'a Held,
    peers: &'a mut Peers,
    signals: &'a SignalFd,
    alarm: Alarm,
    tree: Tree,
    birth: Option<Birth>,
    output: Option<File>,
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
    ending: Option<Ending>,
    /// Whether those who outlived the main process have been looked at.
    is_followed: bool,
    told: HashSet<Known>,
    killed: HashSet<Known>,
    exit: Exit,
}

/// The tree has been told to end.
struct Ending {
    kill_at: Duration,
    first_kill_at: Option<Duration>,
}

/// Starts the program and tends it. Comes back when its tree is empty; an error: nothing was started.
pub(super) fn tend(
    held: &Held,
    inheritance: &Inheritance,
    peers: &mut Peers,
    signals: &SignalFd,
) -> Result<Exit, SpawnError> {
    let spec = &held.file.spec;
    let program = Program::prepare(&held.file, &held.dir)?;
    let alarm = Alarm::new().map_err(|error| failure("make a timer", error))?;
    let (output, streams, birth) = connect(held).map_err(|error| failure("connect the program", error))?;
    let run = held.directory.try_clone().map_err(|error| failure("open the run's directory", error))?;
    let planted = tree::plant(spec, inheritance, &held.lock, program, &streams)?;
    // Or the end of the program's last copy would not be seen.
    drop(streams);
    let mut run = Run {
        held,
        peers,
        signals,
        alarm,
        tree: planted.tree,
        birth: Some(birth),
        output: Some(output),
        spool: Spool::new(run, spec.log_cap),
        main: planted.main,
        main_end: None,
        childless: false,
        reap_again: false,
        remarks: planted.remarks,
        candidate: None,
        timeout_at: None,
        ending: None,
        is_followed: false,
        told: HashSet::new(),
        killed: HashSet::new(),
        exit: Exit::new(spec.run_id),
    };
    if let Some(main) = planted.main {
        run.know(main);
    }
    while !run.is_over() {
        run.turn();
    }
    Ok(run.finish())
}

/// Makes the output's pipe, opens the input and makes the birth socket.
fn connect(held: &Held) -> io::Result<(File, Streams, Birth)> {
    let (output, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let stdin = match held.file.spec.stdin {
        Stdin::Payload => openat(&held.directory, PAYLOAD, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?,
        Stdin::Null => OwnedFd::from(OpenOptions::new().read(true).open("/dev/null")?),
    };
    let (birth, child) = Birth::pair()?;
    Ok((File::from(output), Streams { stdin, output: theirs, birth: child }, birth))
}

impl Run<'_> {
    /// One look at everything that can happen.
    fn turn(&mut self) {
        let at = [self.timeout_at.filter(|_| self.ending.is_none()), self.ending.as_ref().map(|ending| ending.kill_at)];
        // If it cannot be set, the poll below must not wait for it.
        let is_set = self.alarm.set(at.into_iter().flatten().min()).is_ok();
        let patience = match (self.reap_again, is_set) {
            (true, _) => PollTimeout::ZERO,
            (false, true) => PollTimeout::NONE,
            (false, false) => PollTimeout::from(100_u8),
        };
        let mut watched = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.alarm.as_fd(), PollFlags::POLLIN),
        ];
        watched.extend(self.birth.iter().map(|birth| PollFd::new(birth.as_fd(), PollFlags::POLLIN)));
        watched.extend(self.output.iter().map(|output| PollFd::new(output.as_fd(), PollFlags::POLLIN)));
        match &self.tree {
            Tree::Pidns(init) if !init.is_reaped => watched.push(PollFd::new(init.control.as_fd(), PollFlags::POLLIN)),
            // Its last change is read by `is_over`, after which it is quiet until the next.
            Tree::Cgroup { events, .. } if self.main_end.is_some() => {
                watched.push(PollFd::new(events.as_fd(), PollFlags::POLLPRI));
            }
            _ => {}
        }
        self.peers.watch(&mut watched);
        // An error of poll is an interruption, or want of memory: everything is looked at anyway.
        let _ready = poll(&mut watched, patience);
        drop(watched);
        self.read_signals();
        self.hear_birth();
        self.read_output(READ_BOUND);
        if let Tree::Pidns(init) = &self.tree {
            self.main_end = self.main_end.or_else(|| init.hear());
        }
        for request in self.peers.attend() {
            if let Request::Terminate { grace_ms, reason } = request {
                self.end(Cause::Terminated(reason), Duration::from_millis(grace_ms));
            }
        }
        self.keep_time();
    }

    fn read_signals(&mut self) {
        let mut has_died = self.reap_again;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if signal.ssi_signo == Signal::SIGCHLD as u32 {
                has_died = true;
            } else {
                let grace = Duration::from_millis(self.held.file.spec.kill_grace_ms);
                self.end(Cause::Terminated(Reason::Stop), grace);
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
        self.timeout_at = self.held.file.spec.timeout_ms.map(|timeout| now() + Duration::from_millis(timeout));
        // It holds the environment, secrets and all.
        let _ = unlinkat(&self.held.directory, SPEC, UnlinkatFlags::NoRemoveDir);
    }

    /// Reads a bounded number of pieces; `false` once there is nothing (more) to read.
    fn read_output(&mut self, pieces: usize) {
        let mut piece = [0; PIECE];
        for _ in 0..pieces {
            let Some(output) = &mut self.output else { return };
            match output.read(&mut piece) {
                Ok(0) => self.output = None,
                Ok(count) => self.spool.write(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Tells the tree to end, or shortens the grace of one that has been told.
    fn end(&mut self, cause: Cause, grace: Duration) {
        let kill_at = now().saturating_add(grace);
        if let Some(ending) = &mut self.ending {
            ending.kill_at = ending.kill_at.min(kill_at);
            return;
        }
        if self.main_end.is_none() {
            self.exit.cause = cause;
        }
        self.tree.terminate(self.main, &mut self.told);
        self.ending = Some(Ending { kill_at, first_kill_at: None });
    }

    fn keep_time(&mut self) {
        let grace = Duration::from_millis(self.held.file.spec.kill_grace_ms);
        if self.ending.is_none() && self.timeout_at.is_some_and(|at| at <= now()) && self.main_end.is_none() {
            self.end(Cause::TimedOut, grace);
        }
        if self.main_end.is_some() && !self.is_followed && !self.is_tree_empty() {
            self.is_followed = true;
            self.count();
            match (&self.ending, &self.tree) {
                (None, _) => self.end(Cause::Exited, grace.min(LEFTOVER_GRACE)),
                (Some(_), Tree::Pidns(_)) => {}
                // Whoever was being forked when the others were told. They keep the grace that was given to all.
                (Some(_), _) => self.tree.terminate(self.main, &mut self.told),
            }
        }
        if self.ending.as_ref().is_some_and(|ending| ending.kill_at <= now()) {
            self.count();
            self.tree.kill(self.main);
            if let Some(ending) = &mut self.ending {
                ending.kill_at = now() + ROUND;
                ending.first_kill_at.get_or_insert_with(now);
            }
        }
    }

    /// Counts those who had to be ended beside the main process.
    fn count(&mut self) {
        if self.killed.len() >= process::DESCENDANTS_MAX {
            return;
        }
        let main = self.candidate.as_ref().or(self.exit.started.as_ref()).map(|started| started.pid);
        self.killed.extend(self.tree.living().into_iter().filter(|(pid, _)| Some(*pid) != main));
    }

    fn is_tree_empty(&self) -> bool {
        self.tree.is_empty(self.childless)
    }

    fn is_over(&mut self) -> bool {
        if self.main_end.is_none() || self.birth.is_some() {
            return false;
        }
        if self.is_tree_empty() {
            return true;
        }
        let first_kill_at = self.ending.as_ref().and_then(|ending| ending.first_kill_at);
        matches!(self.tree, Tree::Sweep) && first_kill_at.is_some_and(|at| now() > at + SWEEP_BOUND)
    }

    /// The tree is empty: takes what is left of its output and puts the facts together.
    fn finish(mut self) -> Exit {
        self.read_output(DRAIN_BOUND / PIECE);
        let mut exit = self.exit;
        exit.processes_left = if self.childless { 0 } else { self.tree.living().len() as u32 };
        exit.processes_killed = self.killed.len() as u32;
        match self.main_end.filter(|_| exit.started.is_some()) {
            Some(End::Code(code)) => exit.exit_code = Some(code),
            Some(End::Signal(signal)) => exit.signal = Some(signal),
            None => {}
        }
        let usage = self.tree.usage();
        if let Ok(children) = getrusage(UsageWho::RUSAGE_CHILDREN) {
            let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
            exit.user_cpu_seconds = usage.user_seconds.unwrap_or_else(|| seconds(children.user_time()));
            exit.system_cpu_seconds = usage.system_seconds.unwrap_or_else(|| seconds(children.system_time()));
            let largest = u64::try_from(children.max_rss()).unwrap_or(0) * 1024;
            exit.peak_memory_bytes = usage.peak_memory_bytes.unwrap_or(largest);
        }
        exit.oom_killed = usage.oom_kills.map(|kills| kills > 0);
        (exit.log_bytes_kept, exit.log_bytes_dropped) = self.spool.finish();
        if exit.started.is_some() {
            exit.result = read_result(&self.held.directory);
        }
        self.tree.remove();
        exit
    }
}
