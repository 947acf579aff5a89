//! Containment `pidns`: a pid namespace for each run, and the small init that is its first process.
//!
//! Owns the init: it starts the job as its child, reaps, passes TERM on, says how the job ended, and goes when it has no
//! child left. When it goes, for whatever reason, the kernel ends the rest of the namespace, and it is not reaped before
//! they are gone. The job itself is never the first process: as such it would not feel TERM.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair},
        wait::waitpid,
    },
    unistd::{Gid, Pid, Uid},
};

use super::{
    process,
    start::{GO, Program, Streams, failure},
    sys::{self, End},
};

const TERMINATE: &[u8] = b"t";
/// Children reaped before the shim is listened to again.
const REAP_BOUND: usize = 1024;

/// What the namespace is made of: an ordinary user needs a user namespace for it.
pub(super) fn namespaces() -> i32 {
    let kinds = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
    if Uid::effective().is_root() { kinds } else { kinds | libc::CLONE_NEWUSER }
}

/// The shim's hold on a namespace.
#[derive(Debug)]
pub(super) struct Init {
    pub(super) pid: Pid,
    pub(super) started: i64,
    pub(super) control: OwnedFd,
    /// Then its pid means nobody any more.
    pub(super) is_reaped: bool,
}

impl Init {
    /// Makes the namespace. Nothing of the job exists before [`Self::go`].
    pub(super) fn start(program: &Program, streams: &Streams) -> io::Result<Self> {
        let (control, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let pid = sys::clone(namespaces(), None, || {
            let _ = prctl::set_pdeathsig(Signal::SIGKILL);
            let _ = prctl::set_name(c"orch-init");
            // Not the shim's lock, above all.
            let Streams { stdin, output, birth, lease } = streams;
            let kept = [&theirs, stdin, output, birth, lease].map(OwnedFd::as_fd);
            let Ok([control, stdin, output, birth, lease]) = sys::keep_only(kept) else { return 1 };
            init(&control, program, Streams { stdin, output, birth, lease })
        })?;
        let started = map_user(pid).and_then(|()| process::stat(pid.as_raw())).map(|stat| stat.started);
        match started {
            Ok(started) => Ok(Self { pid, started, control, is_reaped: false }),
            Err(error) => {
                let _ = kill(pid, Signal::SIGKILL);
                let _ = waitpid(pid, None);
                Err(error)
            }
        }
    }

    /// Lets the job begin.
    pub(super) fn go(&self) -> io::Result<()> {
        send(self.control.as_raw_fd(), GO, MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// TERM to every process of the namespace.
    pub(super) fn terminate(&self) {
        let _it_is_gone = send(self.control.as_raw_fd(), TERMINATE, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT);
    }

    /// How the main process ended, once the init has said so. Does not wait.
    pub(super) fn hear(&self) -> Option<End> {
        let mut message = [0; 5];
        match recv(self.control.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
            Ok(5) => {
                let [kind, number @ ..] = message;
                let number = i32::from_le_bytes(number);
                Some(if kind == b's' { End::Signal(number) } else { End::Code(number) })
            }
            _ => None,
        }
    }
}

/// Makes an ordinary user the same user in the new user namespace.
fn map_user(pid: Pid) -> io::Result<()> {
    if namespaces() & libc::CLONE_NEWUSER == 0 {
        return Ok(());
    }
    let (uid, gid) = (Uid::effective(), Gid::effective());
    fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    fs::write(format!("/proc/{pid}/gid_map"), format!("{gid} {gid} 1"))?;
    fs::write(format!("/proc/{pid}/uid_map"), format!("{uid} {uid} 1"))
}

/// The first process of the namespace.
fn init(control: &OwnedFd, program: &Program, streams: Streams) -> i32 {
    let mut word = [0; 8];
    // No word: the shim died before it began.
    if !matches!(recv(control.as_raw_fd(), &mut word, MsgFlags::empty()), Ok(length) if &word[..length] == GO) {
        return 1;
    }
    // So that what the job reads there about its processes is about its processes. Where it is refused (a container that
    // masks parts of it) the job sees the host's.
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let _stays_as_it_is = mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .and_then(|()| mount(Some("proc"), "/proc", Some("proc"), quiet, None::<&str>));
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    let Ok(signals) = SignalFd::with_flags(&children, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC) else {
        return 1;
    };
    let main = match sys::fork(|| program.become_it(&streams, None, true)) {
        Ok(main) => main,
        Err(error) => return streams.fail(&failure("fork the program", error)),
    };
    drop(streams);
    let mut reap_again = false;
    loop {
        let mut watched =
            [PollFd::new(control.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let patience = if reap_again { PollTimeout::ZERO } else { PollTimeout::NONE };
        if !matches!(poll(&mut watched, patience), Ok(_) | Err(Errno::EINTR)) {
            return 1;
        }
        let asked = watched[0].any().unwrap_or(false);
        while let Ok(Some(_)) = signals.read_signal() {}
        reap_again = reap(control, main);
        if asked {
            match recv(control.as_raw_fd(), &mut word, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return 0,
                // Everything in the namespace but ourselves.
                Ok(_) => {
                    let _ = kill(Pid::from_raw(-1), Signal::SIGTERM);
                }
                Err(_) => {}
            }
        }
    }
}

/// Reaps what has died; with the last child goes the init. Says whether there may be more to reap.
fn reap(control: &OwnedFd, main: Pid) -> bool {
    for _ in 0..REAP_BOUND {
        match sys::reap() {
            Ok(Some((pid, end))) if pid == main => {
                let (kind, number) = match end {
                    End::Code(code) => (b'c', code),
                    End::Signal(signal) => (b's', signal),
                };
                let mut message = [kind, 0, 0, 0, 0];
                message[1..].copy_from_slice(&number.to_le_bytes());
                let _shim_is_gone = send(control.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL);
            }
            Ok(Some(_)) => {}
            Err(Errno::ECHILD) => sys::exit(0),
            Ok(None) | Err(_) => return false,
        }
    }
    true
}
