//! Those who speak with a shim: the replica that asked for the run, and whoever came through the socket since.
//!
//! Owns the connections. Nobody who reads slowly, sends nonsense or goes away can hold the shim up: writes that do not fit
//! wait here, within a bound, and a peer that breaks the rules is dropped.

use std::{
    io::{self, Read, Write},
    mem,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
};

use nix::{
    poll::{PollFd, PollFlags},
    sys::{
        socket::{getsockopt, sockopt::PeerCredentials},
        stat::{Mode, umask},
    },
    unistd::Uid,
};

use super::{
    protocol::{Report, Request},
    rundir::SOCKET,
    wire::{self, Inbox},
};
use crate::model::ReplicaId;

/// Connections at a time; a further one is closed unheard.
pub(super) const PEERS_MAX: usize = 8;

/// All connections, and where new ones come in.
#[derive(Debug)]
pub(super) struct Peers {
    listener: Option<UnixListener>,
    present: Vec<Peer>,
    /// What every newcomer hears first: hello, and that the program runs.
    history: Vec<u8>,
    latest: Latest,
    /// What every newcomer hears last: the end.
    end: Vec<u8>,
    /// What was asked too early.
    put_off: Vec<Request>,
}

/// What changes again and again, and of which only the last matters.
#[derive(Debug, Clone, Copy, Default)]
struct Latest {
    following: Option<ReplicaId>,
    output: u64,
}

#[derive(Debug)]
struct Peer {
    stream: UnixStream,
    inbox: Inbox,
    outbox: Vec<u8>,
    /// It is told the latest of these once everything before has gone out, so that however slowly it reads no more than
    /// one of each waits for it.
    owes_following: bool,
    owes_output: bool,
    is_gone: bool,
}

impl Peers {
    /// The one peer that a shim is born with. It has asked for the shim, so it is not greeted.
    pub(super) fn new(first: UnixStream) -> Self {
        let mut peers = Self {
            listener: None,
            present: Vec::new(),
            history: Vec::new(),
            latest: Latest::default(),
            end: Vec::new(),
            put_off: Vec::new(),
        };
        peers.welcome(first);
        peers
    }

    /// What each newcomer hears first.
    pub(super) fn greet(&mut self, hello: &Report) {
        self.history.extend(wire::frame(hello).unwrap_or_default());
    }

    /// Opens the socket in the run directory. Its path may be longer than an address can be.
    pub(super) fn listen(&mut self, directory: &OwnedFd) -> io::Result<()> {
        let before = umask(Mode::S_IRWXG | Mode::S_IRWXO | Mode::S_IXUSR);
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()));
        umask(before);
        let listener = listener?;
        listener.set_nonblocking(true)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Nobody is there who could still be told something.
    pub(super) fn is_alone(&self) -> bool {
        self.present.is_empty()
    }

    /// Whether everything that was said has gone out.
    pub(super) fn is_silent(&self) -> bool {
        self.present.iter().all(|peer| peer.outbox.is_empty())
    }

    /// Says something to all who are there, and to all who come. It is said once a run: for what changes there are
    /// [`Self::tell_following`] and [`Self::tell_output`].
    pub(super) fn tell(&mut self, report: &Report) {
        let Ok(frame) = wire::frame(report) else { return };
        for peer in &mut self.present {
            peer.pay(self.latest);
            peer.outbox.extend_from_slice(&frame);
            peer.flush(self.latest);
        }
        let heard = if matches!(report, Report::Exit(_)) { &mut self.end } else { &mut self.history };
        heard.extend_from_slice(&frame);
        self.forget_gone();
    }

    /// Says whose lease is followed now.
    pub(super) fn tell_following(&mut self, replica_id: ReplicaId) {
        self.latest.following = Some(replica_id);
        self.tell_latest(|peer| peer.owes_following = true);
    }

    /// Says how many bytes of output have come.
    pub(super) fn tell_output(&mut self, bytes: u64) {
        self.latest.output = bytes;
        self.tell_latest(|peer| peer.owes_output = true);
    }

    fn tell_latest(&mut self, owe: impl Fn(&mut Peer)) {
        for peer in &mut self.present {
            owe(peer);
            peer.flush(self.latest);
        }
        self.forget_gone();
    }

    /// What to poll for. [`Self::attend`] looks at all of them, whichever was ready.
    pub(super) fn watch<'a>(&'a self, mut add: impl FnMut(PollFd<'a>)) {
        self.listener.iter().for_each(|listener| add(PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        for peer in &self.present {
            let writing = if peer.outbox.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            add(PollFd::new(peer.stream.as_fd(), PollFlags::POLLIN | writing));
        }
    }

    /// Lets in who knocks, sends what waits and hands over what was asked. Never waits.
    pub(super) fn attend(&mut self) -> Vec<Request> {
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) {
            let is_friend = getsockopt(&stream, PeerCredentials)
                .is_ok_and(|peer| peer.uid() == Uid::effective().as_raw() || peer.uid() == 0);
            if is_friend && self.present.len() < PEERS_MAX {
                self.welcome(stream);
            }
        }
        let mut requests = mem::take(&mut self.put_off);
        for peer in &mut self.present {
            peer.flush(self.latest);
            peer.read(&mut requests);
        }
        self.forget_gone();
        requests
    }

    /// Hands these over once more, with what comes next.
    pub(super) fn put_off(&mut self, requests: impl Iterator<Item = Request>) {
        self.put_off.extend(requests);
    }

    fn welcome(&mut self, stream: UnixStream) {
        if stream.set_nonblocking(true).is_ok() {
            let (inbox, outbox) = (Inbox::new(wire::REQUEST_MAX), self.history.clone());
            let mut peer = Peer { stream, inbox, outbox, owes_following: true, owes_output: true, is_gone: false };
            peer.pay(self.latest);
            peer.outbox.extend_from_slice(&self.end);
            peer.flush(self.latest);
            self.present.push(peer);
        }
    }

    fn forget_gone(&mut self) {
        self.present.retain(|peer| !peer.is_gone);
    }
}

impl Peer {
    /// Sends what waits, and then what is owed.
    fn flush(&mut self, latest: Latest) {
        self.send();
        if self.outbox.is_empty() && !self.is_gone {
            self.pay(latest);
            self.send();
        }
    }

    /// Adds what is owed to what waits.
    fn pay(&mut self, latest: Latest) {
        let owes_following = mem::take(&mut self.owes_following);
        let following = latest.following.filter(|_| owes_following);
        let output = Some(latest.output).filter(|bytes| mem::take(&mut self.owes_output) && *bytes > 0);
        let reports = [
            following.map(|replica_id| Report::Following { replica_id }),
            output.map(|bytes| Report::Output { bytes }),
        ];
        for frame in reports.iter().flatten().filter_map(|report| wire::frame(report).ok()) {
            self.outbox.extend_from_slice(&frame);
        }
    }

    fn send(&mut self) {
        let mut sent = 0;
        while sent < self.outbox.len() {
            match self.stream.write(&self.outbox[sent..]) {
                Ok(count) if count > 0 => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.is_gone = true;
                    break;
                }
            }
        }
        self.outbox.drain(..sent);
    }

    /// One bounded read: a peer that floods us is heard again at the next turn.
    fn read(&mut self, requests: &mut Vec<Request>) {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.is_gone = true,
            Ok(count) => self.inbox.push(&bytes[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.is_gone = true,
        }
        loop {
            match self.inbox.next() {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => return,
                Err(_) => {
                    self.is_gone = true;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RunId;

    #[test]
    fn a_peer_that_does_not_read_costs_no_memory_and_hears_the_latest_when_it_does() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut peers = Peers::new(ours);
        for bytes in 1..=100_000 {
            peers.tell_output(bytes);
            peers.tell_following(ReplicaId::new());
        }
        let next = ReplicaId::new();
        peers.tell_following(next);
        assert!(!peers.is_silent() && peers.present[0].outbox.capacity() < 1024);
        let exit = Report::Exit(Box::new(super::super::protocol::Exit::new(RunId::new())));
        peers.tell(&exit);
        theirs.set_nonblocking(true).unwrap();
        let (mut heard, mut inbox, mut bytes) = (Vec::<Report>::new(), Inbox::new(wire::REPORT_MAX), [0; 8192]);
        while heard.last() != Some(&exit) {
            peers.attend();
            if let Ok(count) = theirs.read(&mut bytes) {
                inbox.push(&bytes[..count]);
            }
            heard.extend(std::iter::from_fn(|| inbox.next().unwrap()));
        }
        let last = [Report::Following { replica_id: next }, Report::Output { bytes: 100_000 }, exit];
        assert_eq!(heard[heard.len() - 3..], last);
    }
}
