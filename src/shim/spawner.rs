//! The spawner: a small process with one thread that forks a shim for each run it is asked to start, and for those that
//! will be asked for.
//!
//! Owns `spawner.lock` and the socket to its replica. It ends when that socket does, *before* it serves what is still
//! queued there: a request of a dead replica must start nothing. It reaps shims, and as second subreaper it ends what a
//! killed shim leaves behind. Never reads a spec, never waits for anything but its one poll.

use std::{
    collections::HashSet,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, send},
    },
    unistd::{Pid, setsid},
};

use super::{
    bounds::Hierarchies,
    cgroup::{Home, boot_id},
    hold,
    note::pid_namespace,
    process,
    protocol::{Exit, Report, RunDir, SpawnError},
    spare::Birthplace,
    sys::{self, End},
    wire,
};

/// The one word that a spawner says when it holds its lock and serves.
pub(super) const READY: &[u8] = b"ready";

/// Between two attempts at the lock of a spawner that is going away.
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// Children reaped before the socket is looked at again.
const REAP_BOUND: usize = 1024;

/// What every shim is born with.
#[derive(Debug)]
pub(super) struct Inheritance {
    pub(super) state_dir: PathBuf,
    pub(super) boot_id: String,
    pub(super) pid_namespace: String,
    /// Where cgroups can be made, or why not.
    pub(super) home: Result<Home, String>,
    /// Where limits of a tree can be had beside it.
    pub(super) hierarchies: Hierarchies,
}

struct Spawner {
    socket: OwnedFd,
    signals: SignalFd,
    inheritance: Inheritance,
    shims: HashSet<Pid>,
    /// Children may have died that were not reaped yet.
    reap_again: bool,
    _lock: Option<File>,
}

/// Serves until the socket on standard input ends.
pub(super) fn run(state_dir: PathBuf, lock_wait: Duration) -> io::Result<()> {
    // Ctrl-C at the replica's terminal is for the replica.
    let _ = setsid();
    let socket = take_socket()?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE] {
        sys::ignore_signal(signal);
    }
    let _ = prctl::set_name(c"orch-spawner");
    prctl::set_child_subreaper(true)?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let lock = take_lock(&state_dir.join("spawner.lock"), lock_wait)?;
    let (home, hierarchies) = (Home::find(&state_dir), Hierarchies::find(&state_dir));
    if let Ok(home) = &home {
        home.tidy(|run_id| RunDir::new(&state_dir, run_id).path().exists());
    }
    let pid_namespace = pid_namespace()?;
    let inheritance = Inheritance { home, hierarchies, boot_id: boot_id(), pid_namespace, state_dir };
    let mut spawner = Spawner { socket, signals, inheritance, shims: HashSet::new(), reap_again: false, _lock: lock };
    send(spawner.socket.as_raw_fd(), READY, MsgFlags::MSG_NOSIGNAL)?;
    while spawner.turn()? {}
    if let Ok(home) = &spawner.inheritance.home {
        home.leave();
    }
    spawner.inheritance.hierarchies.leave();
    Ok(())
}

/// Moves the socket from standard input out of the way of what children get there, and closes what the replica was
/// started with and handed down: it would stay open for as long as the last shim lives.
fn take_socket() -> io::Result<OwnedFd> {
    let [socket] = sys::keep_only([io::stdin().as_fd()])?;
    sys::place(File::open("/dev/null")?.as_fd(), 0)?;
    Ok(socket)
}

/// Takes the lock, for which a successor waits before it believes that this spawner starts nothing more. One that does
/// not let go (it may be stopped) is not waited for longer than `wait`: its late starts find `void`.
fn take_lock(path: &Path, wait: Duration) -> io::Result<Option<File>> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let deadline = Instant::now() + wait;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

impl Spawner {
    /// One look at everything; `false` once the replica is gone.
    fn turn(&mut self) -> io::Result<bool> {
        let mut watched =
            [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let patience = if self.reap_again { PollTimeout::ZERO } else { PollTimeout::NONE };
        match poll(&mut watched, patience) {
            Err(Errno::EINTR) => return Ok(true),
            outcome => outcome?,
        };
        let [asked, died] = watched.map(|watched| watched.revents().unwrap_or(PollFlags::empty()));
        if asked.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
            return Ok(false);
        }
        if self.reap_again || died.contains(PollFlags::POLLIN) {
            self.reap();
        }
        if asked.contains(PollFlags::POLLIN) { self.serve() } else { Ok(true) }
    }

    /// Takes one request and forks its shim.
    fn serve(&mut self) -> io::Result<bool> {
        let mut text = [0; 64];
        let mut rights = nix::cmsg_space!(RawFd);
        let mut parts = [io::IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut parts, Some(&mut rights), flags) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(true),
            message => message?,
        };
        let length = message.bytes;
        let channel = match message.cmsgs() {
            Ok(controls) => controls
                .flat_map(|control| match control {
                    ControlMessageOwned::ScmRights(fds) => fds.into_iter().map(sys::adopt).collect(),
                    _ => Vec::new(),
                })
                .next(),
            // Out of descriptors: the kernel has dropped the channel, which tells the replica.
            Err(Errno::ENOBUFS) => None,
            Err(error) => return Err(error.into()),
        };
        // Looked at again, since this process may have been stopped for long between the poll and here.
        if length == 0 || self.is_replica_gone()? {
            return Ok(false);
        }
        let birthplace = str::from_utf8(&text[..length]).ok().and_then(Birthplace::read);
        if let (Some(channel), Some(birthplace)) = (channel, birthplace) {
            self.start(birthplace, UnixStream::from(channel));
        }
        Ok(true)
    }

    fn is_replica_gone(&self) -> nix::Result<bool> {
        let mut socket = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        poll(&mut socket, PollTimeout::ZERO)?;
        Ok(socket[0].any().unwrap_or(true))
    }

    fn start(&mut self, birthplace: Birthplace, mut channel: UnixStream) {
        let inheritance = &self.inheritance;
        let outcome = sys::fork(|| {
            // Only the channel stays: the replica could not see the spawner's end through a copy of its socket.
            match sys::keep_only([channel.as_fd()]) {
                Ok([channel]) => hold::run(inheritance, birthplace, channel.into()),
                Err(_) => 1,
            }
        });
        match outcome {
            Ok(shim) => {
                self.shims.insert(shim);
            }
            Err(error) => {
                // Nobody waits as yet for the word of a spare one: its channel ends.
                let Birthplace::Run(run_id) = birthplace else { return };
                let error = SpawnError { temporary: true, message: format!("fork a shim: {error}") };
                let exit = Exit { never_started: Some(error), ..Exit::new(run_id) };
                if let Ok(frame) = wire::frame(&Report::Exit(Box::new(exit))) {
                    let _replica_is_gone = channel.write_all(&frame);
                }
            }
        }
    }

    /// Reaps what has died. Whoever is our child and no shim was left behind by a shim that was killed.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        let mut left_behind = false;
        self.reap_again = true;
        for _ in 0..REAP_BOUND {
            if let Ok(Some((pid, end))) = sys::reap() {
                left_behind |= !self.shims.remove(&pid) || end != End::Code(0);
            } else {
                self.reap_again = false;
                break;
            }
        }
        // Those that end now make us look again, until none is left.
        if left_behind {
            let children = process::children(std::process::id() as i32).unwrap_or_default();
            for orphan in children.into_iter().map(Pid::from_raw).filter(|child| !self.shims.contains(child)) {
                // It is our own child and not reaped, so this pid can be no one else.
                let _ = kill(orphan, Signal::SIGKILL);
            }
        }
    }
}
