//! What a service manager is told (systemd's `Type=notify`): that the replica is ready, that it stops, and, for its
//! watchdog, each renewal of the lease.
//!
//! A replica that does not renew is of no use, whatever else in it still turns: the watchdog is fed by granted renewals
//! alone, so that it starts such a replica anew. Only one that is paused, which waits for an operator and has no lease, is
//! let alone. Never holds the replica: what cannot be told is logged and left.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

use crate::model::ReplicaId;

/// How long the manager may take to take a message.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the messages follow from.
pub(super) struct Facts {
    /// The replica, once it has registered and claims.
    pub(super) replica: watch::Receiver<Option<ReplicaId>>,
    /// Why it does nothing, while it must not.
    pub(super) paused: watch::Receiver<Option<String>>,
    /// Each renewal that the database granted.
    pub(super) renewed: watch::Receiver<()>,
    /// Cancelled once it was told to stop.
    pub(super) stopping: CancellationToken,
}

/// The manager that started this process.
pub(super) struct Manager {
    socket: SocketAddr,
    /// How long it waits for a sign of life.
    watchdog: Option<Duration>,
    is_deaf: bool,
}

impl Manager {
    /// The manager that the environment names, if one does. One whose watchdog has less patience than a lease is warned
    /// of: it would not wait for a database that comes back in time.
    ///
    /// # Errors
    /// Where `NOTIFY_SOCKET` is no address or `WATCHDOG_USEC` no number.
    pub(super) fn of_this_process(lease: Duration) -> anyhow::Result<Option<Self>> {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(None) };
        let socket = address(&name)
            .with_context(|| format!("NOTIFY_SOCKET is {}, which is no socket's name: unset it", name.display()))?;
        let watchdog = watchdog(env::var_os("WATCHDOG_USEC"), env::var_os("WATCHDOG_PID"), process::id())?;
        if let Some(patience) = watchdog.filter(|patience| *patience < lease) {
            tracing::warn!(
                watchdog_s = patience.as_secs(),
                lease_s = lease.as_secs(),
                "the service manager's watchdog has less patience than a lease lasts: make WatchdogSec longer"
            );
        }
        Ok(Some(Self { socket, watchdog, is_deaf: false }))
    }

    /// Tells the manager each fact when it becomes one. Does not end by itself.
    pub(super) async fn tell(mut self, mut facts: Facts) {
        let mut is_ready = false;
        let mut said_stopping = false;
        // Half of its patience, and no busy loop whatever it says.
        let pace = self.watchdog.map_or(Duration::from_mins(1), |patience| patience / 2);
        let mut pause = time::interval(pace.max(Duration::from_millis(10)));
        loop {
            let status = match (&*facts.paused.borrow_and_update(), *facts.replica.borrow_and_update()) {
                (Some(why), _) => Some(format!("paused: {why}")),
                (None, Some(replica)) => Some(format!("replica {replica}")),
                (None, None) => None,
            };
            if let Some(status) = status.filter(|_| !said_stopping) {
                // Whoever is paused has started as far as anything but an operator can help.
                let ready = if is_ready { "" } else { "READY=1\n" };
                self.send(&format!("{ready}STATUS={}", status.replace('\n', " "))).await;
                is_ready = true;
            }
            loop {
                tokio::select! {
                    () = facts.stopping.cancelled(), if !said_stopping => {
                        said_stopping = true;
                        self.send("STOPPING=1\nSTATUS=stopping: nothing more is claimed").await;
                    }
                    Ok(()) = facts.renewed.changed() => self.feed().await,
                    _ = pause.tick() => if facts.paused.borrow().is_some() {
                        self.feed().await;
                    },
                    Ok(()) = facts.replica.changed() => break,
                    Ok(()) = facts.paused.changed() => break,
                }
            }
        }
    }

    async fn feed(&mut self) {
        if self.watchdog.is_some() {
            self.send("WATCHDOG=1").await;
        }
    }

    async fn send(&mut self, message: &str) {
        let sent = time::timeout(PATIENCE, self.deliver(message)).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
        match sent {
            Ok(()) => self.is_deaf = false,
            Err(error) if !self.is_deaf => {
                self.is_deaf = true;
                tracing::warn!(%error, "the service manager does not take what it should be told");
            }
            Err(_) => {}
        }
    }

    /// Over a socket of its own each time, since the manager may have been started anew.
    async fn deliver(&self, message: &str) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&self.socket)?;
        socket.set_nonblocking(true)?;
        tokio::net::UnixDatagram::from_std(socket)?.send(message.as_bytes()).await.map(drop)
    }
}

/// A path, or after an `@` a name without a file.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name),
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// How long the manager waits for signs of life, if it does and it means this process.
fn watchdog(microseconds: Option<OsString>, pid: Option<OsString>, own: u32) -> anyhow::Result<Option<Duration>> {
    let number = |name: &str, text: OsString| {
        let number = text.to_str().and_then(|text| text.parse::<u64>().ok());
        number.ok_or_else(|| anyhow!("{name} is {}, which is no number: unset it", text.display()))
    };
    let Some(microseconds) = microseconds else { return Ok(None) };
    let patience = Duration::from_micros(number("WATCHDOG_USEC", microseconds)?);
    let is_meant = pid.map(|pid| number("WATCHDOG_PID", pid)).transpose()?.is_none_or(|pid| pid == u64::from(own));
    Ok((is_meant && !patience.is_zero()).then_some(patience))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_is_found_by_path_or_by_name() {
        assert_eq!(address(OsStr::new("/run/n")).unwrap().as_pathname(), Some("/run/n".as_ref()));
        assert_eq!(address(OsStr::new("@n")).unwrap().as_abstract_name(), Some(&b"n"[..]));
        assert!(address(OsStr::new("run/n")).is_err());
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_fed() {
        let found = |microseconds: &str, pid: Option<&str>| watchdog(Some(microseconds.into()), pid.map(Into::into), 7);
        assert_eq!(watchdog(None, None, 7).unwrap(), None);
        assert_eq!(found("3000000", None).unwrap(), Some(Duration::from_secs(3)));
        assert_eq!(found("3000000", Some("7")).unwrap(), Some(Duration::from_secs(3)));
        assert_eq!(found("3000000", Some("8")).unwrap(), None);
        assert_eq!(found("0", None).unwrap(), None);
        assert!(found("soon", None).is_err() && found("1", Some("me")).is_err());
    }
}
