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

fn push(safe: &mut String, c: char) {
    if is_obeyed(c) {
        safe.extend(c.escape_default());
    } else {
        safe.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn a_terminal_obeys_nothing_that_a_stranger_wrote() {
        assert_eq!(printable("a\x1b[2Jb\x07\n"), "a\\u{1b}[2Jb\\u{7}\\n");
        assert_eq!(printable("\u{9b}31m \u{202e}drow"), "\\u{9b}31m \\u{202e}drow");
        assert_eq!(printable("naïve — ok"), "naïve — ok");
    }
}
