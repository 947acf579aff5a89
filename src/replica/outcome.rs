//! From a shim's facts to the outcome of a run. Pure.

use std::time::Duration;

use serde::Deserialize;

use super::launch::process;
use crate::{
    db::{
        jobs::When,
        runs::{Closing, Ending, Usage},
    },
    model::{ClosedBy, Outcome},
    shim::protocol::{Cause, Exit, Reason, ResultFile},
};

/// `EX_TEMPFAIL` of sysexits.h: the command asks to be run again later.
const TRANSIENT_CODE: i32 = 75;

/// What the database's clock can add: a century.
const LONGEST_WAIT: Duration = Duration::from_hours(100 * 366 * 24);
/// As `orch.enqueue` has it: the end of 9998.
const LATEST: jiff::Timestamp = jiff::Timestamp::constant(253_370_678_400, 0);

/// The known keys of a result; others are kept and mean nothing to orch.
#[derive(Debug, Default, Deserialize)]
struct Answer {
    #[expect(dead_code, reason = "read so that a wrong type is refused; stages will branch on it")]
    verdict: Option<String>,
    retry_after: Option<String>,
    close_limit: Option<CloseLimit>,
}

/// What `close_limit` of a result says.
#[derive(Debug, Deserialize)]
struct CloseLimit {
    name: String,
    until: String,
    reason: Option<String>,
}

impl CloseLimit {
    fn read(self) -> Result<Closing, String> {
        let until = when("close_limit.until", &self.until)?;
        Ok(Closing { limit: self.name, until, reason: self.reason })
    }
}

/// Judges a run by its shim's facts. `lasted` is its length, where this process saw it begin.
#[must_use]
pub(super) fn judge(exit: &Exit, success_codes: &[i32], closed_by: ClosedBy, lasted: Option<Duration>) -> Ending {
    let mut ending = Ending {
        outcome: Outcome::Interrupted,
        closed_by,
        exit_code: exit.exit_code,
        signal: exit.signal,
        error: None,
        result: None,
        retry_at: None,
        close_limit: None,
        process: exit.started.as_ref().map(process),
        lasted,
        usage: exit.started.is_some().then_some(Usage {
            user_cpu: exit.user_cpu_seconds,
            system_cpu: exit.system_cpu_seconds,
            peak_memory: clamp(exit.peak_memory_bytes),
            log_kept: clamp(exit.log_bytes_kept),
            log_dropped: clamp(exit.log_bytes_dropped),
            processes_killed: i32::try_from(exit.processes_killed).unwrap_or(i32::MAX),
        }),
    };
    if let Some(failure) = &exit.never_started {
        ending.outcome = if failure.temporary { Outcome::Interrupted } else { Outcome::SpawnFailed };
        ending.error = Some(failure.message.clone());
        return ending;
    }
    if exit.voided || exit.started.is_none() {
        ending.error = Some("the run was given up before it started".to_owned());
        return ending;
    }
    match exit.cause {
        Cause::Terminated(Reason::Cancel) => {
            ending.outcome = Outcome::Cancelled;
            ending.error = Some("cancelled while it ran".to_owned());
        }
        Cause::Terminated(Reason::Stop) => ending.error = Some("interrupted: its replica stopped".to_owned()),
        Cause::Terminated(Reason::GivenUp) => {
            ending.error = Some("ended: the database no longer granted it to its replica".to_owned());
        }
        Cause::TimedOut => {
            ending.outcome = Outcome::TimedOut;
            ending.error = Some("ended: it outlived its timeout".to_owned());
        }
        Cause::Silent => {
            ending.outcome = Outcome::TimedOut;
            let silence = exit.silence_timeout_ms.map_or_else(
                || "as long as its agent allows".to_owned(),
                |ms| humantime::format_duration(Duration::from_millis(ms)).to_string(),
            );
            ending.error = Some(format!("ended: it wrote nothing for {silence} (silence_timeout)"));
        }
        Cause::Fenced => {
            ending.error = Some("fenced: its replica's lease was about to run out and had not been renewed".to_owned());
        }
        Cause::Exited => by_exit(exit, success_codes, &mut ending),
    }
    ending
}

fn by_exit(exit: &Exit, success_codes: &[i32], ending: &mut Ending) {
    let said = match &exit.result {
        None => Ok((None, Answer::default())),
        Some(ResultFile::Error(message)) => Err(message.clone()),
        Some(ResultFile::Text(text)) => read_answer(text).map(|answer| (Some(text.clone()), answer)),
    };
    let success = exit.exit_code.is_some_and(|code| success_codes.contains(&code));
    let (result, answer) = match said {
        Ok(said) => said,
        Err(message) => {
            ending.outcome = Outcome::Failed;
            let complaint = format!("the result file cannot be read: {message}");
            ending.error = Some(if success { complaint } else { format!("{}; {complaint}", how_it_exited(exit)) });
            return;
        }
    };
    ending.result = result;
    let retry_at = answer.retry_after.as_deref().map(|text| when("retry_after", text)).transpose();
    let close_limit = answer.close_limit.map(CloseLimit::read).transpose();
    let (retry_at, close_limit) = match (retry_at, close_limit) {
        (Ok(retry_at), Ok(close_limit)) => (retry_at, close_limit),
        (Err(message), _) | (_, Err(message)) => {
            ending.outcome = Outcome::Failed;
            ending.error = Some(message);
            return;
        }
    };
    // Whoever finds its limit used up and fails has not failed: it waits for the limit.
    let waits_for = close_limit.as_ref().filter(|_| !success).map(|close| close.until);
    ending.close_limit = close_limit;
    ending.retry_at = retry_at.or(waits_for);
    if ending.retry_at.is_some() || (exit.exit_code == Some(TRANSIENT_CODE) && !success) {
        ending.outcome = Outcome::Transient;
        ending.error = Some(match &ending.close_limit {
            Some(close) => {
                format!("asked to close the limit {:?} and to run again then ({})", close.limit, how_it_exited(exit))
            }
            None => format!("asked to be run again later ({})", how_it_exited(exit)),
        });
    } else if success {
        ending.outcome = Outcome::Succeeded;
    } else {
        ending.outcome = Outcome::Failed;
        ending.error = Some(how_it_exited(exit));
    }
}

fn read_answer(text: &str) -> Result<Answer, String> {
    // An object first, so that the error for a bare number says what was expected.
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))?;
    Answer::deserialize(serde_json::Value::Object(object)).map_err(|error| error.to_string())
}

/// `"5m"` from when it is settled, by the database's clock (this machine's may be wrong), or RFC 3339. A time in the past
/// means at once.
fn when(key: &str, text: &str) -> Result<When, String> {
    if let Ok(wait) = humantime::parse_duration(text) {
        return if wait <= LONGEST_WAIT {
            Ok(When::In(wait))
        } else {
            Err(format!("the result's {key} {text:?} is too far in the future"))
        };
    }
    let at: jiff::Timestamp = text.parse().map_err(|_| {
        format!(
            "the result's {key} {text:?} is neither a duration like \"5m\" nor a time like \"2030-01-31T12:00:00Z\""
        )
    })?;
    if at > LATEST {
        return Err(format!("the result's {key} {text:?} is too far in the future"));
    }
    // The database knows no times as early as some that can be written.
    Ok(When::At(at.max(jiff::Timestamp::UNIX_EPOCH)))
}

fn how_it_exited(exit: &Exit) -> String {
    let how = match (exit.exit_code, exit.signal) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("ended by signal {}", signal_name(signal)),
        (None, None) => "ended in an unknown way".to_owned(),
    };
    if exit.oom_killed == Some(true) { format!("{how}, out of memory") } else { how }
}

fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal).map_or_else(|_| signal.to_string(), |name| format!("{signal} ({name})"))
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Containment, RunId},
        shim::protocol::{SpawnError, Started},
    };

    fn exited(code: i32) -> Exit {
        let mut exit = Exit::new(RunId::new());
        exit.started = Some(Started { pid: 7, pid_started: 1, containment: Containment::Sweep, remarks: Vec::new() });
        exit.exit_code = Some(code);
        exit
    }

    fn judged(exit: &Exit) -> Ending {
        judge(exit, &[0, 3], ClosedBy::Owner, None)
    }

    fn with_result(code: i32, text: &str) -> Ending {
        let mut exit = exited(code);
        exit.result = Some(ResultFile::Text(text.to_owned()));
        judged(&exit)
    }

    #[test]
    fn exit_statuses_are_judged_by_the_agents_success_codes() {
        assert_eq!(judged(&exited(0)).outcome, Outcome::Succeeded);
        assert_eq!(judged(&exited(3)).outcome, Outcome::Succeeded);
        assert_eq!(judged(&exited(1)).outcome, Outcome::Failed);
        assert_eq!(judged(&exited(75)).outcome, Outcome::Transient);
        assert_eq!(judge(&exited(75), &[75], ClosedBy::Owner, None).outcome, Outcome::Succeeded);
    }

    #[test]
    fn a_signal_that_orch_did_not_send_is_a_failure_that_names_it() {
        let mut exit = exited(0);
        (exit.exit_code, exit.signal) = (None, Some(11));
        let ending = judged(&exit);
        assert_eq!(ending.outcome, Outcome::Failed);
        assert_eq!(ending.error.unwrap(), "ended by signal 11 (SIGSEGV)");
    }

    #[test]
    fn a_silence_is_told_with_what_was_allowed() {
        let mut exit = exited(0);
        (exit.cause, exit.silence_timeout_ms) = (Cause::Silent, Some(90_000));
        assert_eq!(judged(&exit).error.unwrap(), "ended: it wrote nothing for 1m 30s (silence_timeout)");
    }

    #[test]
    fn what_orch_ended_never_counts_as_success_even_if_it_exits_with_0() {
        for (cause, outcome) in [
            (Cause::TimedOut, Outcome::TimedOut),
            (Cause::Silent, Outcome::TimedOut),
            (Cause::Fenced, Outcome::Interrupted),
            (Cause::Terminated(Reason::Cancel), Outcome::Cancelled),
            (Cause::Terminated(Reason::Stop), Outcome::Interrupted),
            (Cause::Terminated(Reason::GivenUp), Outcome::Interrupted),
        ] {
            let mut exit = exited(0);
            exit.cause = cause;
            assert_eq!(judged(&exit).outcome, outcome, "{cause:?}");
        }
    }

    #[test]
    fn a_program_that_cannot_start_fails_at_once_unless_it_may_heal() {
        for (temporary, outcome) in [(true, Outcome::Interrupted), (false, Outcome::SpawnFailed)] {
            let mut exit = Exit::new(RunId::new());
            exit.never_started = Some(SpawnError { temporary, message: "why".into() });
            assert_eq!(judged(&exit).outcome, outcome);
        }
    }

    #[test]
    fn a_malformed_result_fails_the_run_and_quotes_the_parser() {
        for text in ["{", "[1]", "7", r#"{"verdict": 1}"#, r#"{"retry_after": "soon"}"#, &"[".repeat(100_000)] {
            let ending = with_result(0, text);
            assert_eq!(ending.outcome, Outcome::Failed, "{text:.20}");
            assert!(ending.error.is_some());
        }
    }

    #[test]
    fn a_result_is_kept_whole_also_where_orch_knows_no_such_key() {
        let text = r#"{"verdict": "ok", "data": [1], "more": {"x": 1}}"#;
        let ending = with_result(0, text);
        assert_eq!((ending.outcome, ending.result.as_deref()), (Outcome::Succeeded, Some(text)));
    }

    #[test]
    fn retry_after_makes_a_run_transient_whatever_its_status() {
        for code in [0, 1] {
            let ending = with_result(code, r#"{"retry_after": "5m"}"#);
            assert_eq!(ending.outcome, Outcome::Transient);
            assert_eq!(ending.retry_at, Some(When::In(Duration::from_mins(5))), "no clock of this machine");
        }
        let ending = with_result(1, r#"{"retry_after": "2030-01-31T12:00:00Z"}"#);
        assert_eq!(ending.retry_at, Some(When::At("2030-01-31T12:00:00Z".parse().unwrap())));
        let ending = with_result(1, r#"{"retry_after": "101years"}"#);
        assert_eq!((ending.outcome, ending.retry_at), (Outcome::Failed, None));
    }

    #[test]
    fn a_run_that_closes_a_limit_and_fails_waits_for_it_and_one_that_succeeds_has_succeeded() {
        let text = r#"{"close_limit": {"name": "api", "until": "5m", "reason": "429"}}"#;
        let five = When::In(Duration::from_mins(5));
        let closing = Closing { limit: "api".into(), until: five, reason: Some("429".into()) };
        let (failed, succeeded) = (with_result(1, text), with_result(0, text));
        assert_eq!((failed.outcome, failed.retry_at), (Outcome::Transient, Some(five)));
        assert_eq!((succeeded.outcome, succeeded.retry_at), (Outcome::Succeeded, None));
        assert_eq!((failed.close_limit, succeeded.close_limit), (Some(closing.clone()), Some(closing)));
        let sooner = with_result(1, r#"{"retry_after": "1m", "close_limit": {"name": "api", "until": "5m"}}"#);
        assert_eq!(sooner.retry_at, Some(When::In(Duration::from_mins(1))), "as it says itself");
    }

    #[test]
    fn a_malformed_close_limit_fails_the_run_and_closes_nothing() {
        for (close, says) in [
            (r#""api""#, "invalid type"),
            (r#"{"name": "api"}"#, "missing field `until`"),
            (r#"{"until": "5m"}"#, "missing field `name`"),
            (r#"{"name": "api", "until": "soon"}"#, "close_limit.until \"soon\" is neither"),
            (r#"{"name": "api", "until": "101years"}"#, "too far in the future"),
            (r#"{"name": 1, "until": "5m"}"#, "invalid type"),
        ] {
            let ending = with_result(0, &format!(r#"{{"close_limit": {close}}}"#));
            assert_eq!((ending.outcome, ending.close_limit), (Outcome::Failed, None), "{close}");
            let error = ending.error.unwrap();
            assert!(error.contains(says), "{close}: {error}");
        }
    }

    #[test]
    fn a_time_is_one_that_the_database_knows() {
        assert_eq!(when("retry_after", "-009000-01-01T00:00:00Z"), Ok(When::At(jiff::Timestamp::UNIX_EPOCH)));
        assert!(when("retry_after", "9999-06-01T00:00:00Z").unwrap_err().contains("too far in the future"));
        let latest = "9998-12-31T00:00:00Z";
        assert_eq!(when("retry_after", latest), Ok(When::At(latest.parse().unwrap())));
    }
}
