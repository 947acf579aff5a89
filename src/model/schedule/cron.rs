//! A cron expression in a time zone.
//!
//! `croner` knows the calendar: which days, hours, minutes and seconds an expression names on a calendar without a zone.
//! What that means where clocks are put forward and back is said here, as cron has said it since Vixie's:
//!
//! - An expression that names its seconds, minutes and hours (none of them has a `*`) means a time of day. One that the
//!   clocks leave out comes at the first instant after the gap, one that they show twice at the first of the two: a
//!   nightly job runs once a night, every night.
//! - Any other means "whenever the clock shows this": not at a time that is left out, and each time at one that is shown
//!   twice. An hourly job runs every hour.

use croner::parser::CronParser;
use jiff::{
    SignedDuration, Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone},
};

use super::Fault;

/// A cron expression in a time zone.
#[derive(Debug, Clone)]
pub struct Cron {
    calendar: croner::Cron,
    zone: TimeZone,
    /// It names times of day.
    is_fixed: bool,
}

/// What a field is called, what it may say, and which words it knows.
struct Field {
    name: &'static str,
    says: &'static str,
    words: &'static [&'static str],
}

const FIELDS: [Field; 7] = [
    Field { name: "second", says: "0 to 59", words: &[] },
    Field { name: "minute", says: "0 to 59", words: &[] },
    Field { name: "hour", says: "0 to 23", words: &[] },
    Field { name: "day of month", says: "1 to 31, L, or a day with W", words: &["L", "W", "LW"] },
    Field { name: "month", says: "1 to 12 or JAN to DEC", words: &MONTHS },
    Field { name: "day of week", says: "0 to 7 or SUN to SAT, also with #1 to #5 or #L", words: &DAYS },
    Field { name: "year", says: "a year", words: &[] },
];

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 8] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "L"];

/// The years of an expression that names none: a search for a day that never comes ends there.
const YEARS: &str = "1970-2199";

const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

impl Cron {
    /// Reads an expression of five fields, six with the second before them, seven with the year behind, or a nickname.
    pub fn parse(expression: &str, zone: TimeZone) -> Result<Self, Fault> {
        let wrong = |what: String| Fault(format!("cron {expression:?}: {what}"));
        let fields: Vec<String> = fields(expression).map_err(wrong)?;
        for (field, text) in FIELDS.iter().zip(&fields) {
            field.check(text).map_err(wrong)?;
        }
        let calendar = parser(&fields.join(" ")).ok_or_else(|| wrong("it cannot be read".to_owned()))?;
        let is_fixed = fields[..3].iter().all(|field| !field.contains('*'));
        Ok(Self { calendar, zone, is_fixed })
    }

    /// The zone whose clocks it goes by.
    #[must_use]
    pub const fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The first tick behind an instant.
    pub(super) fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        if self.is_fixed { self.next_time_of_day(after) } else { self.next_showing(after) }
    }

    /// The first time of day whose instant is behind `after`. Later ones on the calendar are never earlier instants, so
    /// the first that is behind is the next; those of a repeated hour that have been are passed over.
    fn next_time_of_day(&self, after: Timestamp) -> Option<Timestamp> {
        let mut shown = self.zone.to_datetime(after);
        loop {
            shown = self.on_calendar(shown, false)?;
            let instant = self.instant_of(shown)?;
            if instant > after {
                return Some(instant);
            }
        }
    }

    /// When the clocks show this the first time, or else the end of the gap that it falls into.
    fn instant_of(&self, shown: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(shown).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(shown).ok(),
            AmbiguousOffset::Gap { before, .. } => {
                // With the offset from before the gap it is an instant behind it, and the change is the last one until then.
                let beyond = before.to_timestamp(shown).ok()?.checked_add(SignedDuration::from_nanos(1)).ok()?;
                Some(self.zone.preceding(beyond).next()?.timestamp())
            }
        }
    }

    /// The first instant behind `after` at which the clocks show what the expression names: looked for in each stretch
    /// between two changes of the clocks, where one calendar holds throughout.
    fn next_showing(&self, after: Timestamp) -> Option<Timestamp> {
        let mut from = after;
        let mut inclusive = false;
        loop {
            let offset = self.zone.to_offset(from);
            let until = self.zone.following(from).next().map(|change| change.timestamp());
            let found = offset.to_timestamp(self.on_calendar(offset.to_datetime(from), inclusive)?).ok()?;
            match until {
                Some(until) if found >= until => (from, inclusive) = (until, true),
                _ => return Some(found),
            }
        }
    }

    /// The next time that the expression names on a calendar without a zone.
    fn on_calendar(&self, from: DateTime, inclusive: bool) -> Option<DateTime> {
        // A fraction of a second is behind the whole one that it belongs to.
        let is_whole = from.subsec_nanosecond() == 0;
        let from = from.with().subsec_nanosecond(0).build().ok()?;
        self.calendar.find_next_occurrence(&from, inclusive && is_whole).ok()
    }
}

impl Field {
    fn check(&self, text: &str) -> Result<(), String> {
        let words = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
        let mut all_known = true;
        for word in words {
            all_known &= self.words.contains(&word.to_ascii_uppercase().as_str());
        }
        // The field alone, among others that name everything: what is wrong then is wrong with this one.
        let place = FIELDS.iter().position(|field| field.name == self.name).unwrap_or_default();
        let mut alone = ["*"; FIELDS.len()];
        alone[place] = text;
        let all_there = text.split(',').all(|item| !item.is_empty());
        if all_known && all_there && parser(&alone.join(" ")).is_some() {
            return Ok(());
        }
        Err(format!(
            "{} {text:?} is not {}, nor a list (,), range (-) or step (/) of those, nor *",
            self.name, self.says
        ))
    }
}

/// The seven fields of an expression.
fn fields(expression: &str) -> Result<Vec<String>, String> {
    let mut text = expression.trim();
    if text.starts_with('@') {
        let nickname = NICKNAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        let known = || NICKNAMES.map(|(name, _)| name).join(", ");
        text = nickname.ok_or_else(|| format!("of nicknames there are {}", known()))?.1;
    }
    let mut fields: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    match fields.len() {
        5 => {
            fields.insert(0, "0".to_owned());
            fields.push(YEARS.to_owned());
        }
        6 => fields.push(YEARS.to_owned()),
        7 => {}
        count => {
            return Err(format!(
                "it has {count} fields: there are 5 (minute, hour, day of month, month, day of week), 6 with the second before them, 7 with the year behind them"
            ));
        }
    }
    Ok(fields)
}

fn parser(text: &str) -> Option<croner::Cron> {
    CronParser::new().parse(text).ok()
}

#[cfg(test)]
mod tests;
