//! The shim: takes hold of a run, has it tended, and lets its end stand.
//!
//! Owns the run's lock, from before it looks whether the run may start until after `exit.json` stands. Starts nothing
//! where `void` stands, where the directory is gone, where a shim has been before, or where the lease of the replica that
//! claimed is not there, of another boot, or nearly at its end. It never makes the directory.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::MetadataExt, fs::OpenOptionsExt, net::UnixStream},
    },
    path::Path,
    thread::sleep,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        stat::{Mode, fstatat},
    },
    unistd::{UnlinkatFlags, setsid, unlinkat},
};

use super::{
    clock::{self, Alarm},
    ending::ExitFile,
    lease::Lease,
    note::Note,
    peers::Peers,
    protocol::{Exit, Report, Request, RunDir, SpawnError, Spec, Stdin},
    rundir::{EXIT_TEMPORARY, LOCK, PAYLOAD, SPEC, VOID},
    spare::Birthplace,
    spawner::Inheritance,
    start::{Program, failure, look_at_lease},
    tend,
    unborn::Unborn,
};
use crate::{
    failpoint::{self, Point},
    model::RunId,
};

/// How long a shim waits for a lock that somebody holds in order to give the run up.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(2);
/// How long a replica may take to say that the end is stored, before the shim makes `exit.json` durable.
const STORED_WAIT: Duration = Duration::from_secs(1);

/// A run that this shim, and nobody else, may start.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) dir: RunDir,
    pub(super) directory: OwnedFd,
    pub(super) lock: File,
    pub(super) spec: Spec,
}

impl Held {
    /// What the program reads.
    pub(super) fn input(&self) -> io::Result<OwnedFd> {
        match self.spec.stdin {
            Stdin::Payload => Ok(openat(&self.directory, PAYLOAD, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?),
            Stdin::Null => Ok(OwnedFd::from(OpenOptions::new().read(true).open("/dev/null")?)),
        }
    }
}

/// What is done ahead of a run by a shim that has the time.
#[derive(Debug)]
struct Ahead {
    /// The program's process, where it could be forked.
    unborn: Option<Unborn>,
    directory: OwnedFd,
    lock: File,
    end: ExitFile,
}

/// The life of a shim, in a fresh child of the spawner with nothing open but its channel: it gets ready, waits for the word
/// to begin, and holds its run from then on.
pub(super) fn run(inheritance: &Inheritance, birthplace: Birthplace, channel: UnixStream) -> i32 {
    let _ = setsid();
    let _ = prctl::set_name(c"orch-shim");
    let mut peers = Peers::new(channel);
    // What loses its parent becomes ours: not handed down by the spawner, which is one too.
    let subreaper = prctl::set_child_subreaper(true).map_err(|error| failure("become a subreaper", error));
    let signals = subreaper.and_then(|()| listen_to_signals());
    let alarm = Alarm::new().map_err(|error| failure("make a timer", error));
    let ahead = match birthplace {
        Birthplace::Run(_) => None,
        Birthplace::Spare(_) => Ahead::prepare(inheritance, birthplace),
    };
    let run_id = birthplace.run_id();
    let word = wait_for_the_word(&mut peers, signals.as_ref().ok()).filter(|word| word.0 == run_id);
    let Some((_, told)) = word else {
        drop(ahead);
        if let Ok(home) = &inheritance.home {
            home.leave();
        }
        return 0;
    };
    peers.greet(&Report::Hello { version: env!("CARGO_PKG_VERSION").to_owned(), run_id });
    let nothing = |error| Exit { never_started: Some(error), ..Exit::new(run_id) };
    let dir = RunDir::new(&inheritance.state_dir, run_id);
    let (unborn, opened, reserved) =
        ahead.map_or((None, None, None), |ahead| (ahead.unborn, Some((ahead.directory, ahead.lock)), Some(ahead.end)));
    let taken = signals.and_then(|signals| Ok((take(dir, opened, told)?, signals)));
    let (held, signals) = match taken {
        Ok((Some(held), signals)) => (held, signals),
        Ok((None, _)) => {
            say_and_go(&mut peers, Exit { voided: true, ..Exit::new(run_id) });
            return 0;
        }
        Err(error) => {
            say_and_go(&mut peers, nothing(error));
            return 0;
        }
    };
    match reserved.map_or_else(|| ExitFile::reserve(&held.directory), Ok) {
        Ok(mut file) => {
            let exit = open_lease(&held, inheritance)
                .and_then(|lease| tend::tend(&held, lease, inheritance, &mut peers, &signals, alarm?, unborn))
                .unwrap_or_else(nothing);
            failpoint::hit(Point::ChildEnded);
            let published = file.publish(&held.directory, &exit);
            failpoint::hit(Point::ExitRenamed);
            peers.tell(&Report::Exit(Box::new(exit)));
            if !wait_until_stored(&mut peers) && published.is_ok() {
                drop(file.make_durable(&held.directory));
            }
        }
        Err(error) => {
            let _ = unlinkat(&held.directory, EXIT_TEMPORARY, UnlinkatFlags::NoRemoveDir);
            say_and_go(&mut peers, nothing(failure("reserve space for the end of the run", error)));
        }
    }
    0
}

impl Ahead {
    /// None, if only because it already became a run's directory: then all is done when the word comes.
    fn prepare(inheritance: &Inheritance, birthplace: Birthplace) -> Option<Self> {
        let unborn = Unborn::fork(inheritance, birthplace.run_id());
        let directory = open_directory(&birthplace.path(&inheritance.state_dir)).ok()?;
        let lock = open_lock(&directory).ok()?;
        // As after the word, when it counts.
        if let (Some(unborn), Some(message)) = (&unborn, Program::rehearse(&inheritance.state_dir)) {
            unborn.birth.rehearse(&message);
        }
        let _ = (may_start(&directory, &lock), read_spec(&directory));
        let end = ExitFile::reserve(&directory).ok()?;
        Some(Self { unborn, directory, lock, end })
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path).map(OwnedFd::from)
}

/// Waits until the replica says which run to start, and perhaps what that is. `None`: it never will, or somebody wants this
/// process to end.
fn wait_for_the_word(peers: &mut Peers, signals: Option<&SignalFd>) -> Option<(RunId, Option<Box<Spec>>)> {
    while !peers.is_alone() {
        let mut watched: Vec<_> =
            signals.iter().map(|signals| PollFd::new(signals.as_fd(), PollFlags::POLLIN)).collect();
        peers.watch(|fd| watched.push(fd));
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
        drop(watched);
        let mut requests = peers.attend().into_iter();
        if let Some(Request::Begin { run_id, spec }) = requests.next() {
            peers.put_off(requests);
            return Some((run_id, spec));
        }
        // The only child that it can have by now is the one that waits to become the program, without which it is of no use:
        // each of them means that it is to end.
        if signals.is_some_and(|signals| !matches!(signals.read_signal(), Ok(None))) {
            return None;
        }
    }
    None
}

fn open_lock(directory: &OwnedFd) -> nix::Result<File> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    openat(directory, LOCK, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
}

/// What stands in `spec.json`.
fn read_spec(directory: &OwnedFd) -> io::Result<Spec> {
    let mut text = Vec::new();
    let file = openat(directory, SPEC, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    File::from(file).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Takes the lock and looks whether the run may start. `None`: it may not, ever. `told` is what its `spec.json` would say.
fn take(dir: RunDir, opened: Option<(OwnedFd, File)>, told: Option<Box<Spec>>) -> Result<Option<Held>, SpawnError> {
    let (directory, lock) = if let Some(opened) = opened {
        opened
    } else {
        let directory = match open_directory(dir.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            directory => directory.map_err(|error| failure("open the run's directory", error))?,
        };
        let lock = match open_lock(&directory) {
            // The directory was removed meanwhile.
            Err(Errno::ENOENT) => return Ok(None),
            lock => lock.map_err(|error| failure("open the run's lock", error))?,
        };
        (directory, lock)
    };
    lock_within(&lock, LOCK_WAIT)?;
    if !may_start(&directory, &lock).map_err(|error| failure("look whether the run may start", error))? {
        return Ok(None);
    }
    let spec = match told {
        // Whoever forbids the start may have had no room for `void`: then he took this away.
        Some(spec) => fstatat(&directory, SPEC, AtFlags::AT_SYMLINK_NOFOLLOW).map(|_| *spec).map_err(io::Error::from),
        None => read_spec(&directory),
    };
    match spec {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        spec => {
            let spec = spec.map_err(|error| failure("read the run's spec", error))?;
            Ok(Some(Held { dir, directory, lock, spec }))
        }
    }
}

/// The lease under which the run may start: of the replica that claimed it, in this boot of the machine, and long enough.
fn open_lease(held: &Held, inheritance: &Inheritance) -> Result<Lease, SpawnError> {
    let spec = &held.spec;
    let lease = Lease::open(&inheritance.state_dir, spec.replica_id, &inheritance.boot_id).map_err(|error| {
        let message = match error.kind() {
            io::ErrorKind::NotFound => "its replica has no lease here (any more)".to_owned(),
            io::ErrorKind::InvalidData => "the lease of its replica is of another boot of the machine".to_owned(),
            _ => format!("read the lease of its replica: {error}"),
        };
        SpawnError { temporary: true, message }
    })?;
    look_at_lease(lease.deadline(), Duration::from_millis(spec.kill_grace_ms))?;
    Ok(lease)
}

/// Whoever holds it is about to give the run up, or is another shim: it is not waited for without end.
fn lock_within(lock: &File, wait: Duration) -> Result<(), SpawnError> {
    let deadline = clock::now() + wait;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if clock::now() < deadline => sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => {
                return Err(SpawnError { temporary: true, message: "somebody else holds the run's lock".to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(failure("take the run's lock", error)),
        }
    }
}

/// Under the lock: no `void`, no trace of another shim, and the lock is still the directory's.
fn may_start(directory: &OwnedFd, lock: &File) -> io::Result<bool> {
    let stands = match fstatat(directory, LOCK, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(false),
        stands => stands?,
    };
    let ours = lock.metadata()?;
    if (stands.st_dev, stands.st_ino) != (ours.dev(), ours.ino()) {
        return Ok(false);
    }
    match Note::read(lock) {
        Ok(None) => {}
        Ok(Some(_)) => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(false),
        Err(error) => return Err(error),
    }
    match fstatat(directory, VOID, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(true),
        outcome => outcome.map(|_| false).map_err(io::Error::from),
    }
}

/// Signals become something to poll for. TERM, INT and HUP mean that the machine or its operator wants the run to end.
fn listen_to_signals() -> Result<SignalFd, SpawnError> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC))
        .map_err(|error| failure("listen to signals", error))
}

/// For a run that was never this shim's: nothing is written.
fn say_and_go(peers: &mut Peers, exit: Exit) {
    peers.tell(&Report::Exit(Box::new(exit)));
    let deadline = clock::now() + STORED_WAIT;
    while !peers.is_silent() && converse(peers, deadline).is_some() {}
}

/// Whether somebody said in time that the end is stored. Nobody there, nobody to wait for.
fn wait_until_stored(peers: &mut Peers) -> bool {
    let deadline = clock::now() + STORED_WAIT;
    while !peers.is_alone() {
        match converse(peers, deadline) {
            Some(requests) if requests.contains(&Request::Stored) => return true,
            Some(_) => {}
            None => return false,
        }
    }
    false
}

/// One turn of talk; `None` once it is too late.
fn converse(peers: &mut Peers, deadline: Duration) -> Option<Vec<Request>> {
    let left = deadline.checked_sub(clock::now()).filter(|left| !left.is_zero())?;
    let mut watched = Vec::new();
    peers.watch(|fd| watched.push(fd));
    let patience = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
    match poll(&mut watched, patience) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(_) => return None,
    }
    drop(watched);
    Some(peers.attend())
}
