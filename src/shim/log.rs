//! Reads the bounded output of a run, while its shim writes it and after.
//!
//! Knows the layout that `spool` writes. Never writes, and holds nothing open between two calls, so that a log may grow,
//! lose its middle or move to `done/` in between.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use super::rundir::RunDir;
use crate::model::RunId;

/// At most so many bytes come at once.
const PIECE: u64 = 256 * 1024;

/// How often a file may vanish under a read: it is rotated away, or the log moves, while it is looked for.
const ATTEMPTS: usize = 8;

/// What comes next in a run's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Output, cut anywhere.
    Bytes(Vec<u8>),
    /// So many bytes were dropped here.
    Dropped(u64),
}

/// Where a reader of a run's output stands.
#[derive(Debug)]
pub struct LogReader {
    dir: RunDir,
    position: u64,
}

impl LogReader {
    /// At the beginning of the run's output; touches nothing.
    #[must_use]
    pub fn new(state_dir: &Path, run_id: RunId) -> Self {
        Self { dir: RunDir::new(state_dir, run_id), position: 0 }
    }

    /// Whether this state directory knows the run. One that wrote nothing is forgotten once it is retired.
    pub fn is_here(&self) -> io::Result<bool> {
        Ok(self.dir.path().try_exists()? || self.dir.retired_log_path().try_exists()?)
    }

    /// The next piece; none where there is nothing more as yet.
    pub fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        for _ in 0..ATTEMPTS {
            for path in [self.dir.log_path(), self.dir.retired_log_path()] {
                match self.read(&path) {
                    // It was moved or rotated away: look again.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    outcome => return outcome,
                }
            }
            if !self.dir.log_path().try_exists()? && !self.dir.retired_log_path().try_exists()? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    fn read(&mut self, log: &Path) -> io::Result<Option<Piece>> {
        let starts = segments(log)?;
        if let Some(start) = starts.iter().rev().find(|start| **start <= self.position) {
            let mut file = File::open(log.join(super::spool::segment_name(*start)))?;
            file.seek(SeekFrom::Start(self.position - start))?;
            let mut bytes = Vec::new();
            file.take(PIECE).read_to_end(&mut bytes)?;
            if !bytes.is_empty() {
                self.position += bytes.len() as u64;
                return Ok(Some(Piece::Bytes(bytes)));
            }
        }
        // A file is whole before the next one is made, and that one was listed before this one was read to its end.
        Ok(starts.iter().find(|start| **start > self.position).map(|start| {
            let dropped = start - self.position;
            self.position = *start;
            Piece::Dropped(dropped)
        }))
    }
}

/// The offsets at which files begin, in order.
fn segments(log: &Path) -> io::Result<Vec<u64>> {
    let mut starts = Vec::new();
    for entry in fs::read_dir(log)? {
        starts.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    starts.sort_unstable();
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use super::{super::spool::segment_name, *};

    struct Log {
        state: tempfile::TempDir,
        run_id: RunId,
    }

    impl Log {
        fn new() -> Self {
            let log = Self { state: tempfile::tempdir().unwrap(), run_id: RunId::new() };
            fs::create_dir_all(log.dir().log_path()).unwrap();
            log
        }

        fn dir(&self) -> RunDir {
            RunDir::new(self.state.path(), self.run_id)
        }

        fn write(&self, offset: u64, bytes: &[u8]) {
            fs::write(self.dir().log_path().join(segment_name(offset)), bytes).unwrap();
        }

        fn reader(&self) -> LogReader {
            LogReader::new(self.state.path(), self.run_id)
        }
    }

    fn all(reader: &mut LogReader) -> Vec<Piece> {
        std::iter::from_fn(|| reader.next_piece().unwrap()).collect()
    }

    fn bytes(text: &str) -> Piece {
        Piece::Bytes(text.into())
    }

    #[test]
    fn a_gap_between_two_files_is_what_was_dropped() {
        let log = Log::new();
        log.write(0, b"head");
        log.write(10, b"tail");
        log.write(14, b" end");
        log.write(30, b"");
        let expected = [bytes("head"), Piece::Dropped(6), bytes("tail"), bytes(" end"), Piece::Dropped(12)];
        assert_eq!(all(&mut log.reader()), expected);
    }

    #[test]
    fn a_reader_goes_on_where_it_was_also_after_the_log_moved() {
        let log = Log::new();
        let mut reader = log.reader();
        assert_eq!(all(&mut reader), []);
        log.write(0, b"one");
        assert_eq!(all(&mut reader), [bytes("one")]);
        log.write(0, b"one two");
        assert_eq!(all(&mut reader), [bytes(" two")]);
        log.write(7, b" three");
        log.dir().retire().unwrap();
        assert_eq!(all(&mut reader), [bytes(" three")]);
        assert!(reader.is_here().unwrap());
    }

    #[test]
    fn what_was_rotated_away_under_the_reader_is_dropped() {
        let log = Log::new();
        log.write(0, b"head");
        log.write(4, b"tail");
        let mut reader = log.reader();
        assert_eq!(reader.next_piece().unwrap(), Some(bytes("head")));
        fs::remove_file(log.dir().log_path().join(segment_name(4))).unwrap();
        log.write(8, b"more");
        assert_eq!(all(&mut reader), [Piece::Dropped(4), bytes("more")]);
    }

    #[test]
    fn a_run_that_is_not_here_has_nothing_and_is_not_here() {
        let state = tempfile::tempdir().unwrap();
        let mut reader = LogReader::new(state.path(), RunId::new());
        assert_eq!(all(&mut reader), []);
        assert!(!reader.is_here().unwrap());
    }
}
