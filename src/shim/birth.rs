//! The shim's end of the birth socket: how it hears whether its child became the program.
//!
//! Owns the meaning of what comes there. The child's end closes with the exec, so its end without a word is success; a
//! word says what failed. From inside a namespace the child says hello first, and the kernel tells us its pid with it. A child
//! that was forked ahead is told here what to become.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials,
        recvmsg, send, sendmsg, setsockopt, socketpair, sockopt::PassCred,
    },
    unistd::Pid,
};

use super::{
    protocol::SpawnError,
    start::{GO, HELLO},
    sys,
};

/// The shim's end.
#[derive(Debug)]
pub(super) struct Birth(OwnedFd);

/// What is heard there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The child is there, and has this pid where we are.
    Hello(Pid),
    /// It will not become the program.
    Failed(SpawnError),
    /// It became the program, or ended before it could say why not.
    Runs,
}

impl Birth {
    /// The shim's end and the child's.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        setsockopt(&ours, PassCred, &true)?;
        Ok((Self(ours), theirs))
    }

    /// Lets the child go on.
    pub(super) fn go(&self) {
        let _child_is_gone = send(self.0.as_raw_fd(), GO, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT);
    }

    /// Tells a child that was forked ahead which program to become, with what it reads and the lease under which it starts.
    pub(super) fn tell_program(&self, text: &[u8], stdin: BorrowedFd<'_>, lease: BorrowedFd<'_>) -> nix::Result<()> {
        let passed = [stdin.as_raw_fd(), lease.as_raw_fd()];
        let (parts, rights) = ([io::IoSlice::new(text)], [ControlMessage::ScmRights(&passed)]);
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<()>(self.0.as_raw_fd(), &parts, &rights, flags, None).map(drop)
    }

    /// Gives a child that was forked ahead something to rehearse with.
    pub(super) fn rehearse(&self, message: &[u8]) {
        let _child_is_gone = send(self.0.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT);
    }

    /// The next piece of news, if there is one. Does not wait.
    pub(super) fn hear(&self) -> Option<News> {
        let mut text = [0; 4096];
        let mut credentials = nix::cmsg_space!(UnixCredentials);
        let mut parts = [io::IoSliceMut::new(&mut text)];
        let message =
            recvmsg::<UnixAddr>(self.0.as_raw_fd(), &mut parts, Some(&mut credentials), MsgFlags::MSG_DONTWAIT);
        let (length, pid) = match message {
            Err(Errno::EAGAIN | Errno::EINTR) => return None,
            Err(_) => return Some(News::Runs),
            Ok(message) => {
                let pid = message.cmsgs().ok().and_then(|mut messages| {
                    messages.find_map(|message| match message {
                        ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
                        _ => None,
                    })
                });
                (message.bytes, pid)
            }
        };
        match &text[..length] {
            [] => Some(News::Runs),
            HELLO => pid.map(|pid| News::Hello(Pid::from_raw(pid))),
            said => Some(News::Failed(serde_json::from_slice(said).unwrap_or_else(|_| SpawnError {
                temporary: true,
                message: String::from_utf8_lossy(said).into_owned(),
            }))),
        }
    }
}

/// What [`Birth::tell_program`] tells, in the child: the length of the message, and the two descriptors, without which it is a
/// rehearsal. None: it is to become nothing.
pub(super) fn hear_program(birth: &OwnedFd, message: &mut [u8]) -> Option<(usize, Option<[OwnedFd; 2]>)> {
    let mut rights = nix::cmsg_space!([RawFd; 2]);
    let mut parts = [io::IoSliceMut::new(message)];
    let heard = loop {
        match recvmsg::<UnixAddr>(birth.as_raw_fd(), &mut parts, Some(&mut rights), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            heard => break heard.ok()?,
        }
    };
    let fds = heard.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => <[RawFd; 2]>::try_from(fds).ok(),
        _ => None,
    });
    (heard.bytes > 0).then(|| (heard.bytes, fds.map(|fds| fds.map(sys::adopt))))
}

impl AsFd for Birth {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
