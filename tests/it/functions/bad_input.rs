//! Bad input by SQL: a sentence, an SQLSTATE, and nothing enqueued.

use tokio_postgres::Client;

use super::{id, job, live_replica, one, refused};
use crate::support::TestDb;

/// That a call is refused with this SQLSTATE and these words, and that no job came of it.
async fn nothing_comes_of(client: &Client, call: &str, code: &str, words: &str) {
    let (found, message) = refused(client, &format!("select {call}")).await;
    let shown: String = call.chars().take(200).collect();
    assert_eq!(found, code, "{shown}: {message}");
    assert!(message.contains(words), "{shown}: {message}");
    assert!(message.chars().all(|c| !c.is_control()), "{shown} is echoed raw: {message:?}");
    assert_eq!(one(client, "select count(*) from orch.jobs").await, "0", "{shown}");
}

#[tokio::test]
async fn every_bad_argument_of_enqueue_is_refused_in_words() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let long = "x".repeat(101);
    let key = "é".repeat(251);
    let cases: Vec<(String, &str, &str)> = vec![
        ("null".into(), "OR004", "agent is missing"),
        ("''".into(), "OR004", "no well-formed name"),
        ("'-rf'".into(), "OR004", "no well-formed name"),
        ("'../x'".into(), "OR004", "no well-formed name"),
        ("'a b'".into(), "OR004", "no well-formed name"),
        ("E'a\\n'".into(), "OR004", "no well-formed name"),
        ("E'a\\x1b[31m'".into(), "OR004", "no well-formed name"),
        (format!("'{long}'"), "OR004", "no well-formed name"),
        ("'a', project => 'p;drop'".into(), "OR004", "project \"p;drop\" is no well-formed name"),
        ("'a', priority => 32768".into(), "OR004", "priority 32768 is not between -32768 and 32767"),
        ("'a', priority => -32769".into(), "OR004", "priority"),
        ("'a', run_at => 'infinity'".into(), "OR004", "run_at must be finite"),
        ("'a', run_at => '-infinity'".into(), "OR004", "run_at must be finite"),
        ("'a', run_at => '20000-01-01'".into(), "OR004", "is not between 1970 and 9998"),
        ("'a', run_at => '1969-12-30'".into(), "OR004", "is not between 1970 and 9998"),
        ("'a', gate => ''".into(), "OR004", "gate must have 1 to 500 bytes"),
        (format!("'a', gate => '{key}'"), "OR004", "gate must have 1 to 500 bytes"),
        ("'a', limits => '{x}'".into(), "OR004", "limit \"x\" is unknown: there are none yet"),
        ("'a', limits => '{a b}'".into(), "OR004", "limit \"a b\" is no well-formed name"),
        ("'a', limits => '{null}'".into(), "OR004", "a limit's name is missing"),
        ("'a', limits => array['null']".into(), "OR004", "limit \"null\" is no well-formed name"),
        ("'a', limits => '{all}'".into(), "OR004", "limits must not name \"all\": every job needs it unsaid"),
        ("'a', limits => '{project:p}'".into(), "OR004", "limits must not name \"project:p\""),
        ("'a', limits => '{{x,y},{z,w}}'".into(), "OR004", "limits must be a flat array of names"),
        (
            "'a', limits => array(select 'l' || n from generate_series(1, 17) n)".into(),
            "OR004",
            "limits has 17 names: 16 are the most",
        ),
        ("'a', require => '[]'".into(), "OR004", "require must be a JSON object, not array"),
        ("'a', require => 'null'".into(), "OR004", "require must be a JSON object, not null"),
        (
            "'a', require => jsonb_build_object('x', repeat('y', 9000))".into(),
            "OR004",
            "require must have at most 8 KiB",
        ),
        ("'a', after => '{1}'".into(), "OR005", "after names job 1, and there is no such job"),
        ("'a', labels => '[]'".into(), "OR004", "labels must be a JSON object, not array"),
        ("'a', labels => 'null'".into(), "OR004", "labels must be a JSON object, not null"),
        (
            "'a', labels => jsonb_build_object('x', repeat('y', 70000))".into(),
            "OR004",
            "labels must have at most 64 KiB",
        ),
        ("'a', dedupe_key => ''".into(), "OR004", "dedupe_key must have 1 to 500 bytes"),
        (format!("'a', dedupe_key => '{key}'"), "OR004", "dedupe_key must have 1 to 500 bytes"),
        ("'a', dedupe_key => 'k', on_conflict => 'ignore'".into(), "OR004", "it is one of return, replace, refuse"),
        ("'a', on_conflict => 'return'".into(), "OR004", "on_conflict needs a dedupe_key"),
        ("'a', max_attempts => 0".into(), "OR004", "max_attempts 0 is not at least 1"),
        ("'a', timeout => '0'".into(), "OR004", "is not more than 0"),
        ("'a', timeout => '-1 s'".into(), "OR004", "is not more than 0"),
        ("'a', timeout => '101 years'".into(), "OR004", "at most 100 years"),
        ("'a', jsonb_build_object('x', repeat('y', 17000000))".into(), "OR004", "payload has more than 16 MiB"),
        ("'a', '{x}'".into(), "22P02", "invalid input syntax for type json"),
        ("'a', '\"\\u0000\"'".into(), "22P05", "unsupported Unicode escape sequence"),
        ("'a', '\"\\ud800\"'".into(), "22P02", "invalid input syntax for type json"),
        ("'a', '1e400000'".into(), "22003", "overflow"),
        ("'a', repeat('[', 100000)::jsonb".into(), "54001", "stack depth limit exceeded"),
        ("'a', run_at => 'soon'".into(), "22007", "invalid input syntax"),
        ("'a', priority => 99999999999".into(), "42883", "does not exist"),
        ("'a', nonsense => 1".into(), "42883", "does not exist"),
    ];
    for (arguments, code, words) in cases {
        nothing_comes_of(&client, &format!("orch.enqueue({arguments})"), code, words).await;
    }
    id(&client, "orch.enqueue('a')").await;
}

#[tokio::test]
async fn every_bad_element_of_enqueue_many_is_named_and_nothing_is_enqueued() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let cases = [
        ("null", "OR004", "a JSON array of objects is needed, not null"),
        ("'{}'", "OR004", "a JSON array of objects is needed, not object"),
        ("'[5]'", "OR004", "element 1: an object is needed, not number"),
        ("'[{\"agent\": \"a\"}, null]'", "OR004", "element 2: an object is needed, not null"),
        ("'[{\"agent\": \"a\"}, {}]'", "OR004", "element 2: agent is missing"),
        ("'[{\"agent\": 5}]'", "OR004", "element 1: agent must be of type string, not number"),
        ("'[{\"agent\": null}]'", "OR004", "element 1: agent must be of type string, not null"),
        (
            "'[{\"agent\": \"a\", \"agnet\": 1}]'",
            "OR004",
            "element 1: unknown key \"agnet\": the keys are agent, payload",
        ),
        ("'[{\"agent\": \"a\", \"\\u001b[1m\": 1}]'", "OR004", "element 1: unknown key \"\\u001b[1m\""),
        ("'[{\"agent\": \"a\", \"priority\": \"1\"}]'", "OR004", "priority must be of type number, not string"),
        ("'[{\"agent\": \"a\", \"priority\": 1.5}]'", "OR004", "element 1: invalid input syntax for type integer"),
        ("'[{\"agent\": \"a\", \"priority\": 40000}]'", "OR004", "element 1: priority 40000 is not between"),
        ("'[{\"agent\": \"a\", \"priority\": 1e99}]'", "OR004", "element 1: "),
        (
            "'[{\"agent\": \"a\"}, {\"agent\": \"a\", \"run_at\": \"soon\"}]'",
            "OR004",
            "element 2: invalid input syntax",
        ),
        ("'[{\"agent\": \"a\", \"run_at\": \"infinity\"}]'", "OR004", "element 1: run_at must be finite"),
        ("'[{\"agent\": \"a\", \"timeout\": \"long\"}]'", "OR004", "element 1: invalid input syntax for type interval"),
        ("'[{\"agent\": \"a\", \"timeout\": \"0s\"}]'", "OR004", "element 1: timeout 00:00:00 is not more than 0"),
        ("'[{\"agent\": \"a\", \"labels\": []}]'", "OR004", "labels must be of type object, not array"),
        ("'[{\"agent\": \"a\", \"limits\": [\"x\"]}]'", "OR004", "element 1: limit \"x\" is unknown"),
        ("'[{\"agent\": \"a\", \"limits\": \"x\"}]'", "OR004", "element 1: limits must be of type array, not string"),
        ("'[{\"agent\": \"a\", \"limits\": [null]}]'", "OR004", "element 1: a limit's name is missing"),
        ("'[{\"agent\": \"a\", \"require\": []}]'", "OR004", "element 1: require must be of type object, not array"),
        ("'[{\"agent\": \"a\", \"after\": [1]}]'", "OR005", "element 1: after names job 1, and there is no"),
        ("'[{\"agent\": \"a\", \"on_conflict\": \"return\"}]'", "OR004", "element 1: on_conflict needs a dedupe_key"),
        (
            "'[{\"agent\": \"a\"}, {\"agent\": \"a\", \"dedupe_key\": \"k\"},
               {\"agent\": \"a\", \"dedupe_key\": \"k\", \"on_conflict\": \"refuse\"}]'",
            "OR002",
            "element 3: dedupe_key \"k\" is taken",
        ),
    ];
    for (wishes, code, words) in cases {
        nothing_comes_of(&client, &format!("* from orch.enqueue_many({wishes})"), code, words).await;
    }
}

#[tokio::test]
async fn text_that_is_no_utf8_is_refused_by_the_server() {
    let db = TestDb::new().await;
    let client = db.client().await;
    for (bytes, code) in [("ff", "22021"), ("00", "22021"), ("eda080", "22021")] {
        let call = format!("orch.enqueue(convert_from('\\x{bytes}', 'UTF8'))");
        nothing_comes_of(&client, &call, code, "invalid byte sequence").await;
    }
}

#[tokio::test]
async fn an_operators_act_on_no_job_says_so() {
    let db = TestDb::new().await;
    let client = db.client().await;
    for act in ["cancel", "retry", "hold", "release"] {
        for (which, says) in
            [("7", "there is no job 7"), ("null", "there is no job null"), ("-1", "there is no job -1")]
        {
            let (code, message) = refused(&client, &format!("select orch.{act}({which})")).await;
            assert_eq!((code.as_str(), message.as_str()), ("OR005", says), "{act}({which})");
        }
    }
    assert_eq!(one(&client, "select count(*) from orch.events").await, "0");
}

#[tokio::test]
async fn a_plain_insert_of_nonsense_meets_a_named_constraint() {
    let db = TestDb::new().await;
    let client = db.client().await;
    for (columns, values, constraint) in [
        ("agent, status", "'a', 'scheduled'", "status_is_known"),
        ("agent", "'a/b'", "agent_is_well_formed"),
        ("agent, project", "'a', ''", "project_is_well_formed"),
        ("agent, run_at", "'a', 'infinity'", "times_are_finite"),
        ("agent, created_at", "'a', '-infinity'", "times_are_finite"),
        ("agent, gate", "'a', ''", "gate_is_short"),
        ("agent, dedupe_key", "'a', ''", "dedupe_key_is_short"),
        ("agent, limits", "'a', '{}'", "limits_are_well_formed"),
        ("agent, limits", "'a', '{a b}'", "limits_are_well_formed"),
        ("agent, limits", "'a', '{x,null}'", "limits_are_well_formed"),
        ("agent, limits", "'a', '{{x}}'", "limits_are_well_formed"),
        ("agent, limits", "'a', '{x,all}'", "limits_are_well_formed"),
        ("agent, limits", "'a', '{agent:b,x}'", "limits_are_well_formed"),
        ("agent, require", "'a', '[]'", "require_is_an_object"),
        ("agent, labels", "'a', '1'", "labels_are_an_object"),
        ("agent, attempt", "'a', -1", "counts_are_not_negative"),
        ("agent, max_attempts", "'a', 0", "max_attempts_is_positive"),
        ("agent, timeout", "'a', '0'", "timeout_is_positive_and_finite"),
    ] {
        let (code, message) = refused(&client, &format!("insert into orch.jobs ({columns}) values ({values})")).await;
        assert_eq!((code.as_str(), message.contains(constraint)), ("23514", true), "{columns}: {message}");
    }
    assert_eq!(refused(&client, "insert into orch.jobs (agent, priority) values ('a', 40000)").await.0, "22003");
    assert_eq!(refused(&client, "insert into orch.jobs (id, agent) values (1, 'a')").await.0, "428C9");
}

#[tokio::test]
async fn an_update_to_nonsense_meets_a_named_constraint() {
    let db = TestDb::new().await;
    let client = db.client().await;
    live_replica(&client).await;
    job(&client, "running").await;
    for (set, constraint) in [
        ("failures = -1", "counts_are_not_negative"),
        ("lost_count = -1", "counts_are_not_negative"),
        ("transient_count = -1", "counts_are_not_negative"),
        ("interrupted_count = -1", "counts_are_not_negative"),
        ("run_at = 'infinity'", "times_are_finite"),
        ("created_at = '1969-12-31 00:00+00'", "times_are_finite"),
        ("started_at = '9999-01-01 00:00+00'", "times_are_finite"),
        ("cancel_requested_at = '-infinity'", "times_are_finite"),
        ("project = 'a b'", "project_is_well_formed"),
    ] {
        let (code, message) = refused(&client, &format!("update orch.jobs set {set}")).await;
        assert_eq!((code.as_str(), message.contains(constraint)), ("23514", true), "{set}: {message}");
    }
    for (set, constraint) in
        [("finished_at = 'infinity'", "times_are_finite"), ("failed_at = 'infinity'", "times_are_finite")]
    {
        let failed =
            format!("insert into orch.jobs (agent, status) values ('a', 'failed'); update orch.jobs set {set}");
        let (code, message) = refused(&client, &format!("{failed} where status = 'failed'")).await;
        assert_eq!((code.as_str(), message.contains(constraint)), ("23514", true), "{set}: {message}");
    }
    for (set, constraint) in [
        ("attempt = 0", "run_attempt_is_positive"),
        ("rules = '[]'", "run_rules_are_an_object"),
        ("containment = 'jail'", "run_containment_is_known"),
        ("ended_at = now(), outcome = 'well', closed_by = 'owner'", "run_outcome_is_known"),
        ("ended_at = now(), outcome = 'failed', closed_by = 'nobody'", "run_closed_by_is_known"),
    ] {
        for way in [
            format!("update orch.agent_runs set {set}"),
            format!("set session_replication_role = replica; update orch.agent_runs set {set}"),
        ] {
            let (code, message) = refused(&client, &way).await;
            assert_eq!((code.as_str(), message.contains(constraint)), ("23514", true), "{way}: {message}");
        }
    }
    let run = "insert into orch.agent_runs (run_id, job_id, attempt, replica_id, rules) values (gen_random_uuid(), 9, 1, gen_random_uuid(), '5')";
    assert!(refused(&client, run).await.1.contains("run_rules_are_an_object"));
    assert_eq!(one(&client, "select count(*) from orch.jobs where status = 'running' and failures = 0").await, "1");
}
