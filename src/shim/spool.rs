//! The bounded output of a run, as its shim writes it: the head and the tail are kept, the middle is counted.
//!
//! Owns `log/`: files named by the offset of their first byte in the whole output, so that a gap between two is what was
//! dropped, also after a crash. The first half of the bound is the head; the other half are smaller files of which the
//! oldest goes when a new one is needed. A full disk costs output, never the job: what cannot be written counts as dropped.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::{Mode, mkdirat},
    unistd::{UnlinkatFlags, unlinkat},
};

use super::rundir::LOG;

/// After an error (a full disk, as a rule) output is dropped for as long before it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The tail is dropped in pieces of this part of the bound.
const TAIL_PARTS: u64 = 8;

/// The writer.
#[derive(Debug)]
pub(super) struct Spool {
    run: OwnedFd,
    cap: u64,
    directory: Option<OwnedFd>,
    current: Option<Segment>,
    /// Finished files of the tail, oldest first: offset and length.
    tail: VecDeque<(u64, u64)>,
    /// Bytes of the head.
    head: u64,
    /// Bytes that came.
    total: u64,
    broken_until: Option<Instant>,
}

#[derive(Debug)]
struct Segment {
    file: File,
    start: u64,
    length: u64,
    room: u64,
}

/// The name of the file that begins at this offset of the whole output.
pub(super) fn segment_name(offset: u64) -> String {
    format!("{offset:020}")
}

impl Spool {
    /// A spool in the run's directory that keeps at most `cap` bytes. Makes nothing before the first byte.
    pub(super) const fn new(run: OwnedFd, cap: u64) -> Self {
        let tail = VecDeque::new();
        Self { run, cap, directory: None, current: None, tail, head: 0, total: 0, broken_until: None }
    }

    /// Bytes that have come so far, kept or dropped.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// Takes the next bytes of the output.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let end = self.total + bytes.len() as u64;
        if self.broken_until.is_some_and(|until| Instant::now() < until) {
            self.total = end;
            return;
        }
        self.broken_until = None;
        let mut left = bytes;
        while !left.is_empty() {
            let Ok(count) = self.write_some(left) else {
                // The next file begins where output is written again, so the gap tells itself.
                self.close();
                self.broken_until = Some(Instant::now() + RETRY);
                self.total = end;
                return;
            };
            left = &left[count..];
            self.total += count as u64;
        }
    }

    /// Ends the output. Bytes kept, and bytes dropped.
    pub(super) fn finish(&mut self) -> (u64, u64) {
        let written = self.current.as_ref().map_or(0, |segment| segment.start + segment.length);
        if self.directory.is_some() && written < self.total {
            // An empty file where the output ended: without it nobody would see that its last part is missing.
            drop(self.create(self.total));
        }
        self.close();
        let kept = self.head + self.tail.iter().map(|(_, length)| length).sum::<u64>();
        (kept, self.total - kept)
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.current.as_ref().is_none_or(|segment| segment.room == 0) {
            self.next_segment()?;
        }
        let Some(segment) = &mut self.current else { return Err(io::ErrorKind::StorageFull.into()) };
        let most = usize::try_from(segment.room).unwrap_or(usize::MAX).min(bytes.len());
        let count = segment.file.write(&bytes[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        segment.length += count as u64;
        segment.room -= count as u64;
        Ok(count)
    }

    fn next_segment(&mut self) -> io::Result<()> {
        self.close();
        let (part, head_end) = (self.cap / TAIL_PARTS, self.head_end());
        let room = if self.total < head_end { head_end - self.total } else { part };
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.total >= head_end {
            let most = self.cap - head_end - part;
            while self.tail.iter().map(|(_, length)| length).sum::<u64>() > most {
                let Some((start, _)) = self.tail.pop_front() else { break };
                if let Some(directory) = &self.directory {
                    unlinkat(directory, segment_name(start).as_str(), UnlinkatFlags::NoRemoveDir)?;
                }
            }
        }
        let file = self.create(self.total)?;
        self.current = Some(Segment { file, start: self.total, length: 0, room });
        Ok(())
    }

    /// Where the head ends in the whole output. A bound that is too small to be cut is all head.
    const fn head_end(&self) -> u64 {
        if self.cap / TAIL_PARTS == 0 { self.cap } else { self.cap / 2 }
    }

    fn close(&mut self) {
        if let Some(Segment { start, length, .. }) = self.current.take() {
            if start < self.head_end() {
                self.head += length;
            } else {
                self.tail.push_back((start, length));
            }
        }
    }

    fn create(&mut self, offset: u64) -> io::Result<File> {
        let directory = if let Some(directory) = self.directory.take() {
            directory
        } else {
            // It is there where an earlier attempt failed half-way.
            mkdirat(&self.run, LOG, Mode::S_IRWXU).or_else(|error| match error {
                Errno::EEXIST => Ok(()),
                error => Err(error),
            })?;
            openat(&self.run, LOG, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?
        };
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = openat(&directory, segment_name(offset).as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR);
        self.directory = Some(directory);
        Ok(File::from(file?))
    }
}
