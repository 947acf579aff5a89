//! The kinds of values that settings have: what they are called for people, and how a text becomes one.
//!
//! Pure. A refusal is a sentence that says what to write instead, and never quotes a secret.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use super::{Drain, LogFormat, database};

/// How the text of a setting becomes its value.
pub(super) struct Kind<T> {
    /// What the value is, for people: `duration`, `true or false`.
    pub(super) unit: &'static str,
    /// Whether the value must never be printed.
    pub(super) secret: bool,
    /// The value, or a sentence that begins after "it".
    pub(super) parse: fn(&str) -> Result<T, String>,
}

/// The longest duration that any setting takes: far above all use, far below what an interval overflows at.
const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);

pub(super) const ADDRESS: Kind<SocketAddr> = Kind { unit: "ADDRESS:PORT", secret: false, parse: address };
pub(super) const DIRECTORY: Kind<PathBuf> = Kind { unit: "directory", secret: false, parse: path };
pub(super) const FILE: Kind<Option<PathBuf>> = Kind { unit: "file", secret: false, parse: |text| path(text).map(Some) };
/// A file that need not be named.
pub(super) const TOKEN_FILE: Kind<Option<PathBuf>> =
    Kind { unit: "file", secret: false, parse: |text| if text.is_empty() { Ok(None) } else { path(text).map(Some) } };
pub(super) const DATABASE: Kind<Option<String>> = Kind {
    unit: "postgres://USER:PASSWORD@HOST:PORT/DATABASE",
    secret: true,
    parse: |text| {
        if text.is_empty() {
            return Ok(None);
        }
        database::validate(text)?;
        Ok(Some(text.to_owned()))
    },
};
pub(super) const NAME: Kind<String> = Kind { unit: "name", secret: false, parse: name };
pub(super) const LABELS: Kind<BTreeMap<String, String>> =
    Kind { unit: "KEY=VALUE,KEY=VALUE", secret: false, parse: labels };
pub(super) const SWITCH: Kind<bool> = Kind { unit: "true or false", secret: false, parse: switch };
pub(super) const SLOTS: Kind<usize> =
    Kind { unit: "number", secret: false, parse: |text| whole(text, 1, 100_000).map(|n| n as usize) };
pub(super) const CONNECTIONS: Kind<usize> =
    Kind { unit: "number", secret: false, parse: |text| whole(text, 2, 1_000).map(|n| n as usize) };
pub(super) const COUNT: Kind<i32> =
    Kind { unit: "number", secret: false, parse: |text| whole(text, 1, 1_000_000).map(|n| n as i32) };
/// A duration that must be long enough to be waited for.
pub(super) const DURATION: Kind<Duration> =
    Kind { unit: "duration", secret: false, parse: |text| at_least(text, Duration::from_millis(10)) };
/// A duration that may be nothing.
pub(super) const WAIT: Kind<Duration> = Kind { unit: "duration", secret: false, parse: duration };
pub(super) const SIZE: Kind<u64> =
    Kind { unit: "size", secret: false, parse: |text| bounded_size(text, 4096, 1 << 40) };
/// Above 255 MiB Postgres refuses to store a value as jsonb.
pub(super) const PAYLOAD: Kind<u64> =
    Kind { unit: "size", secret: false, parse: |text| bounded_size(text, 2, 255 << 20) };
pub(super) const DRAIN: Kind<Drain> = Kind {
    unit: "finish or handover",
    secret: false,
    parse: |text| match text {
        "finish" => Ok(Drain::Finish),
        "handover" => Ok(Drain::Handover),
        _ => Err(format!("is {text:?}, which is no way to stop: write \"finish\" or \"handover\"")),
    },
};
pub(super) const LOG_FORMAT: Kind<LogFormat> = Kind {
    unit: "text or json",
    secret: false,
    parse: |text| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("is {text:?}, which is no log format: write \"text\" or \"json\"")),
    },
};

/// A duration such as `5s`, `500ms`, `2m` or `1h 30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let value = humantime::parse_duration(text.trim())
        .map_err(|_| format!("is {text:?}, which is no duration: write for example \"5s\", \"500ms\" or \"2m\""))?;
    if value > LONGEST {
        return Err(format!("is {text:?}, which is longer than ten years: write a shorter duration"));
    }
    Ok(value)
}

/// As [`duration`], refused below `shortest`.
pub(crate) fn at_least(text: &str, shortest: Duration) -> Result<Duration, String> {
    let value = duration(text)?;
    if value < shortest {
        let shortest = humantime::format_duration(shortest);
        return Err(format!("is {text:?}, which is too short: write at least \"{shortest}\""));
    }
    Ok(value)
}

/// A size in bytes such as `16MiB`, `512KiB`, `1GB` or `4096`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let refused = || format!("is {text:?}, which is no size: write for example \"512KiB\", \"16MiB\" or \"1GiB\"");
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(refused()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(refused)
}

/// As [`size`], refused outside of the bounds.
pub(crate) fn bounded_size(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let value = size(text)?;
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(format!("is {text:?}, which is out of bounds: write a size from {least} to {most} bytes"))
    }
}

/// A whole number within bounds.
pub(crate) fn whole(text: &str, least: i64, most: i64) -> Result<i64, String> {
    let value: i64 = text
        .trim()
        .parse()
        .map_err(|_| format!("is {text:?}, which is no whole number: write one from {least} to {most}"))?;
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(format!("is {value}, which is out of bounds: write a number from {least} to {most}"))
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(format!("is {text:?}, which is neither: write \"true\" or \"false\"")),
    }
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("is no path: write the name of a file or directory".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let named = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    named.as_deref().unwrap_or(text).parse().map_err(|_| {
        format!("is {text:?}, which is no address: write an address and a port, for example \"127.0.0.1:8080\"")
    })
}

fn name(text: &str) -> Result<String, String> {
    let plain = !text.trim().is_empty() && text.len() <= 255 && !text.chars().any(char::is_control);
    plain
        .then(|| text.to_owned())
        .ok_or_else(|| format!("is {text:?}, which is no name: write 1 to 255 bytes of printable text"))
}

fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let word = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/'))
    };
    let mut labels = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let parts = pair.split_once('=').map(|(key, value)| (key.trim(), value.trim()));
        let Some((key, value)) = parts.filter(|(key, value)| word(key) && word(value)) else {
            return Err(format!(
                "has {pair:?}, which is no label: write KEY=VALUE with letters, digits and any of \".\", \"_\", \"-\", \"/\""
            ));
        };
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(format!("names the label {key:?} twice: write it once"));
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("2m").unwrap(), Duration::from_mins(2));
        assert_eq!(duration("14d").unwrap(), Duration::from_hours(14 * 24));
        for bad in ["5", "", "five", "-1s", "1 parsec", "9999999999999999999999s", "100y"] {
            let error = duration(bad).unwrap_err();
            assert!(error.contains("write"), "{bad:?} got {error}");
        }
    }

    #[test]
    fn sizes_have_units_and_do_not_overflow() {
        assert_eq!(size("16MiB").unwrap(), 16 << 20);
        assert_eq!(size("1 kB").unwrap(), 1000);
        assert_eq!(size("4096").unwrap(), 4096);
        for bad in ["", "MiB", "1.5MiB", "-1", "1mib", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_address_has_a_port_and_no_name_but_localhost() {
        assert_eq!(address("localhost:80").unwrap(), "127.0.0.1:80".parse().unwrap());
        assert!(address("[::1]:80").is_ok() && address("0.0.0.0:80").is_ok());
        for bad in ["127.0.0.1", "127.0.0.1:99999", ":80", "example.org:80"] {
            assert!(address(bad).unwrap_err().contains("no address"), "{bad:?}");
        }
    }

    #[test]
    fn labels_are_pairs() {
        let two = labels("zone=a, disk=ssd,").unwrap();
        assert_eq!(two.get("disk").map(String::as_str), Some("ssd"));
        assert!(labels("").unwrap().is_empty());
        for bad in ["zone", "zone=", "=a", "a=b=c", "a=1,a=2"] {
            assert!(labels(bad).is_err(), "{bad:?}");
        }
    }
}
