//! Points and spans of time as people write and read them: RFC 3339, `10m`, `3h`.

use crate::db::{jobs::When, limits::Until};
pub(super) use crate::model::{parse_positive_span, parse_span};

/// `2026-07-01T08:00:00Z`, or `10m` for ten minutes from now.
pub(super) fn parse_when(text: &str) -> Result<When, String> {
    text.parse()
}

/// `until 2026-07-01T08:00:00Z`, or until somebody says so.
pub(super) fn until(end: Until) -> String {
    format!("until {}", end_of(end))
}

/// The same where a word before it says so already.
pub(super) fn end_of(end: Until) -> String {
    match end {
        Until::At(at) => at.to_string(),
        Until::Opened => "further notice".to_owned(),
    }
}

/// An age or a rest in its largest two units: `3s`, `4m10s`, `2h05m`, `9d`.
pub(super) fn short(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (days, hours, minutes, rest) = (whole / 86_400, whole / 3600, whole / 60, whole % 60);
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 if rest == 0 => format!("{minutes}m"),
        60..3600 => format!("{minutes}m{rest:02}s"),
        3600..86_400 if minutes % 60 == 0 => format!("{hours}h"),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ if days < 10 && hours % 24 > 0 => format!("{days}d{:02}h", hours % 24),
        _ => format!("{days}d"),
    }
}

/// A span whole, as people write it: `1s 500ms`, `1h 30m 15s`, `15m`, `9d`. To the microsecond, as the database has it.
pub(super) fn exact(seconds: f64) -> String {
    let mut rest = (seconds.max(0.0) * 1e6).round() as u64;
    let mut parts = Vec::new();
    for (unit, micros) in
        [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1000), ("us", 1)]
    {
        if rest >= micros {
            parts.push(format!("{}{unit}", rest / micros));
            rest %= micros;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{When, exact, parse_span, parse_when, short};

    #[test]
    fn a_time_is_an_instant_or_a_span_and_never_infinite() {
        assert_eq!(parse_when("10m"), Ok(When::In(Duration::from_mins(10))));
        assert_eq!(parse_when("2026-07-01T08:00:00Z"), Ok(When::At("2026-07-01T08:00:00Z".parse().unwrap())));
        for bad in ["infinity", "-infinity", "tomorrow", "", "2026-07-01", "2026-07-01 08:00", "-5m", "NaN", "1e9y"] {
            assert!(parse_when(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ages_are_short() {
        let ages: Vec<String> = [-1.0, 0.4, 59.0, 60.0, 250.0, 7200.0, 7500.0, 90_000.0, 864_000.0].map(short).into();
        assert_eq!(ages, ["0s", "0s", "59s", "1m", "4m10s", "2h", "2h05m", "1d01h", "10d"]);
    }

    #[test]
    fn what_is_stored_is_shown_whole_and_can_be_said_again() {
        for (seconds, shown) in [
            (0.0, "0s"),
            (1.5, "1s 500ms"),
            (900.0, "15m"),
            (5415.0, "1h 30m 15s"),
            (781_200.000_001, "9d 1h 1us"),
            (1.1, "1s 100ms"),
        ] {
            assert_eq!(exact(seconds), shown);
            assert_eq!(parse_span(shown), Ok(Duration::from_micros((seconds * 1e6).round() as u64)));
        }
    }
}
