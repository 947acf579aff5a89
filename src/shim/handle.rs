//! A replica's hold on one live run: hears that it started and how it ended, and may end it.
//!
//! Owns one end of a socket whose other end the shim holds. Every wait may be dropped and begun again without a loss.
//! Never waits for a process and never signals one: that is the shim's part.

use std::{
    fs::OpenOptions,
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    time::Duration,
};

use tokio::{
    net::UnixStream,
    sync::watch,
    time::{error::Elapsed, timeout},
};

use super::{
    protocol::{Exit, Reason, Report, Request, RunDir, SpawnError, Started, Word},
    rundir::SOCKET,
    wire::{self, Inbox},
};
use crate::model::{ReplicaId, RunId};

/// How long a living shim may take to say who it is.
const HELLO_WAIT: Duration = Duration::from_secs(5);

/// Why there is nothing that runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotStarted {
    /// It could not be started, for certain; [`RunHandle::ended`] has the whole exit.
    #[error("{0}")]
    Failed(#[from] SpawnError),
    /// It was given up before, so nothing was started, for certain.
    #[error("the run was given up before it started")]
    Voided,
    /// The spawner or the shim went away and said nothing: take the lock, write `void`, and only then it is certain.
    #[error("the shim went away before it said whether the program runs")]
    Unknown,
}

/// How a run ended, as far as its shim told.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// The facts.
    Exit(Box<Exit>),
    /// The shim is gone without a word: once the lock is free, sweep; `exit.json` may stand all the same.
    ShimGone,
}

/// A shim that gets ready, or is, and starts nothing before it is told to. It goes when this is dropped.
#[derive(Debug)]
pub struct WaitingShim(std::os::unix::net::UnixStream);

/// A shim that was told which run to start.
#[derive(Debug)]
pub struct Begun {
    run_id: RunId,
    stream: std::os::unix::net::UnixStream,
}

impl WaitingShim {
    /// One that is still to be asked for, and its channel.
    pub(super) fn pair() -> io::Result<(Self, std::os::unix::net::UnixStream)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Self(ours), theirs))
    }

    /// Whether it is still there: it says nothing before it is told something.
    #[must_use]
    pub fn is_there(&self) -> bool {
        matches!((&self.0).read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Has it start the run whose directory it is in. `None`: it is gone, so it starts nothing; for another shim `spec.json` says
    /// what this one would have been told.
    pub fn begin(self, dir: &RunDir, word: &Word) -> io::Result<Option<Begun>> {
        match self.tell(word) {
            Ok(begun) => Ok(Some(begun)),
            Err(_) => word.write_down(dir).map(|()| None),
        }
    }

    /// Says the word. An error: it was not heard.
    pub(super) fn tell(self, word: &Word) -> io::Result<Begun> {
        let Self(mut stream) = self;
        // It is the first thing that is said, so there is room for all of it.
        stream.write_all(word.frame())?;
        Ok(Begun { run_id: word.run_id(), stream })
    }
}

impl Begun {
    /// The hold on the run. Must be called within the runtime.
    pub fn handle(self) -> io::Result<RunHandle> {
        Ok(RunHandle::over(self.run_id, UnixStream::from_std(self.stream)?))
    }
}

/// One live run.
#[derive(Debug)]
pub struct RunHandle {
    run_id: RunId,
    stream: UnixStream,
    inbox: Inbox,
    started: Option<Started>,
    exit: Option<Box<Exit>>,
    following: Option<ReplicaId>,
    output: watch::Sender<u64>,
    unending: watch::Sender<bool>,
}

impl RunHandle {
    fn over(run_id: RunId, stream: UnixStream) -> Self {
        Self {
            run_id,
            stream,
            inbox: Inbox::new(wire::REPORT_MAX),
            started: None,
            exit: None,
            following: None,
            output: watch::Sender::new(0),
            unending: watch::Sender::new(false),
        }
    }

    /// The run.
    #[must_use]
    pub const fn run_id(&self) -> RunId {
        self.run_id
    }

    /// Waits until the program runs, or is known not to. May be dropped and called again.
    pub async fn started(&mut self) -> Result<Started, NotStarted> {
        loop {
            if let Some(started) = &self.started {
                return Ok(started.clone());
            }
            if let Some(exit) = &self.exit {
                return match (&exit.started, &exit.never_started) {
                    (Some(started), _) => Ok(started.clone()),
                    (None, Some(error)) => Err(error.clone().into()),
                    (None, None) => Err(NotStarted::Voided),
                };
            }
            self.hear().await.ok_or(NotStarted::Unknown)?;
        }
    }

    /// Waits until the run has ended: the main process is gone and its tree is empty. May be dropped and called again.
    pub async fn ended(&mut self) -> Ended {
        loop {
            if let Some(exit) = &self.exit {
                return Ended::Exit(exit.clone());
            }
            if self.hear().await.is_none() {
                return Ended::ShimGone;
            }
        }
    }

    /// Asks the shim to end the tree: TERM now, KILL after `grace`. That it has ended says [`Self::ended`]. Repeating
    /// it can only shorten the grace; the first reason stays.
    pub async fn terminate(&self, grace: Duration, reason: Reason) {
        let grace_ms = grace.as_millis().try_into().unwrap_or(u64::MAX);
        self.say(&Request::Terminate { grace_ms, reason }).await;
    }

    /// How many bytes of output have come, as the shim last said. It changes only while somebody waits on this handle,
    /// and ends with it.
    #[must_use]
    pub fn output(&self) -> watch::Receiver<u64> {
        self.output.subscribe()
    }

    /// Whether processes of the run live on after KILL. It changes only while somebody waits on this handle, and ends with it.
    #[must_use]
    pub fn unending(&self) -> watch::Receiver<bool> {
        self.unending.subscribe()
    }

    /// Has the shim follow the lease of `replica_id`, which must stand, and waits until it does. `false`: the shim is
    /// gone, or the run has ended. May be repeated.
    pub async fn follow(&mut self, replica_id: ReplicaId) -> bool {
        self.say(&Request::Follow { replica_id }).await;
        while self.following != Some(replica_id) {
            if self.exit.is_some() || self.hear().await.is_none() {
                return false;
            }
        }
        true
    }

    /// Tells the shim that the end is stored, so that it need not make `exit.json` durable.
    pub async fn stored(self) {
        self.say(&Request::Stored).await;
    }

    /// One more report; `None` once the shim is gone.
    async fn hear(&mut self) -> Option<()> {
        loop {
            match self.inbox.next() {
                Ok(Some(Report::Hello { .. })) => return Some(()),
                Ok(Some(Report::Started(started))) => {
                    self.started = Some(started);
                    return Some(());
                }
                Ok(Some(Report::Exit(exit))) => {
                    self.exit = Some(exit);
                    return Some(());
                }
                Ok(Some(Report::Following { replica_id })) => {
                    self.following = Some(replica_id);
                    return Some(());
                }
                Ok(Some(Report::Output { bytes })) => {
                    self.output.send_replace(bytes);
                    // More may have come with it, and nothing after it.
                    continue;
                }
                Ok(Some(Report::Unending)) => {
                    self.unending.send_replace(true);
                    continue;
                }
                Ok(None) => {}
                Err(_) => return None,
            }
            self.stream.readable().await.ok()?;
            let mut bytes = [0; 4096];
            match self.stream.try_read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.inbox.push(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }

    /// Says it, unless the shim is gone, which its silence will tell.
    async fn say(&self, request: &Request) {
        let Ok(frame) = wire::frame(request) else { return };
        let mut left = frame.as_slice();
        while !left.is_empty() && self.stream.writable().await.is_ok() {
            match self.stream.try_write(left) {
                Ok(count) => left = &left[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// Reaches the live shim of a run that another boot started, or whose channel was lost. `None`: nobody answers there;
/// whether a shim lives all the same (its socket could not be made) says the lock. An error of kind `TimedOut`: somebody holds the socket and does not answer.
pub async fn attach(dir: &RunDir) -> io::Result<Option<RunHandle>> {
    let directory = match OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_PATH).open(dir.path())
    {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        directory => directory?,
    };
    // The address of a socket has 107 bytes; this path is short wherever the state directory is.
    let address = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
    let stream = match UnixStream::connect(address).await {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        stream => stream?,
    };
    let mut handle = RunHandle::over(dir.run_id(), stream);
    match timeout(HELLO_WAIT, handle.hear()).await {
        Ok(Some(())) => Ok(Some(handle)),
        Ok(None) => Ok(None),
        Err(Elapsed { .. }) => Err(io::Error::new(io::ErrorKind::TimedOut, "the shim of this run does not answer")),
    }
}
