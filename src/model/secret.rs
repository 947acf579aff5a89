//! What of a variable's value is hidden in a run's log.

/// A text with fewer bytes is not hidden: it would stand in output that has nothing to do with it.
pub const SHORTEST: usize = 4;

/// What is hidden of a value: each of its lines, since programs print line by line, without the blanks around it. Lines that
/// are too short are left out.
pub fn hidden_lines(value: &str) -> impl Iterator<Item = &str> {
    value.split(['\n', '\r']).map(str::trim).filter(|line| line.len() >= SHORTEST)
}

/// Whether a value can be hidden: nothing is to be hidden of an empty one, and of any other there is a line that is long enough.
#[must_use]
pub fn can_be_hidden(value: &str) -> bool {
    value.trim().is_empty() || hidden_lines(value).next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_a_value_is_hidden_by_itself() {
        let key = "-----BEGIN KEY-----\r\n  MIIEow\n\nab\n=\n";
        assert_eq!(hidden_lines(key).collect::<Vec<_>>(), ["-----BEGIN KEY-----", "MIIEow"]);
    }

    #[test]
    fn what_is_too_short_cannot_be_hidden_and_what_is_empty_need_not() {
        for (value, can) in
            [("", true), (" \n", true), ("abc", false), ("abc\ndef", false), (" abcd ", true), ("\u{e9}\u{e9}", true)]
        {
            assert_eq!(can_be_hidden(value), can, "{value:?}");
        }
    }
}
