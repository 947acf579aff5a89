//! Spans of time as people write them: `500ms`, `30s`, `1h 30m`, `14d`.

use std::time::Duration;

/// The longest span that makes sense, and that every clock involved can add: a century.
const LONGEST: Duration = Duration::from_hours(100 * 366 * 24);

/// Reads a span.
///
/// # Errors
/// A sentence that says what a span looks like.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(span) if span <= LONGEST => Ok(span),
        Ok(_) => Err("it is longer than a hundred years".to_owned()),
        Err(_) => Err("it is no duration such as 500ms, 30s, 10m, 2h or 7d".to_owned()),
    }
}

/// As [`parse_span`], but zero is none.
///
/// # Errors
/// A sentence that says what a span looks like.
pub fn parse_positive_span(text: &str) -> Result<Duration, String> {
    match parse_span(text)? {
        Duration::ZERO => Err("it must be longer than zero".to_owned()),
        span => Ok(span),
    }
}

#[cfg(test)]
mod tests {
    use super::{parse_positive_span, parse_span};

    #[test]
    fn a_span_that_no_clock_can_add_is_refused() {
        assert!(parse_span("101years").is_err());
        assert!(parse_span("99999999999999999999s").is_err());
        assert!(parse_positive_span("0s").is_err());
    }
}
