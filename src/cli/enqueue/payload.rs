//! A payload as it is given: on the command line, from a file, from standard input.

use std::{
    fs::File,
    io::{self, Read},
};

use anyhow::{Context as _, bail};
use serde::de::IgnoredAny;

/// The payload's text: given, from a file or from standard input; never more than a byte above `max` is read.
pub(in crate::cli) fn read_payload(argument: &str, max: u64) -> anyhow::Result<String> {
    let bytes = match (argument, argument.strip_prefix('@')) {
        ("-", _) => read_at_most(io::stdin().lock(), max).context("failed to read the payload from standard input")?,
        (_, Some(path)) => File::open(path)
            .and_then(|file| read_at_most(file, max))
            .with_context(|| format!("failed to read the payload from {path}"))?,
        _ => argument.as_bytes().to_vec(),
    };
    if bytes.len() as u64 > max {
        bail!("the payload has more than {max} bytes: shorten it, pass a path in it, or raise payload_max");
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            bail!("the payload is not UTF-8 at byte {}: JSON is UTF-8 throughout", error.utf8_error().valid_up_to())
        }
    }
}

fn read_at_most(source: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// That it is JSON, however deep, and without the one character that no text of Postgres can hold.
pub(in crate::cli) fn check_payload(text: &str) -> anyhow::Result<()> {
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        bail!("the payload is no JSON: {error}; quote strings, or pass a file as @FILE");
    }
    if has_escaped_nul(text) {
        bail!("the payload contains the character \\u0000, which Postgres cannot store: remove it");
    }
    Ok(())
}

/// Whether the JSON text has `\u0000` in a string; `\\u0000` is a backslash and five letters.
pub(super) fn has_escaped_nul(text: &str) -> bool {
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let escape = &rest[at..];
        if escape.starts_with("\\u0000") {
            return true;
        }
        // The escaped character is ASCII in any valid JSON.
        rest = escape.get(2..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{check_payload, read_payload};

    #[test]
    fn a_payload_is_json_however_deep_and_has_no_nul() {
        for good in ["{}", "null", "\"\\\\u0000\"", &format!("{}{}", "[".repeat(50_000), "]".repeat(50_000))] {
            assert!(check_payload(good).is_ok());
        }
        for bad in ["", "{", "{a: 1}", "nul", "\"\\u0000\"", "{\"a\\\\\\u0000\": 1}", "\"a\u{0}b\"", "1 2"] {
            assert!(check_payload(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_payload_may_have_as_many_bytes_as_allowed_and_no_more() {
        assert_eq!(read_payload("\"é\"", 4).unwrap(), "\"é\"");
        assert!(read_payload("\"é\"", 3).unwrap_err().to_string().contains("more than 3 bytes"));
    }
}
