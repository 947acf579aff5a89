//! The output of one run on its way from the database to stdout, and what is said of what does not come.
//!
//! Owns the rule when a log is whole: it reaches as far as the run's row says that there was output.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use crate::{
    cli::{
        context::{Context, explain},
        escape::Stream,
        exit::say,
        output, wait,
    },
    db::{
        self, Db,
        logs::{Chunk, Extent},
    },
    model::RunId,
};

/// Chunks that are read at once.
const CHUNKS: i64 = 16;

/// How long the rest of an ended run's output is waited for, since some of it came last.
const PATIENCE: Duration = Duration::from_secs(5);

/// What has not come so many seconds after the run ended is not under way: its host is gone, or not up.
const UNDER_WAY: f64 = 60.0;

/// From one look for the rest to the next.
const PAUSE: Duration = Duration::from_millis(100);

/// Why output could not be printed.
#[derive(Debug)]
pub(super) enum Failure {
    Db(db::Error),
    Output(anyhow::Error),
}

impl From<db::Error> for Failure {
    fn from(error: db::Error) -> Self {
        Self::Db(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Output(error)
    }
}

/// Whether everything was printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// All that there is, or is as yet.
    Printed,
    /// Some is known to exist and has not come.
    Missing,
}

/// What a run's row says about the output behind a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behind {
    /// There is none, or it does not exist as yet.
    Nothing,
    /// So many bytes that were not kept.
    Dropped(u64),
    /// So many bytes.
    Bytes(u64),
    /// Nobody knows: the shim did not live to tell.
    Unknown,
}

/// The output of one run.
pub(super) struct Log {
    run_id: RunId,
    /// Up to where it was printed, in bytes of the whole output.
    position: u64,
    /// Set where stdout is a terminal.
    escape: Option<Stream>,
    /// As JSON; a character that is cut is kept back until its rest comes.
    json: Option<Vec<u8>>,
}

impl Log {
    pub(super) fn new(context: &Context, run_id: RunId) -> Self {
        let escape = (!context.json && output::stdout_is_terminal()).then(Stream::default);
        Self { run_id, position: 0, escape, json: context.json.then(Vec::new) }
    }

    /// Prints what there is and was not printed yet. Whether there was anything.
    pub(super) async fn print(&mut self, db: &Db) -> Result<bool, Failure> {
        let mut moved = false;
        loop {
            let chunks = db.read_log(self.run_id, self.position, CHUNKS).await?;
            for chunk in &chunks {
                self.print_chunk(chunk)?;
            }
            moved |= !chunks.is_empty();
            if (chunks.len() as i64) < CHUNKS {
                return Ok(moved);
            }
        }
    }

    /// Prints what is left of a run that has ended, after a while for what is under way, and says what does not come.
    pub(super) async fn print_rest(&mut self, db: &Db) -> anyhow::Result<Rest> {
        let mut since = Instant::now();
        loop {
            // The row is read first: what it tells of was written before what is printed then.
            let (extent, moved) = match self.look(db).await {
                Err(Failure::Db(error)) if wait::is_passing(&error) && since.elapsed() < PATIENCE => {
                    sleep(PAUSE).await;
                    continue;
                }
                Err(Failure::Db(error)) => return Err(explain(&error)),
                Err(Failure::Output(error)) => return Err(error),
                Ok(found) => found,
            };
            if moved {
                since = Instant::now();
            }
            let behind = extent.as_ref().map_or(Behind::Nothing, |extent| behind(extent, self.position));
            let old = extent.as_ref().and_then(|extent| extent.ended_seconds).is_some_and(|ended| ended > UNDER_WAY);
            if matches!(behind, Behind::Bytes(_) | Behind::Unknown) && !old && since.elapsed() < PATIENCE {
                sleep(PAUSE).await;
                continue;
            }
            self.end()?;
            let host = extent.and_then(|extent| extent.host).unwrap_or_else(|| "its host".to_owned());
            return self.say_what_is_behind(behind, &host);
        }
    }

    async fn look(&mut self, db: &Db) -> Result<(Option<Extent>, bool), Failure> {
        let extent = db.log_extent(self.run_id).await?;
        Ok((extent, self.print(db).await?))
    }

    fn say_what_is_behind(&mut self, behind: Behind, host: &str) -> anyhow::Result<Rest> {
        let run_id = self.run_id;
        match behind {
            Behind::Nothing => Ok(Rest::Printed),
            Behind::Dropped(bytes) => self.print_gap(bytes).map(|()| Rest::Printed),
            Behind::Unknown => {
                say(&format!(
                    "run {run_id} ended without a word of how much it wrote; what {host} has of it beyond this has not arrived"
                ));
                Ok(Rest::Printed)
            }
            Behind::Bytes(bytes) => {
                say(&format!(
                    "{bytes} bytes of the output of run {run_id} have not arrived from {host}: its replica ships them while \
                     it is up, or at its next start"
                ));
                Ok(Rest::Missing)
            }
        }
    }

    fn print_chunk(&mut self, chunk: &Chunk) -> anyhow::Result<()> {
        if chunk.position > self.position {
            self.print_gap(chunk.position - self.position)?;
        }
        self.position = chunk.position + chunk.bytes.len() as u64;
        match (&mut self.json, &mut self.escape) {
            (Some(cut), _) => match whole_characters(cut, &chunk.bytes) {
                text if text.is_empty() => Ok(()),
                text => output::document(&json!({ "run_id": self.run_id, "output": text })),
            },
            (None, Some(escape)) => output::write(escape.next(&chunk.bytes).as_bytes()),
            (None, None) => output::write(&chunk.bytes),
        }
    }

    fn print_gap(&mut self, dropped: u64) -> anyhow::Result<()> {
        // A character that was cut here has lost its rest.
        self.end()?;
        if self.json.is_some() {
            output::document(&json!({ "run_id": self.run_id, "dropped": dropped }))
        } else {
            say(&format!("{dropped} bytes of the output were not kept here (log_cap)"));
            Ok(())
        }
    }

    /// Prints what was kept back for a piece that will not come.
    fn end(&mut self) -> anyhow::Result<()> {
        if let Some(cut) = self.json.as_mut().filter(|cut| !cut.is_empty()) {
            let text = String::from_utf8_lossy(&std::mem::take(cut)).into_owned();
            output::document(&json!({ "run_id": self.run_id, "output": text }))?;
        }
        match &mut self.escape {
            Some(escape) => output::write(escape.end().as_bytes()),
            None => Ok(()),
        }
    }
}

/// What the run's row says about the output behind a position.
fn behind(extent: &Extent, position: u64) -> Behind {
    match extent.bytes {
        _ if extent.ended_seconds.is_none() => Behind::Nothing,
        None if extent.began => Behind::Unknown,
        None => Behind::Nothing,
        Some((kept, dropped)) => match (kept + dropped).saturating_sub(position) {
            0 => Behind::Nothing,
            bytes if kept == 0 => Behind::Dropped(bytes),
            bytes => Behind::Bytes(bytes),
        },
    }
}

/// The text of what was kept back and these bytes, but for a character at the end that is cut, which is kept back.
fn whole_characters(cut: &mut Vec<u8>, bytes: &[u8]) -> String {
    cut.extend_from_slice(bytes);
    let mut end = cut.len();
    for back in 1..=cut.len().min(3) {
        let needed = match cut[cut.len() - back] {
            0b1000_0000..=0b1011_1111 => continue,
            0b1100_0000..=0b1101_1111 => 2,
            0b1110_0000..=0b1110_1111 => 3,
            0b1111_0000..=0b1111_0111 => 4,
            _ => 1,
        };
        if needed > back {
            end -= back;
        }
        break;
    }
    let rest = cut.split_off(end);
    String::from_utf8_lossy(&std::mem::replace(cut, rest)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_never_cut_by_where_a_chunk_ends() {
        let text = "aé€😀\u{10ffff}z";
        for size in 1..=5 {
            let mut cut = Vec::new();
            let parts: String = text.as_bytes().chunks(size).map(|part| whole_characters(&mut cut, part)).collect();
            assert_eq!((parts.as_str(), cut.len()), (text, 0), "in pieces of {size}");
        }
        let mut cut = Vec::new();
        assert_eq!(whole_characters(&mut cut, b"a\xff\x80\x80\x80\x80"), "a\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(whole_characters(&mut cut, b"\0\xe2\x82"), "\0");
        assert_eq!(cut, b"\xe2\x82");
    }

    #[test]
    fn a_log_is_whole_when_it_reaches_as_far_as_the_run_wrote() {
        let extent = |bytes| Extent { began: true, ended_seconds: Some(1.0), host: None, bytes };
        assert_eq!(behind(&extent(Some((10, 5))), 15), Behind::Nothing);
        assert_eq!(behind(&extent(Some((10, 5))), 4), Behind::Bytes(11));
        assert_eq!(behind(&extent(Some((0, 5))), 0), Behind::Dropped(5));
        assert_eq!(behind(&extent(None), 4), Behind::Unknown);
        assert_eq!(behind(&Extent { began: false, ..extent(None) }, 0), Behind::Nothing);
        let live = Extent { ended_seconds: None, ..extent(Some((10, 0))) };
        assert_eq!(behind(&live, 0), Behind::Nothing);
    }
}
