//! The lines of a bulk: read one at a time, looked at, and put together to pieces that the database takes at once.
//!
//! Owns what can be said of a line without the database: that it is JSON, and how large its payload is. Holds one piece
//! and one line in memory, whatever the size of the file.

use std::{
    borrow::Cow,
    io::{BufRead, Read as _},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::payload::has_escaped_nul;

/// Jobs of one piece.
const JOBS: usize = 2000;

/// Bytes after which a piece has enough jobs.
const BYTES: usize = 1024 * 1024;

/// What a line may have beside its payload: labels, names, keys.
const BESIDE_PAYLOAD: u64 = 256 * 1024;

/// Wishes that are sent together, as a JSON array.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// The array's text.
    pub(super) wishes: String,
    /// Of each wish, its line, from 1 on, and where in the text it begins.
    wishes_at: Vec<(u64, usize)>,
    /// Bytes of the input up to the end of this piece.
    pub(super) read: u64,
}

impl Piece {
    /// How many wishes it has.
    pub(super) const fn len(&self) -> usize {
        self.wishes_at.len()
    }

    /// The line of a wish.
    pub(super) fn line(&self, place: usize) -> u64 {
        self.wishes_at.get(place).map_or(0, |(line, _)| *line)
    }

    /// Each wish by itself, as JSON.
    pub(super) fn each(&self) -> Vec<&str> {
        let ends = self.wishes_at.iter().skip(1).map(|(_, start)| *start).chain([self.wishes.len()]);
        // behind each stands a comma, or the bracket
        self.wishes_at.iter().zip(ends).map(|((_, start), end)| &self.wishes[*start..end - 1]).collect()
    }
}

/// The keys of a line that are looked at here.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    agent: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

/// Reads pieces.
pub(super) struct Lines<R, A> {
    source: R,
    /// Says no to an agent.
    judge: A,
    /// Members of a JSON object that go before those of each line; of two with one name the latter counts.
    defaults: String,
    payload_max: u64,
    number: u64,
    read: u64,
    bytes: Vec<u8>,
}

impl<R: BufRead, A: FnMut(Option<&str>) -> anyhow::Result<()>> Lines<R, A> {
    pub(super) fn new(source: R, defaults: String, payload_max: u64, judge: A) -> Self {
        Self { source, judge, defaults, payload_max, number: 0, read: 0, bytes: Vec::new() }
    }

    /// The next piece, empty at the end; and what is wrong with the line behind it. What the piece has comes before.
    pub(super) fn next(&mut self) -> (Piece, anyhow::Result<()>) {
        let mut piece = Piece { wishes: "[".to_owned(), ..Piece::default() };
        let mut answer = Ok(());
        while piece.len() < JOBS && piece.wishes.len() < BYTES {
            match self.add_line(&mut piece) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    answer = Err(error.context(format!("line {}", self.number)));
                    break;
                }
            }
        }
        if piece.len() > 0 {
            piece.wishes.pop();
        }
        piece.wishes.push(']');
        piece.read = self.read;
        (piece, answer)
    }

    /// Adds a line to the piece, unless it is blank. Whether there was one.
    fn add_line(&mut self, piece: &mut Piece) -> anyhow::Result<bool> {
        let most = self.payload_max.saturating_add(BESIDE_PAYLOAD);
        self.bytes.clear();
        self.number += 1;
        let mut bounded = self.source.by_ref().take(most.saturating_add(1));
        let read = bounded.read_until(b'\n', &mut self.bytes).context("failed to read it")?;
        self.read += read as u64;
        ensure!(read as u64 <= most, "it has more than {most} bytes: payload_max and what may stand beside it");
        if read == 0 {
            return Ok(false);
        }
        let text = std::str::from_utf8(&self.bytes)
            .map_err(|error| anyhow!("it is not UTF-8 at byte {}", error.valid_up_to() + 1))?
            .trim_matches([' ', '\t', '\r', '\n']);
        if text.is_empty() {
            return Ok(true);
        }
        let Some(members) = text.strip_prefix('{') else { bail!("a JSON object is needed, one a line") };
        let line: Line<'_> = serde_json::from_str(text).map_err(|error| anyhow!("it is no wish of a job: {error}"))?;
        ensure!(!has_escaped_nul(text), "it contains the character \\u0000, which Postgres cannot store: remove it");
        let payload = line.payload.map_or(0, |payload| payload.get().len() as u64);
        ensure!(
            payload <= self.payload_max,
            "the payload has more than {} bytes: shorten it, pass a path in it, or raise payload_max",
            self.payload_max
        );
        (self.judge)(line.agent.as_deref())?;
        piece.wishes_at.push((self.number, piece.wishes.len()));
        piece.wishes.push('{');
        piece.wishes.push_str(&self.defaults);
        if !self.defaults.is_empty() && !members.trim_start().starts_with('}') {
            piece.wishes.push(',');
        }
        piece.wishes.push_str(members);
        piece.wishes.push(',');
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    fn all(text: &str, defaults: &str) -> (Vec<String>, Vec<u64>, Option<String>) {
        let mut lines = Lines::new(text.as_bytes(), defaults.to_owned(), 20, |_| Ok(()));
        let (mut wishes, mut numbers) = (Vec::new(), Vec::new());
        loop {
            let (piece, answer) = lines.next();
            let each = piece.each();
            assert_eq!(format!("[{}]", each.join(",")), piece.wishes);
            wishes.extend(each.into_iter().map(str::to_owned));
            numbers.extend((0..piece.len()).map(|place| piece.line(place)));
            if let Err(error) = answer {
                return (wishes, numbers, Some(format!("{error:#}")));
            }
            if piece.len() == 0 {
                assert_eq!(piece.read, text.len() as u64);
                return (wishes, numbers, None);
            }
        }
    }

    #[test]
    fn each_line_is_a_wish_and_keeps_its_number() {
        let (wishes, numbers, fault) = all("{\"agent\": \"a\"}\r\n\n  \n { \"payload\": [1]} \n{ }", "");
        assert_eq!(wishes, ["{\"agent\": \"a\"}", "{ \"payload\": [1]}", "{ }"]);
        assert_eq!((numbers, fault), (vec![1, 4, 5], None));
        assert_eq!(all("", ""), (vec![], vec![], None));
        assert_eq!(all("[\n", "").2.as_deref(), Some("line 1: a JSON object is needed, one a line"));
    }

    #[test]
    fn the_flags_stand_before_what_a_line_says() {
        let (wishes, ..) = all("{\"agent\": \"b\"}\n{}\n", "\"agent\":\"a\",\"priority\":1");
        assert_eq!(wishes, ["{\"agent\":\"a\",\"priority\":1,\"agent\": \"b\"}", "{\"agent\":\"a\",\"priority\":1}"]);
        for wish in wishes {
            serde_json::from_str::<serde_json::Value>(&wish).unwrap();
        }
    }

    #[test]
    fn what_comes_before_a_bad_line_is_told_with_it() {
        for (line, says) in [
            ("{\"agent\": }", "line 3: it is no wish of a job: expected value at line 1 column 11"),
            ("{} {}", "line 3: it is no wish of a job: trailing characters at line 1 column 4"),
            ("{\"agent\": 5}", "line 3: it is no wish of a job: invalid type: integer `5`"),
            ("{\"x\": \"\\u0000\"}", "line 3: it contains the character \\u0000"),
            ("{\"payload\": \"123456789012345678901\"}", "line 3: the payload has more than 20 bytes"),
        ] {
            let (wishes, numbers, fault) = all(&format!("{{}}\n{{}}\n{line}\n{{}}\n"), "");
            assert_eq!((wishes.len(), numbers), (2, vec![1, 2]), "{line}");
            let fault = fault.unwrap();
            assert!(fault.starts_with(says), "{fault}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let mut lines = Lines::new(std::io::BufReader::new(std::io::repeat(b' ')), String::new(), 20, |_| Ok(()));
        let (piece, answer) = lines.next();
        assert_eq!(piece.len(), 0);
        assert!(format!("{:#}", answer.unwrap_err()).starts_with("line 1: it has more than 262164 bytes"));
    }

    #[test]
    fn a_piece_is_bounded() {
        let text = "{}\n".repeat(4500);
        let mut lines = Lines::new(text.as_bytes(), String::new(), 20, |_| Ok(()));
        let sizes: Vec<_> = std::iter::repeat_with(|| lines.next().0.len()).take_while(|len| *len > 0).collect();
        assert_eq!(sizes, [2000, 2000, 500]);
    }
}
