//! One run's log on its way from the spool to the database: where it stands, and what must go there for what comes.
//!
//! Owns the bound of a log in the database: the head stays, of the tail the oldest parts go. Has at most one chunk in
//! flight, so that what the database has is always the output up to one position.

use std::{collections::VecDeque, io, path::Path};

use super::send::{Closed, PIECE, Sender};
use crate::{
    db::{
        Db,
        logs::{Chunk, Shipped},
    },
    model::RunId,
    replica::launch::blocking,
    shim::{
        log::{LogReader, Piece},
        protocol::RunDir,
    },
};

/// The tail is counted, and deleted, in parts of this share of the bound: a delete every so many bytes, not for each chunk.
const PARTS: u64 = 64;

/// Why a log is not shipped any further.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stuck {
    #[error(transparent)]
    Closed(#[from] Closed),
    #[error("the spool cannot be read: {0}")]
    Spool(#[from] io::Error),
}

/// What shipping the next chunk came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// So many bytes are in the database.
    Shipped(usize),
    /// There is nothing more as yet.
    Nothing,
    /// The database does not know the run: its log goes nowhere.
    Unknown,
}

/// Where one log stands.
#[derive(Debug)]
pub(super) struct Line {
    run_id: RunId,
    reader: LogReader,
    /// Up to where the chunks in the database say what became of the output.
    told: u64,
    tail: Tail,
}

impl Line {
    /// Of a run whose log has not been shipped at all. `cap` is the bound in bytes.
    pub(super) fn new(state_dir: &Path, run_id: RunId, cap: u64) -> Self {
        Self::after(state_dir, run_id, cap, &[])
    }

    /// Goes on where the database says that the log stands.
    pub(super) async fn resume(db: &Db, state_dir: &Path, run_id: RunId, cap: u64) -> crate::db::Result<Self> {
        let shipped = db.shipped_log(run_id, (cap / PARTS).max(1)).await?;
        Ok(Self::after(state_dir, run_id, cap, &shipped))
    }

    fn after(state_dir: &Path, run_id: RunId, cap: u64, shipped: &[Shipped]) -> Self {
        let told = shipped.last().map_or(0, |part| part.last);
        let begins = cap / 2;
        let mut tail = Tail { begins, cap: cap - begins, bytes: 0, parts: VecDeque::new() };
        for part in shipped.iter().filter(|part| part.first >= begins) {
            tail.push(part.first, part.bytes);
        }
        Self { run_id, reader: LogReader::at(RunDir::new(state_dir, run_id), told), told, tail }
    }

    /// How far the output has been read, in bytes of the whole.
    pub(super) const fn position(&self) -> u64 {
        self.reader.position()
    }

    /// Ships the next chunk, however long that takes.
    pub(super) async fn step(&mut self, sender: &Sender) -> Result<Step, Stuck> {
        let room = sender.room().await?;
        let mut reader = self.reader.clone();
        let read = blocking(move || {
            // What was dropped is told by the position of what comes after.
            while let Some(piece) = reader.next_piece(PIECE)? {
                if let Piece::Bytes(bytes) = piece {
                    let position = reader.position() - bytes.len() as u64;
                    return Ok((reader, Some(Chunk { position, bytes })));
                }
            }
            Ok((reader, None))
        });
        let (reader, chunk) = read.await?;
        self.reader = reader;
        let Some(chunk) = chunk else { return Ok(Step::Nothing) };
        let length = chunk.bytes.len();
        let trim = self.tail.make_room(chunk.position, length as u64);
        if !sender.send(self.run_id, chunk, trim, room).await? {
            return Ok(Step::Unknown);
        }
        self.told = self.reader.position();
        Ok(Step::Shipped(length))
    }

    /// After the last step of a run that has ended: says, if nothing did so far, that its output ended beyond the last
    /// chunk, in bytes that were dropped.
    pub(super) async fn end(&self, sender: &Sender) -> Result<(), Stuck> {
        if self.position() > self.told {
            let room = sender.room().await?;
            sender.send(self.run_id, Chunk { position: self.position(), bytes: Vec::new() }, None, room).await?;
        }
        Ok(())
    }
}

/// What the database has behind the head.
#[derive(Debug)]
struct Tail {
    /// Where it begins in the whole output.
    begins: u64,
    /// The most bytes of it.
    cap: u64,
    bytes: u64,
    /// Oldest first: where each begins, and bytes.
    parts: VecDeque<(u64, u64)>,
}

impl Tail {
    /// Takes so many more bytes in. What must be deleted before: from, and up to before.
    fn make_room(&mut self, position: u64, length: u64) -> Option<(u64, u64)> {
        if position < self.begins {
            return None;
        }
        let over = self.bytes + length > self.cap;
        if over {
            // A few parts at once, so that not every chunk costs a delete.
            let most = self.cap.saturating_sub(length).saturating_sub(self.cap / 8);
            while self.bytes > most {
                let Some((_, bytes)) = self.parts.pop_front() else { break };
                self.bytes -= bytes;
            }
        }
        let keep = self.parts.front().map_or(position, |(first, _)| *first);
        self.push(position, length);
        over.then_some((self.begins, keep))
    }

    fn push(&mut self, position: u64, length: u64) {
        self.bytes += length;
        match self.parts.back_mut() {
            Some((_, bytes)) if *bytes + length <= self.cap / PARTS => *bytes += length,
            _ => self.parts.push_back((position, length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(cap: u64) -> Tail {
        Tail { begins: 100, cap, bytes: 0, parts: VecDeque::new() }
    }

    #[test]
    fn the_head_is_never_deleted_and_the_tail_never_above_its_bound() {
        let mut tail = tail(1000);
        assert_eq!(tail.make_room(0, 100), None, "the head");
        let mut stored: VecDeque<(u64, u64)> = VecDeque::new();
        let mut deletes = 0;
        for n in 0..500 {
            // Every third chunk comes after a gap.
            let position = 100 + n * 7 + n / 3 * 50;
            if let Some((from, keep)) = tail.make_room(position, 7) {
                assert_eq!(from, 100);
                stored.retain(|(at, _)| *at >= keep);
                deletes += 1;
            }
            stored.push_back((position, 7));
            let bytes: u64 = stored.iter().map(|(_, length)| length).sum();
            assert!(bytes <= 1000, "{bytes} bytes after {n} chunks");
            assert_eq!(bytes, tail.bytes);
            assert!(n < 142 || bytes > 800, "{bytes}: no more is deleted than must be");
        }
        assert!(deletes < 40, "{deletes} deletes for 500 chunks");
    }

    #[test]
    fn what_is_remembered_of_the_tail_is_bounded() {
        let mut tail = tail(1 << 20);
        for n in 0..1_000_000 {
            tail.make_room(100 + n * 3, 3);
        }
        assert!(tail.parts.len() <= 2 * PARTS as usize, "{}", tail.parts.len());
    }

    #[test]
    fn a_line_goes_on_where_the_database_stands() {
        let part = |first, last, bytes| Shipped { first, last, bytes };
        let state = Path::new("/nowhere");
        let line = Line::after(state, RunId::new(), 200, &[part(0, 100, 100), part(150, 180, 20), part(190, 250, 50)]);
        assert_eq!((line.position(), line.told), (250, 250));
        assert_eq!((line.tail.bytes, line.tail.parts.len()), (70, 2));
        assert_eq!(Line::after(state, RunId::new(), 200, &[]).position(), 0);
    }
}
