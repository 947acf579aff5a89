//! The machine's clock that also runs while it is suspended.
//!
//! Owns the one notion of "now" of spawner and shim: `CLOCK_BOOTTIME`, never compared with the database's clock.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use nix::{
    sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    time::clock_gettime,
};

/// Time since boot, suspended time included.
pub(super) fn now() -> Duration {
    clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// A descriptor that is readable from a moment on; it also fires right after a suspend in which that moment passed.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: TimerFd,
    set_to: Option<Duration>,
}

impl Alarm {
    pub(super) fn new() -> nix::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Self { timer: TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?, set_to: None })
    }

    /// Sets the moment, or none. One that has passed fires at once.
    pub(super) fn set(&mut self, at: Option<Duration>) -> nix::Result<()> {
        if at == self.set_to {
            return Ok(());
        }
        self.set_to = at;
        match at {
            None => self.timer.unset(),
            Some(at) => {
                // Zero would switch it off.
                let at = TimeSpec::from(at.max(Duration::from_nanos(1)));
                self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            }
        }
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
