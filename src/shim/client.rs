//! A replica's side of the spawner: keeps one alive and asks it to start runs.
//!
//! Owns the spawner process and the socket to it. A spawner that dies is replaced at once; the runs that it started do
//! not notice. Never waits for a run's process.

use std::{
    fs::OpenOptions,
    io,
    os::fd::AsRawFd,
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    path::{Path, PathBuf, absolute},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use tokio::{
    io::Interest,
    process::{Child, Command},
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub use super::{
    handle::{Begun, Ended, NotStarted, RunHandle, WaitingShim, attach},
    lease::{LeaseFile, boottime, lease_path, list_leases, remove_lease, remove_leases},
    survey::{Survey, best_containment},
    sweep::{Swept, sweep},
};
use super::{
    protocol::{RunDir, SpareDir, Word},
    spare::Birthplace,
};

/// How long a launch waits for a spawner that is being replaced.
const REPLACEMENT_WAIT: Duration = Duration::from_secs(5);
/// How long a spawner that was told to go may take.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(5);
/// Between two failed attempts to start a spawner.
const RETRY_WAIT: Duration = Duration::from_millis(200);
/// A spawner has this long to begin, beside its wait for the lock of the one before.
const START_WAIT: Duration = Duration::from_secs(10);

/// The request did not reach a spawner, so nothing was started, for certain, and nothing will be.
#[derive(Debug, thiserror::Error)]
#[error("ask the spawner: {0}")]
pub struct LaunchError(#[from] io::Error);

/// The socket to one living spawner. It keeps the bounds of messages, which its type does not know.
#[derive(Debug)]
struct Link {
    socket: tokio::net::UnixStream,
    pid: Option<u32>,
}

type Channel = Arc<Link>;

/// Handle of the spawner that is kept alive; clones are the same one. It goes with its last handle.
#[derive(Debug, Clone)]
pub struct Spawner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state_dir: PathBuf,
    channel: watch::Receiver<Option<Channel>>,
    stop: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The binary of this process, also after it was replaced on disk.
#[must_use]
pub fn own_exe() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

impl Spawner {
    /// Starts a spawner from `exe` (see [`own_exe`]) and keeps one alive from then on. It first waits at most
    /// `lock_wait` for the spawner of an earlier boot of this state directory to let go of `spawner.lock`.
    pub async fn start(exe: PathBuf, state_dir: PathBuf, lock_wait: Duration) -> io::Result<Self> {
        // The spawner's own directory is the root.
        let start = Start { exe: absolute(exe)?, state_dir: absolute(&state_dir)?, lock_wait };
        let (child, first) = start.spawn().await?;
        let (publish, channel) = watch::channel(Some(first));
        let stop = CancellationToken::new();
        tokio::spawn(keep(start, child, publish, stop.clone()));
        Ok(Self(Arc::new(Inner { state_dir, channel, stop })))
    }

    /// Asks for the start of a run whose directory was made. What becomes of it tells the handle.
    pub async fn launch(&self, dir: &RunDir) -> Result<RunHandle, LaunchError> {
        if dir.state_dir() != self.0.state_dir {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the run is of another state directory").into());
        }
        let (shim, channel) = WaitingShim::pair()?;
        // Said before anybody listens there: whatever becomes of the shim, its answer is read.
        let handle = shim.tell(&Word::to_read(dir.run_id())?)?.handle()?;
        self.ask(Birthplace::Run(dir.run_id()), channel).await?;
        Ok(handle)
    }

    /// Asks for a shim ahead of any run, in a directory that waits for one.
    pub async fn fork_ahead(&self, dir: &SpareDir) -> Result<WaitingShim, LaunchError> {
        let (shim, channel) = WaitingShim::pair()?;
        self.ask(dir.birthplace(), channel).await?;
        Ok(shim)
    }

    /// Asks for a shim that gets ready there, and waits for the word to begin on this channel.
    async fn ask(&self, birthplace: Birthplace, theirs: UnixStream) -> Result<(), LaunchError> {
        let request = birthplace.request();
        let mut channels = self.0.channel.clone();
        let deadline = Instant::now() + REPLACEMENT_WAIT;
        loop {
            let channel = channels.borrow_and_update().clone();
            if let Some(channel) = channel {
                match send(&channel, request.as_bytes(), &theirs).await {
                    Ok(()) => return Ok(()),
                    // The spawner is gone; the next one is on its way.
                    Err(error) if is_disconnected(&error) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let changed = tokio::time::timeout_at(deadline, channels.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "there is no spawner").into());
            }
        }
    }

    /// The pid of the spawner process, for people and tests; `None` while it is being replaced.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.0.channel.borrow().as_ref()?.pid.map(u32::cast_signed)
    }

    /// Lets the spawner go. The shims and their runs stay; runs that it has not begun never begin.
    pub async fn shutdown(self) {
        self.0.stop.cancel();
        // The keeper ends with its sender, after the process has.
        let mut channel = self.0.channel.clone();
        let ended = async { while channel.changed().await.is_ok() {} };
        let _it_goes_when_it_can = timeout(SHUTDOWN_WAIT, ended).await;
    }
}

struct Start {
    exe: PathBuf,
    state_dir: PathBuf,
    lock_wait: Duration,
}

impl Start {
    /// One spawner that is ready to serve, and the socket to it.
    async fn spawn(&self) -> io::Result<(Child, Channel)> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        )?;
        let mut command = Command::new(&self.exe);
        command
            .arg0("orch")
            .arg("__shim")
            .arg("spawner")
            .arg(&self.state_dir)
            .arg(self.lock_wait.as_millis().to_string())
            // The environment may hold passwords, and what it holds would stay readable in every shim.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(complaints(&self.state_dir));
        #[cfg(feature = "failpoints")]
        command.envs(crate::failpoint::handed_down());
        let child = command.spawn()?;
        let channel = Arc::new(Link { socket: tokio::net::UnixStream::from_std(ours.into())?, pid: child.id() });
        match timeout(START_WAIT + self.lock_wait, ready(&channel)).await {
            Ok(outcome) => outcome.map(|()| (child, channel)),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the spawner did not become ready")),
        }
    }
}

/// Keeps one spawner alive until told to stop.
async fn keep(start: Start, mut child: Child, publish: watch::Sender<Option<Channel>>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                // Its socket ends here, and so does it.
                publish.send_replace(None);
                drop(timeout(SHUTDOWN_WAIT, child.wait()).await);
                return;
            }
            status = child.wait() => {
                publish.send_replace(None);
                tracing::warn!(status = %status.map_or_else(|error| error.to_string(), |status| status.to_string()),
                    "the spawner ended and is replaced; live runs are not affected");
            }
        }
        let mut complained = false;
        child = loop {
            match start.spawn().await {
                Ok((child, channel)) => {
                    publish.send_replace(Some(channel));
                    break child;
                }
                Err(error) if !complained => {
                    tracing::error!(%error, "no spawner can be started; it is tried again until one can");
                    complained = true;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(RETRY_WAIT) => {}
            }
        };
    }
}

/// Where the spawner and its shims write what they cannot say on a socket.
fn complaints(state_dir: &Path) -> Stdio {
    const MAX: u64 = 1024 * 1024;
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(state_dir.join("shim.log"));
    file.and_then(|file| {
        if file.metadata()?.len() > MAX {
            file.set_len(0)?;
        }
        Ok(Stdio::from(file))
    })
    .unwrap_or_else(|_| Stdio::null())
}

/// Waits for the one word of a spawner.
async fn ready(link: &Link) -> io::Result<()> {
    let mut word = [0; 16];
    loop {
        link.socket.readable().await?;
        match link.socket.try_read(&mut word) {
            Ok(length) if &word[..length] == super::spawner::READY => return Ok(()),
            Ok(_) => return Err(io::Error::other("the spawner ended at once; see shim.log in the state directory")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn send(link: &Link, request: &[u8], passed: &UnixStream) -> io::Result<()> {
    let passed = [passed.as_raw_fd()];
    link.socket
        .async_io(Interest::WRITABLE, || {
            let parts = [io::IoSlice::new(request)];
            let rights = [ControlMessage::ScmRights(&passed)];
            sendmsg::<()>(link.socket.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
            Ok(())
        })
        .await
}

fn is_disconnected(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected)
}
