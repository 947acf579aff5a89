use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::model::schedule::zone;

fn cron(expression: &str, zone: &str) -> Cron {
    Cron::parse(expression, zone::find(zone).unwrap()).unwrap()
}

/// The ticks between two instants, as the clocks of the zone show them.
fn shown(expression: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
    let cron = cron(expression, zone);
    let (from, to): (Timestamp, Timestamp) = (from.parse().unwrap(), to.parse().unwrap());
    std::iter::successors(cron.next_after(from), |tick| cron.next_after(*tick))
        .take_while(|tick| *tick <= to)
        .map(|tick| tick.to_zoned(cron.zone.clone()).strftime("%a %d %H:%M:%S %Z").to_string())
        .collect()
}

// Berlin: 2027-03-28 02:00 CET becomes 03:00 CEST, 2026-10-25 03:00 CEST becomes 02:00 CET. New York: 2027-03-14 02:00 EST
// becomes 03:00 EDT, 2026-11-01 02:00 EDT becomes 01:00 EST.
const BERLIN_FORWARD: (&str, &str) = ("2027-03-27T12:00:00Z", "2027-03-29T12:00:00Z");
const BERLIN_BACK: (&str, &str) = ("2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
const NEW_YORK_FORWARD: (&str, &str) = ("2027-03-13T12:00:00Z", "2027-03-15T12:00:00Z");
const NEW_YORK_BACK: (&str, &str) = ("2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z");

#[test]
fn a_nightly_job_runs_once_on_the_night_that_has_no_such_time() {
    let (from, to) = BERLIN_FORWARD;
    let berlin = shown("30 2 * * *", "Europe/Berlin", from, to);
    assert_eq!(berlin, ["Sun 28 03:00:00 CEST", "Mon 29 02:30:00 CEST"], "at the end of the gap");
    let (from, to) = NEW_YORK_FORWARD;
    let new_york = shown("30 2 * * *", "America/New_York", from, to);
    assert_eq!(new_york, ["Sun 14 03:00:00 EDT", "Mon 15 02:30:00 EDT"]);
    // Two times of one gap come at its end, once; so does one that coincides with it.
    let (from, to) = BERLIN_FORWARD;
    let times = shown("0,30 2,3 28 3 *", "Europe/Berlin", from, to);
    assert_eq!(times, ["Sun 28 03:00:00 CEST", "Sun 28 03:30:00 CEST"]);
}

#[test]
fn a_nightly_job_runs_once_on_the_night_that_has_its_time_twice() {
    let (from, to) = BERLIN_BACK;
    let berlin = shown("30 2 * * *", "Europe/Berlin", from, to);
    assert_eq!(berlin, ["Sun 25 02:30:00 CEST", "Mon 26 02:30:00 CET"], "the first of the two");
    let (from, to) = NEW_YORK_BACK;
    let new_york = shown("30 1 * * *", "America/New_York", from, to);
    assert_eq!(new_york, ["Sun 01 01:30:00 EDT", "Mon 02 01:30:00 EST"]);
    let new_york = shown("30 2 * * *", "America/New_York", from, to);
    assert_eq!(new_york, ["Sun 01 02:30:00 EST", "Mon 02 02:30:00 EST"], "there it is 01:30 that comes twice");
    let (from, to) = BERLIN_BACK;
    let several = shown("0,30 2,14 25 10 *", "Europe/Berlin", from, to);
    assert_eq!(several, ["Sun 25 02:00:00 CEST", "Sun 25 02:30:00 CEST", "Sun 25 14:00:00 CET", "Sun 25 14:30:00 CET"]);
}

#[test]
fn what_runs_every_hour_or_half_hour_goes_by_what_the_clock_shows() {
    let night = shown("0 * * * *", "Europe/Berlin", "2027-03-27T23:30:00Z", "2027-03-28T02:30:00Z");
    assert_eq!(night, ["Sun 28 01:00:00 CET", "Sun 28 03:00:00 CEST", "Sun 28 04:00:00 CEST"]);
    let night = shown("*/30 2 * * *", "Europe/Berlin", "2027-03-27T23:30:00Z", "2027-03-28T12:30:00Z");
    assert_eq!(night, Vec::<String>::new(), "no clock showed two");
    let night = shown("*/30 2 * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", "2026-10-25T12:30:00Z");
    let twice = ["Sun 25 02:00:00 CEST", "Sun 25 02:30:00 CEST", "Sun 25 02:00:00 CET", "Sun 25 02:30:00 CET"];
    assert_eq!(night, twice);
    let night = shown("0 * * * *", "America/New_York", "2026-11-01T04:30:00Z", "2026-11-01T07:30:00Z");
    assert_eq!(night, ["Sun 01 01:00:00 EDT", "Sun 01 01:00:00 EST", "Sun 01 02:00:00 EST"]);
    // Half an hour, and a whole day that there never was.
    let lord_howe = shown("*/15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z", "2026-10-03T18:00:00Z");
    assert_eq!(lord_howe, ["Sun 04 02:30:00 +11", "Sun 04 02:45:00 +11"]);
    let apia = shown("30 2 30 12 *", "Pacific/Apia", "2011-12-29T12:00:00Z", "2011-12-31T12:00:00Z");
    assert_eq!(apia, ["Sat 31 00:00:00 +14"]);
}

#[test]
fn the_calendar_of_an_expression_is_the_usual_one() {
    for (expression, expected) in [
        ("0 9 * * MON-FRI", "2026-01-01 09:00:00"),
        ("0 9 L * *", "2026-01-31 09:00:00"),
        ("0 9 * * 5#L", "2026-01-30 09:00:00"),
        ("0 9 * * TUE#2", "2026-01-13 09:00:00"),
        ("0 9 17W * *", "2026-01-16 09:00:00"),
        ("0 9 13 * FRI", "2026-01-02 09:00:00"),
        ("0 9 13 * +FRI", "2026-02-13 09:00:00"),
        ("15 30 9 29 2 *", "2028-02-29 09:30:15"),
        ("0 0 9 1 1 * 2030", "2030-01-01 09:00:00"),
        ("@weekly", "2026-01-04 00:00:00"),
        (" @Yearly ", "2027-01-01 00:00:00"),
        ("0 0 * * 7", "2026-01-04 00:00:00"),
    ] {
        let next = cron(expression, "UTC").next_after("2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(next.strftime("%Y-%m-%d %H:%M:%S").to_string(), expected, "{expression}");
    }
}

#[test]
fn what_never_comes_is_found_out_soon() {
    for expression in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 0 1 1 * 2020"] {
        let began = std::time::Instant::now();
        assert_eq!(cron(expression, "Europe/Berlin").next_after("2026-01-01T00:00:00Z".parse().unwrap()), None);
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "{expression}: {:?}", began.elapsed());
    }
}

#[test]
fn what_is_wrong_with_an_expression_names_the_field() {
    for (expression, part) in [
        ("60 * * * *", "minute \"60\" is not 0 to 59"),
        ("* 24 * * *", "hour \"24\""),
        ("* * 0 * *", "day of month \"0\""),
        ("* * 32 * *", "day of month \"32\""),
        ("* * * 13 *", "month \"13\""),
        ("* * * * 8", "day of week \"8\""),
        ("* * * * MONDAY", "day of week \"MONDAY\""),
        ("MON * * * *", "minute \"MON\""),
        ("* * * JAN-FOO *", "month \"JAN-FOO\""),
        ("* * * * FRI#6", "day of week \"FRI#6\""),
        ("*/0 * * * *", "minute \"*/0\""),
        ("5- * * * *", "minute \"5-\""),
        ("5,,6 * * * *", "minute \"5,,6\""),
        ("30-10 * * * *", "minute \"30-10\""),
        ("-1 * * * *", "minute \"-1\""),
        ("1;2 * * * *", "minute \"1;2\""),
        ("61 0 9 * * *", "second \"61\""),
        ("0 0 9 * * * 10000", "year \"10000\""),
        ("* * * *", "it has 4 fields"),
        ("", "it has 0 fields"),
        ("1 2 3 4 5 6 7 8", "it has 8 fields"),
        ("@reboot", "there are @yearly"),
        ("* * * * \u{1f600}", "day of week"),
    ] {
        let fault = Cron::parse(expression, jiff::tz::TimeZone::UTC).unwrap_err().to_string();
        assert!(fault.contains(part), "{expression}: {fault}");
        assert!(fault.starts_with(&format!("cron {expression:?}: ")), "{fault}");
    }
}

/// Expressions of both kinds, times near and far.
fn expressions() -> impl Strategy<Value = String> {
    let field = |most: u32| {
        prop_oneof![
            Just("*".to_owned()),
            (0..=most).prop_map(|n| n.to_string()),
            (0..=most, 0..=most).prop_map(|(a, b)| format!("{},{}", a.min(b), a.max(b))),
            (2..=most).prop_map(|n| format!("*/{n}")),
        ]
    };
    (prop_oneof![Just("0".to_owned()), Just("30".to_owned())], field(59), prop_oneof![field(23), field(3)])
        .prop_map(|(second, minute, hour)| format!("{second} {minute} {hour} * * *"))
}

/// Some instant within two days of a change of the clocks.
fn instants() -> impl Strategy<Value = Timestamp> {
    let changes = ["2027-03-28T01:00:00Z", "2026-10-25T01:00:00Z", "2027-03-14T07:00:00Z", "2026-11-01T06:00:00Z"];
    (0..changes.len(), -172_800_i64..172_800, 0_i64..1_000_000).prop_map(move |(change, seconds, micros)| {
        let change: Timestamp = changes[change].parse().unwrap();
        change + SignedDuration::from_secs(seconds) + SignedDuration::from_micros(micros)
    })
}

proptest! {
    /// Wherever one begins to look, one is on the same sequence: what a replica finds tick by tick is what another finds
    /// over the whole range.
    #[test]
    fn ticks_one_by_one_are_those_of_the_whole_range(
        expression in expressions(), from in instants(), later in 0_i64..90_000,
        zone in prop_oneof![Just("Europe/Berlin"), Just("America/New_York"), Just("Australia/Lord_Howe"), Just("UTC")],
    ) {
        let cron = cron(&expression, zone);
        let later = from + SignedDuration::from_secs(later);
        let whole: Vec<Timestamp> =
            std::iter::successors(cron.next_after(from), |tick| cron.next_after(*tick)).take(2000).collect();
        prop_assert!(whole.is_sorted_by(|one, other| one < other) && whole.first().is_none_or(|tick| *tick > from));
        if whole.last().is_some_and(|last| *last > later) {
            prop_assert_eq!(cron.next_after(later), whole.iter().copied().find(|tick| *tick > later));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// By the definition, second by second, on the clocks of a night.
    #[test]
    fn ticks_are_the_seconds_that_the_definition_names(
        expression in expressions(), change in 0_usize..4, zone in prop_oneof![Just("Europe/Berlin"), Just("America/New_York")],
    ) {
        let changes =
            ["2027-03-28T01:00:00Z", "2026-10-25T01:00:00Z", "2027-03-14T07:00:00Z", "2026-11-01T06:00:00Z"];
        let middle: Timestamp = changes[change].parse().unwrap();
        let cron = cron(&expression, zone);
        let (from, to) = (middle - SignedDuration::from_hours(5), middle + SignedDuration::from_hours(5));
        let found: Vec<Timestamp> =
            std::iter::successors(cron.next_after(from), |tick| cron.next_after(*tick)).take_while(|tick| *tick <= to).collect();
        let mut expected = Vec::new();
        let mut tick = from + SignedDuration::from_secs(1);
        let mut before = cron.zone.to_datetime(from);
        while tick <= to {
            let now = cron.zone.to_datetime(tick);
            let names = |shown: &DateTime| cron.calendar.is_time_matching(shown).unwrap();
            let again = match cron.zone.to_ambiguous_timestamp(now).offset() {
                AmbiguousOffset::Fold { after, .. } => after.to_timestamp(now).unwrap() == tick,
                _ => false,
            };
            // The seconds that no clock showed between the last and this one.
            let left_out = (1..before.duration_until(now).as_secs())
                .map(|n| before + SignedDuration::from_secs(n))
                .any(|shown| names(&shown));
            let fires = if cron.is_fixed { (names(&now) && !again) || left_out } else { names(&now) };
            if fires {
                expected.push(tick);
            }
            before = now;
            tick += SignedDuration::from_secs(1);
        }
        prop_assert_eq!(found, expected);
    }
}
