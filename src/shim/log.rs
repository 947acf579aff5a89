//! Reads the bounded output of a run from its directory, while its shim writes it and after.
//!
//! Knows the layout that `spool` writes. Never writes, and holds nothing open between two calls, so that a log may grow
//! or lose its middle in between.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use super::rundir::RunDir;

/// How often a file may vanish under a read: it is rotated away while it is looked for.
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
#[derive(Debug, Clone)]
pub struct LogReader {
    dir: RunDir,
    position: u64,
}

impl LogReader {
    /// At this position of the run's whole output, in bytes; touches nothing.
    #[must_use]
    pub const fn at(dir: RunDir, position: u64) -> Self {
        Self { dir, position }
    }

    /// How far it has read, in bytes of the whole output, dropped ones included.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// The next piece, of at most `most` bytes; none where there is nothing more as yet.
    pub fn next_piece(&mut self, most: usize) -> io::Result<Option<Piece>> {
        let log = self.dir.log_path();
        for _ in 0..ATTEMPTS {
            match self.read(&log, most) {
                // Rotated away after it was listed: look again. Without any log there is nothing to see.
                Err(error) if error.kind() == io::ErrorKind::NotFound && log.try_exists()? => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                outcome => return outcome,
            }
        }
        Ok(None)
    }

    fn read(&mut self, log: &Path, most: usize) -> io::Result<Option<Piece>> {
        let starts = segments(log)?;
        if let Some(start) = starts.iter().rev().find(|start| **start <= self.position) {
            let mut file = File::open(log.join(super::spool::segment_name(*start)))?;
            file.seek(SeekFrom::Start(self.position - start))?;
            let mut bytes = Vec::new();
            file.take(most as u64).read_to_end(&mut bytes)?;
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
    use crate::model::RunId;

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
            LogReader::at(self.dir(), 0)
        }
    }

    fn all(reader: &mut LogReader) -> Vec<Piece> {
        std::iter::from_fn(|| reader.next_piece(1 << 20).unwrap()).collect()
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
        let mut reader = log.reader();
        let expected = [bytes("head"), Piece::Dropped(6), bytes("tail"), bytes(" end"), Piece::Dropped(12)];
        assert_eq!(all(&mut reader), expected);
        assert_eq!(reader.position(), 30, "where the output ended");
    }

    #[test]
    fn a_reader_goes_on_where_it_was_and_so_does_another_one_that_is_put_there() {
        let log = Log::new();
        let mut reader = log.reader();
        assert_eq!(all(&mut reader), []);
        log.write(0, b"one");
        assert_eq!(all(&mut reader), [bytes("one")]);
        log.write(0, b"one two");
        assert_eq!(reader.next_piece(2).unwrap(), Some(bytes(" t")));
        assert_eq!(reader.position(), 5);
        log.write(7, b" three");
        log.write(20, b"four");
        let rest = [bytes("wo"), bytes(" three"), Piece::Dropped(7), bytes("four")];
        assert_eq!(all(&mut LogReader::at(log.dir(), 5)), rest);
        assert_eq!(all(&mut reader), rest);
        assert_eq!(all(&mut LogReader::at(log.dir(), 15)), [Piece::Dropped(5), bytes("four")], "put into a gap");
        assert_eq!(all(&mut LogReader::at(log.dir(), 24)), []);
    }

    #[test]
    fn what_was_rotated_away_under_the_reader_is_dropped() {
        let log = Log::new();
        log.write(0, b"head");
        log.write(4, b"tail");
        let mut reader = log.reader();
        assert_eq!(reader.next_piece(1 << 20).unwrap(), Some(bytes("head")));
        fs::remove_file(log.dir().log_path().join(segment_name(4))).unwrap();
        log.write(8, b"more");
        assert_eq!(all(&mut reader), [Piece::Dropped(4), bytes("more")]);
    }

    #[test]
    fn a_run_without_a_log_has_nothing() {
        let state = tempfile::tempdir().unwrap();
        let mut reader = LogReader::at(RunDir::new(state.path(), RunId::new()), 0);
        assert_eq!(all(&mut reader), []);
    }
}
