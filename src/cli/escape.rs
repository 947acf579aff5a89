//! Makes text of strangers safe for a terminal: names, payloads, errors and the output of runs.
//!
//! What could move the cursor, set a title, or reorder letters is shown as an escape instead of being obeyed.

use std::borrow::Cow;

/// Whether a terminal obeys the character instead of showing it, or it changes how others are shown.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// One line of text in which nothing is obeyed: control characters become `\n`, `\u{1b}` and the like.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        push(&mut safe, c);
    }
    Cow::Owned(safe)
}

/// As [`printable`], but line ends and tabs stay: text of several lines.
pub(super) fn printable_lines(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if matches!(c, '\n' | '\t') {
            safe.push(c);
        } else {
            push(&mut safe, c);
        }
    }
    safe
}

fn push(safe: &mut String, c: char) {
    if is_obeyed(c) {
        safe.extend(c.escape_default());
    } else {
        safe.push(c);
    }
}

/// A stream of output, piece by piece: a character may be cut between two pieces, and so may a line end `\r\n`.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// What the last piece ended with, and only the next can tell: up to 3 bytes of a character, or a `\r`.
    rest: Vec<u8>,
}

impl Stream {
    /// The next piece, escaped.
    pub(super) fn next(&mut self, piece: &[u8]) -> String {
        self.rest.extend_from_slice(piece);
        let bytes = std::mem::take(&mut self.rest);
        let mut safe = String::with_capacity(bytes.len() + 16);
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            let mut valid = chunk.valid();
            let invalid = chunk.invalid();
            let last = chunks.peek().is_none();
            if last && invalid.is_empty() && valid.ends_with('\r') {
                valid = &valid[..valid.len() - 1];
                self.rest.push(b'\r');
            }
            safe.push_str(&printable_lines(&valid.replace("\r\n", "\n")));
            if last && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none()) {
                self.rest.extend_from_slice(invalid);
            } else {
                push_bytes(&mut safe, invalid);
            }
        }
        safe
    }

    /// What was kept back for a piece that never came.
    pub(super) fn end(&mut self) -> String {
        let rest = std::mem::take(&mut self.rest);
        let mut safe = String::new();
        if rest == b"\r" {
            push(&mut safe, '\r');
        } else {
            push_bytes(&mut safe, &rest);
        }
        safe
    }
}

/// Bytes that are no text.
fn push_bytes(safe: &mut String, bytes: &[u8]) {
    use std::fmt::Write as _;
    for byte in bytes {
        write!(safe, "\\x{byte:02x}").expect("a String takes all");
    }
}

#[cfg(test)]
mod tests {
    use super::{Stream, printable, printable_lines};

    #[test]
    fn a_terminal_obeys_nothing_that_a_stranger_wrote() {
        assert_eq!(printable("a\x1b[2Jb\x07\n"), "a\\u{1b}[2Jb\\u{7}\\n");
        assert_eq!(printable("\u{9b}31m \u{202e}drow"), "\\u{9b}31m \\u{202e}drow");
        assert_eq!(printable("naïve — ok"), "naïve — ok");
        assert_eq!(printable_lines("a\tb\r\x1b]0;title\x07\n"), "a\tb\\r\\u{1b}]0;title\\u{7}\n");
    }

    #[test]
    fn a_character_and_a_line_end_survive_a_cut() {
        let mut stream = Stream::default();
        let mut text = String::new();
        for byte in "é\r\nx\ry".as_bytes() {
            text += &stream.next(&[*byte]);
        }
        text += &stream.end();
        assert_eq!(text, "é\nx\\ry");
    }

    #[test]
    fn bytes_that_are_no_text_are_shown() {
        let mut stream = Stream::default();
        assert_eq!(stream.next(b"\xff\x1b[0m\xc3("), "\\xff\\u{1b}[0m\\xc3(");
        assert_eq!(stream.next(b"\xe2\x82"), "");
        assert_eq!(stream.end(), "\\xe2\\x82");
    }
}
