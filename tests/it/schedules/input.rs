//! What people say to schedules: SQL, the command line, HTTP; what is refused, and in which words.

use std::time::Duration;

use jiff::Timestamp;
use orch::model::schedule::Rhythm;
use serde_json::json;

use super::{due_for, of_s, tick, with_schedule};
use crate::{
    replica::place,
    support::{Orch, TestDb, eventually_within, http_request},
};

#[tokio::test]
async fn sql_refuses_what_is_no_schedule_in_words() {
    let test = TestDb::new().await;
    let client = test.client().await;
    for (columns, values, words) in [
        ("cron", "'* * * *'", "has 4 fields: there are 5 (minute, hour, day of month, month, day of week)"),
        ("cron", "''", "has 0 fields"),
        ("cron", "'* * * * FOO'", "day of week \"FOO\" is not one"),
        ("cron", "'* MON * * *'", "hour \"MON\" is not one"),
        ("cron", "'@foo'", "of nicknames there are @yearly, @annually, @monthly"),
        ("cron", "'* * * * FRI-MON'", "day of week \"FRI-MON\" is not one: it says 0 to 7 or SUN to SAT"),
        ("cron", "'* * * * MON#6'", "day of week \"MON#6\" is not one"),
        ("cron", "'* * * * L'", "day of week \"L\" is not one"),
        ("cron", "'* * * * +'", "day of week \"+\" is not one"),
        ("cron", "'* * 99W * *'", "day of month \"99W\" is not one: it says 1 to 31, L, or a day with W"),
        ("cron", "'* * * DEC-JAN *'", "month \"DEC-JAN\" is not one: it says 1 to 12 or JAN to DEC"),
        ("cron", "'5/10 * * * *'", "minute \"5/10\" is not one"),
        ("cron", "'*,5 * * * *'", "minute \"*,5\" is not one"),
        ("cron", "'* * * * * * 9999'", "year \"9999\" is not one: it says 1 to 5000"),
        ("cron", "'* * * * * * 2020'", "it never ticks: its years are past"),
        ("cron", "'0 0 0 1 1 * 1999-2020/3,2022'", "it never ticks: its years are past"),
        ("cron", "'0 0 0 29 2 ? 2101-2103'", "it never ticks: there is no such day, or it is past"),
        ("cron", "'0 0 31W 2 *'", "it never ticks: there is no such day"),
        ("cron", "'0 0 30 2 +MON'", "it never ticks: there is no such day"),
        ("cron", "'x 0 9 * * *'", "second \"x\" is not one"),
        ("cron", "'61 * * * *'", "minute \"61\" is not one: it says 0 to 59"),
        ("cron", "'5-3 * * * *'", "minute \"5-3\" is not one"),
        ("cron", "'*/0 * * * *'", "minute \"*/0\" is not one"),
        ("cron", "'0 0,24 * * *'", "hour \"0,24\" is not one"),
        ("cron", "'0 0 0 0 * *'", "day of month \"0\" is not one"),
        ("cron", "'0 0 30 2 *'", "it never ticks: there is no such day"),
        ("cron", "'0 0 30,31 feb *'", "it never ticks: there is no such day"),
        ("cron", "'0 0 0 31 4,6-6,9,11 ?'", "it never ticks: there is no such day"),
        ("cron, every", "'* * * * *', '1 min'", "either by cron or by every"),
        ("paused", "true", "either by cron or by every"),
        ("every", "'0'", "too short"),
        ("every", "'-1 hour'", "too short"),
        ("every", "'1 month'", "has no fixed length"),
        ("every", "'5000 days'", "too long"),
        ("cron, time_zone", "'0 2 * * *', 'Europe/Berlni'", "did you mean \"Europe/Berlin\"?"),
        ("cron, time_zone", "'0 2 * * *', 'Berlin'", "did you mean \"Europe/Berlin\"?"),
        ("cron, time_zone", "'0 2 * * *', 'X+3'", "there is no time zone \"X+3\""),
        ("cron, time_zone", "'0 2 * * *', 'CEST'", "there is no time zone \"CEST\": it has a name such as"),
        ("cron, time_zone", "'0 2 * * *', 'utc'", "did you mean \"UTC\"?"),
        ("cron, time_zone", "'0 2 * * *', 'europe/berlin'", "did you mean \"Europe/Berlin\"?"),
        ("every, overlap", "'1 min', 'never'", "it is one of skip, queue, replace"),
        ("every, catch_up", "'1 min', 'some'", "it is one of skip, one, all"),
        ("every, catch_up_max", "'1 min', 0", "catch_up_max 0 is not between 1 and 1000"),
        ("every, grace", "'1 min', '1 s'", "grace 00:00:01 is not between"),
        ("every, priority", "'1 min', 40000", "priority 40000"),
        ("every, project", "'1 min', 'a b'", "project \"a b\" is no well-formed name"),
        ("every, limits", "'1 min', '{nowhere}'", "limit \"nowhere\" is unknown"),
        ("every, payload, tick_key", "'1 min', '[]', 'at'", "a payload that is a JSON object"),
        ("every, max_attempts", "'1 min', 0", "max_attempts 0"),
    ] {
        let sql = format!("insert into orch.schedules (name, agent, {columns}) values ('s', 'a', {values})");
        let error = client.batch_execute(&sql).await.expect_err(&sql);
        let error = error.as_db_error().unwrap();
        assert!(error.message().starts_with("schedule \"s\": "), "{sql}: {error}");
        assert!(error.message().contains(words), "{sql}: {error}");
        assert_eq!(error.code().code(), "OR004", "{sql}");
    }
    let error = client
        .batch_execute("insert into orch.schedules (name, agent, every) values ('a b', 'a', '1 min')")
        .await
        .unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("no well-formed name"));
    for function in ["pause_schedule", "resume_schedule", "run_schedule"] {
        let error = client.batch_execute(&format!("select orch.{function}('nightly')")).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "OR005");
    }
}

#[tokio::test]
async fn one_that_cannot_be_read_stops_no_other_is_told_everywhere_and_ticks_once_it_is_mended() {
    let (test, client, db) = with_schedule("overlap", "'queue'").await;
    // As the database of another version may have taken them.
    client
        .batch_execute(
            "alter table orch.schedules disable trigger schedules_guard_insert;
             insert into orch.schedules (name, agent, cron, time_zone)
             values ('never', 'a', '0 0 0 1 1 * 1999', 'UTC'), ('odd', 'a', '0 0 99W * *', 'UTC'),
                    ('nowhere', 'a', '0 0 * * *', 'EST5');
             alter table orch.schedules enable always trigger schedules_guard_insert;",
        )
        .await
        .unwrap();
    client
        .batch_execute("update orch.schedules set planned = true, next_tick_at = now() where name = 's'")
        .await
        .unwrap();
    let orch = Orch::on(&test);
    for (name, words) in
        [("never", "never"), ("odd", "never: cron \"0 0 99W * *\": day of month"), ("nowhere", "never: there is no")]
    {
        let shown = orch.run(["schedule", "show", name]).await.ok().stdout;
        assert!(shown.contains(&format!("next          {words}")), "before any replica has looked: {shown}");
    }
    let ticked = tick(&db).await;
    assert_eq!((ticked.fired, ticked.refused), (1, 3));
    assert_eq!(tick(&db).await.refused, 0, "they are left alone for a minute");
    let list = orch.run(["schedule", "list"]).await.ok().stdout;
    let doctor = orch.run(["doctor"]).await;
    assert_eq!(doctor.status.code(), Some(1));
    for word in ["it never ticks", "day of month \"99W\"", "there is no time zone \"EST5\""] {
        assert!(list.contains(word), "{word}\n{list}");
        assert!(doctor.stdout.contains(word), "{word}\n{}", doctor.stdout);
    }
    client
        .batch_execute(
            "update orch.schedules set next_tick_at = now() where not planned;
             update orch.schedules set cron = '0 0 28 2 *', time_zone = 'UTC' where name <> 's'",
        )
        .await
        .unwrap();
    assert_eq!(tick(&db).await.refused, 0);
    let left = "select count(*) from orch.schedules where error is not null or not planned";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_job_that_the_database_refuses_is_told_and_tried_again_at_the_next_tick() {
    let test = TestDb::new().await;
    let (client, db) = (test.client().await, test.db());
    client.batch_execute("select orch.set_limit('api', 1)").await.unwrap();
    super::add(&client, "limits", "'{api}'").await;
    client
        .batch_execute("insert into orch.schedules (name, agent, every) values ('other', 'a', '1 min'); select orch.drop_limit('api')")
        .await
        .unwrap();
    for _ in 0..2 {
        due_for(&client, 0).await;
        let ticked = tick(&db).await;
        assert_eq!(ticked.refused, 1);
        assert_eq!(of_s(&client, "last_answer").await.as_deref(), Some("refused"));
        assert!(of_s(&client, "error").await.unwrap().contains("limit \"api\" is unknown"));
        assert_eq!(of_s(&client, "next_tick_at > now()").await.as_deref(), Some("true"));
    }
    let jobs = "select count(*) from orch.jobs where labels ->> 'schedule' = 'other'";
    assert_eq!(client.query_one(jobs, &[]).await.unwrap().get::<_, i64>(0), 1, "and then skipped: it is live");
    client.batch_execute("select orch.set_limit('api', 1)").await.unwrap();
    due_for(&client, 0).await;
    assert_eq!(tick(&db).await.fired, 1);
    assert_eq!(of_s(&client, "error").await, None);
}

#[tokio::test]
async fn a_tick_whose_limit_is_being_dropped_keeps_nobody_waiting() {
    let (test, client, db) = with_schedule("overlap", "'queue'").await;
    let dropper = test.client().await;
    client
        .batch_execute(
            "select orch.set_limit('api', 1);
             insert into orch.schedules (name, agent, every, limits) values ('bound', 'a', '1 min', '{api}')",
        )
        .await
        .unwrap();
    due_for(&client, 0).await;
    dropper.batch_execute("begin; select orch.drop_limit('api')").await.unwrap();
    assert_eq!(tick(&db).await.fired, 1, "the other one");
    let error = client.batch_execute("select orch.run_schedule('bound')").await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("somebody is dropping a limit"), "{error:?}");
    dropper.batch_execute("rollback").await.unwrap();
    due_for(&client, 0).await;
    assert_eq!(tick(&db).await.fired, 2);
}

#[tokio::test]
async fn the_command_line_adds_shows_changes_and_removes() {
    let test = TestDb::new().await;
    let orch = Orch::on(&test);
    assert!(orch.run(["schedule", "list"]).await.ok().stderr.contains("there is no schedule"));
    let added = orch
        .run([
            "schedule",
            "add",
            "nightly",
            "report",
            "{\"n\": 1}",
            "--cron",
            "30 2 * * *",
            "--tz",
            "Europe/Berlin",
            "--overlap",
            "queue",
            "--catch-up",
            "all",
            "--catch-up-max",
            "7",
            "--project",
            "p",
            "--label",
            "team=x",
            "--timeout",
            "1h",
            "--tick-key",
            "at",
            "--any-agent",
        ])
        .await
        .ok();
    assert_eq!(
        added.stdout.matches(" 02:30:00 CE").count() + added.stdout.matches(" 03:00:00 CE").count(),
        5,
        "{added:?}"
    );
    let shown = orch.run(["schedule", "show", "nightly", "--json"]).await.ok().json();
    for (key, value) in [
        ("cron", json!("30 2 * * *")),
        ("every_seconds", json!(null)),
        ("time_zone", json!("Europe/Berlin")),
        ("overlap", json!("queue")),
        ("catch_up", json!("all")),
        ("catch_up_max", json!(7)),
        ("grace_seconds", json!(60.0)),
        ("agent", json!("report")),
        ("payload", json!({"n": 1})),
        ("project", json!("p")),
        ("labels", json!({"team": "x"})),
        ("timeout_seconds", json!(3600.0)),
        ("tick_key", json!("at")),
        ("paused", json!(false)),
        ("skipped", json!(0)),
    ] {
        assert_eq!(shown[key], value, "{key}");
    }
    assert_eq!(shown["next_ticks"].as_array().unwrap().len(), 5);

    let changed = orch
        .run(["schedule", "set", "nightly", "--every", "15m", "--clear", "timeout", "--clear", "labels", "--json"])
        .await
        .ok()
        .json();
    assert_eq!((&changed["cron"], &changed["every_seconds"]), (&json!(null), &json!(900.0)));
    assert_eq!((&changed["timeout_seconds"], &changed["labels"]), (&json!(null), &json!(null)));
    assert_eq!(changed["payload"], json!({"n": 1}), "what is not said stays");

    assert_eq!(orch.run(["schedule", "pause", "nightly"]).await.ok().stdout, "schedule nightly paused\n");
    let paused = orch.run(["schedule", "list"]).await.ok().stdout;
    assert!(paused.contains("nightly") && paused.contains("every 15m") && paused.contains("paused"), "{paused}");
    assert_eq!(orch.run(["schedule", "run", "nightly"]).await.ok().stdout, "1\n", "also while it is paused");
    assert_eq!(orch.run(["schedule", "resume", "nightly", "--json"]).await.ok().json()["changed"], json!(true));
    orch.run(["schedule", "remove", "nightly"]).await.ok();
    let events = "select string_agg(kind, ' ' order by id) from orch.events";
    let told: String = test.client().await.query_one(events, &[]).await.unwrap().get(0);
    assert_eq!(told, "schedule_added schedule_set schedule_paused schedule_run schedule_resumed schedule_removed");
}

#[tokio::test]
async fn an_interval_is_shown_as_it_is_stored() {
    let test = TestDb::new().await;
    let orch = Orch::on(&test);
    for (every, seconds, shown) in [
        ("1500ms", 1.5, "every 1s 500ms"),
        ("1h 30m 15s", 5415.0, "every 1h 30m 15s"),
        ("9d 1h 1us", 781_200.000_001, "every 9d 1h 1us"),
        ("15m", 900.0, "every 15m"),
    ] {
        let flags =
            ["--every", every, "--grace", "10s 250ms", "--timeout", "1h 1s", "--anchor", "2020-01-01T00:00:00Z"];
        let added = orch.run([&["schedule", "add", "s", "a", "--any-agent"][..], &flags].concat()).await.ok().stdout;
        for line in [&format!("when          {shown}\n"), "timeout       1h 1s\n", "late by more than 10s 250ms\n"] {
            assert!(added.contains(line), "{line}: {added}");
        }
        assert!(orch.run(["schedule", "list"]).await.ok().stdout.contains(shown));
        let json = orch.run(["schedule", "show", "s", "--json"]).await.ok().json();
        assert_eq!(json["every_seconds"], json!(seconds));
        let ticks: Vec<Timestamp> = serde_json::from_value(json["next_ticks"].clone()).unwrap();
        let anchor: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
        let every = (seconds * 1e6) as i64;
        for tick in ticks {
            assert_eq!((tick.as_microsecond() - anchor.as_microsecond()) % every, 0, "as a replica would say");
        }
        orch.run(["schedule", "remove", "s"]).await.ok();
    }
}

#[tokio::test]
async fn what_would_be_ignored_is_refused() {
    let test = TestDb::new().await;
    let (orch, client) = (Orch::on(&test), test.client().await);
    let add = ["schedule", "add", "x", "a", "--any-agent"];
    for (flags, words) in [
        (&["--every", "1h", "--tz", "Europe/Berlin"][..], &["--tz", "cannot be used with", "--every"][..]),
        (&["--cron", "0 2 * * *", "--anchor", "2020-01-01T00:00:00Z"], &["--anchor", "cannot be used with", "--cron"]),
        (&["--every", "1h", "--catch-up-max", "7"], &["--catch-up-max", "--catch-up all"]),
        (&["--every", "1h", "--catch-up-max", "7", "--catch-up", "one"], &["--catch-up-max", "--catch-up all"]),
    ] {
        let output = orch.run([&add[..], flags].concat()).await;
        assert!(!output.status.success() && output.stdout.is_empty(), "{flags:?}: {output:?}");
        for word in words {
            assert!(output.stderr.contains(word), "{flags:?}: {output:?}");
        }
    }
    orch.run(["schedule", "add", "clock", "a", "--any-agent", "--cron", "0 2 * * *", "--tz", "Europe/Berlin"])
        .await
        .ok();
    orch.run(["schedule", "add", "often", "a", "--any-agent", "--every", "1h"]).await.ok();
    for (name, flags, words) in [
        ("often", &["--tz", "Europe/Berlin"][..], "--tz goes with --cron"),
        ("clock", &["--anchor", "2020-01-01T00:00:00Z"], "--anchor goes with --every"),
        ("clock", &["--catch-up-max", "7"], "--catch-up-max goes with --catch-up all"),
        ("clock", &["--every", "1h", "--tz", "UTC"], "cannot be used with"),
    ] {
        let output = orch.run([&["schedule", "set", name], flags].concat()).await;
        assert!(!output.status.success() && output.stderr.contains(words), "{flags:?}: {output:?}");
    }
    // What is said with that it goes with is not; and what is not said stays, also where it means nothing for a while.
    let zone_of_clock = "select time_zone || ' ' || catch_up_max from orch.schedules where name = 'clock'";
    for flags in [
        &["--catch-up", "all", "--catch-up-max", "7"][..],
        &["--catch-up-max", "8"],
        &["--every", "1h", "--anchor", "2020-01-01T00:00:00Z", "--catch-up", "skip"],
        &["--anchor", "2020-01-01T00:00:01Z", "--priority", "1"],
        &["--cron", "0 3 * * *"],
    ] {
        orch.run([&["schedule", "set", "clock"], flags].concat()).await.ok();
    }
    assert_eq!(client.query_one(zone_of_clock, &[]).await.unwrap().get::<_, &str>(0), "Europe/Berlin 8");
    for (sql, words) in [
        (
            "insert into orch.schedules (name, agent, every, time_zone) values ('s', 'a', '1 h', 'Europe/Berlin')",
            "time_zone \"Europe/Berlin\" goes with cron",
        ),
        ("update orch.schedules set time_zone = 'Europe/Berlin' where name = 'often'", "goes with cron"),
        (
            "update orch.schedules set anchor_at = now() - interval '1 day' where name = 'clock'",
            "anchor_at goes with every",
        ),
        (
            "insert into orch.schedules (name, agent, every, catch_up_max) values ('s', 'a', '1 h', 7)",
            "catch_up_max 7 goes with catch_up all",
        ),
        ("update orch.schedules set catch_up_max = 7 where name = 'often'", "goes with catch_up all"),
    ] {
        let error = client.batch_execute(sql).await.expect_err(sql);
        let error = error.as_db_error().unwrap();
        assert!(error.message().contains(words), "{sql}: {error}");
        assert_eq!(error.code().code(), "OR004", "{sql}");
    }
}

#[tokio::test]
async fn what_has_become_wrong_can_still_be_paused_and_its_row_restored() {
    let test = TestDb::new().await;
    let client = test.client().await;
    client.batch_execute("select orch.set_limit('api', 1)").await.unwrap();
    super::add(&client, "limits, cron", "'{api}', '0 2 * * *'").await;
    client
        .batch_execute(
            "select orch.drop_limit('api');
             alter table orch.schedules disable trigger schedules_guard_update;
             update orch.schedules set cron = '0 0 0 1 1 * 1999', planned = true, next_tick_at = null;
             alter table orch.schedules enable always trigger schedules_guard_update;",
        )
        .await
        .unwrap();
    for act in ["pause_schedule('s')", "resume_schedule('s')"] {
        assert!(client.query_one(&format!("select orch.{act}"), &[]).await.unwrap().get::<_, bool>(0), "{act}");
    }
    // It is told where it is changed.
    for (change, words) in [("cron = '0 0 0 1 1 * 1998'", "it never ticks"), ("limits = '{api,api}'", "is unknown")] {
        let error = client.batch_execute(&format!("update orch.schedules set {change}")).await.unwrap_err();
        assert!(error.as_db_error().unwrap().message().contains(words), "{change}: {error:?}");
    }
    client
        .batch_execute(
            "update orch.schedules set limits = null, cron = null, every = '1 h', catch_up_max = 100;
             update orch.schedules set planned = true, next_tick_at = now();
             alter table orch.schedules disable trigger schedules_guard_update;
             update orch.schedules set time_zone = 'Europe/Berlin', catch_up_max = 7;
             alter table orch.schedules enable always trigger schedules_guard_update;
             create temp table saved as select * from orch.schedules;
             delete from orch.schedules;
             insert into orch.schedules select * from saved;",
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn the_command_line_refuses_what_never_ticks_and_names_the_nearest() {
    let test = TestDb::new().await;
    let orch = Orch::on(&test);
    orch.run(["schedule", "add", "nightly", "a", "--every", "1h", "--any-agent"]).await.ok();
    for (arguments, words) in [
        (&["add", "x", "a", "--any-agent"][..], "give --cron or --every"),
        (&["add", "x", "a", "--cron", "0 0 30 2 *", "--any-agent"], "it never ticks"),
        (&["add", "x", "a", "--cron", "0 25 * * *", "--any-agent"], "hour \"25\" is not 0 to 23"),
        (&["add", "x", "a", "--cron", "* * * *", "--any-agent"], "it has 4 fields"),
        (
            &["add", "x", "a", "--cron", "0 2 * * *", "--tz", "Europe/Berlni", "--any-agent"],
            "did you mean \"Europe/Berlin\"?",
        ),
        (&["add", "x", "a", "--every", "0s", "--any-agent"], "longer than zero"),
        (&["add", "x", "a", "--every", "100ms", "--any-agent"], "at least 1 second"),
        (&["add", "x", "a", "--every", "1h", "--overlap", "never", "--any-agent"], "it is one of skip, queue, replace"),
        (&["add", "x", "a", "--every", "1h"], "no replica has registered agent \"a\""),
        (&["add", "nightly", "a", "--every", "1h", "--any-agent"], "there is a schedule \"nightly\" already"),
        (&["set", "nightly", "--cron", "0 2 31 4 *"], "it never ticks"),
        (&["set", "nightyl", "--every", "1h"], "did you mean \"nightly\"?"),
        (&["show", "nightyl"], "did you mean \"nightly\"?"),
        (&["remove", "nightyl"], "did you mean \"nightly\"?"),
        (&["run", "nightyl"], "the nearest is \"nightly\""),
    ] {
        let output = orch.run([&["schedule"], arguments].concat()).await;
        assert!(!output.status.success(), "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(words), "{arguments:?}: {}", output.stderr);
        assert_eq!(output.stdout, "", "{arguments:?}");
    }
    let count: i64 = test.client().await.query_one("select count(*) from orch.schedules", &[]).await.unwrap().get(0);
    assert_eq!(count, 1, "a refusal changes nothing");
}

#[tokio::test]
async fn a_replica_runs_the_jobs_of_a_schedule_and_http_tells_of_it() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let orch = place(&test);
    let replica = orch.up().await;
    orch.run(["schedule", "add", "often", "true", "--every", "1s"]).await.ok();
    eventually_within(Duration::from_secs(30), "three of its jobs to have succeeded", async || {
        let sql = "select count(*) from orch.jobs where status = 'succeeded' and labels ->> 'schedule' = 'often'";
        let done: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        (done >= 3).then_some(())
    })
    .await;
    let address = orch.listen();
    let host = address.to_string();
    let post = async |path: &str, headers: &[(&str, &str)]| {
        let headers = [&[("Host", host.as_str())], headers].concat();
        http_request(address, "POST", &format!("/api/v1/schedules/{path}"), &headers, "").await.unwrap()
    };
    assert_eq!(post("often/pause", &[("Origin", "http://evil.example")]).await.status, 403);
    let paused = post("often/pause", &[]).await;
    assert_eq!(paused.json(), json!({"name": "often", "paused": true, "changed": true}));
    let all = replica.get("/api/v1/schedules").await.json();
    assert_eq!((&all["schedules"][0]["name"], &all["schedules"][0]["paused"]), (&json!("often"), &json!(true)));
    assert!(all["schedules"][0]["last_tick_at"].is_string());
    assert_eq!(all["schedules"][0].get("payload"), None, "a list does not carry them");
    let one = replica.get("/api/v1/schedules/often").await.json();
    assert_eq!((&one["agent"], &one["payload"]), (&json!("true"), &json!({})));
    let run = eventually_within(Duration::from_secs(30), "its last job to be gone", async || {
        let answer = post("often/run", &[]).await;
        (answer.status == 201).then_some(answer)
    })
    .await;
    assert!(run.json()["id"].is_i64());
    assert_eq!(post("often/resume", &[]).await.json()["changed"], json!(true));
    for answer in [post("oftne/run", &[]).await, replica.get("/api/v1/schedules/oftne").await] {
        assert_eq!(answer.status, 404, "{}", answer.body);
        assert!(answer.body.contains("there is no schedule"), "{}", answer.body);
    }
}

/// An item of a field, mostly of numbers that it may say.
fn item(low: u32, high: u32) -> String {
    let number = || rand::random_range(low.saturating_sub(1)..=high + 1).to_string();
    let item = match rand::random_range(0..6) {
        0 | 1 => "*".to_owned(),
        2 => format!("{}-{}", number(), number()),
        _ => number(),
    };
    let step = if rand::random_ratio(1, 4) { format!("/{}", rand::random_range(0..9)) } else { String::new() };
    item + &step
}

/// An expression of what may stand in one, in whatever order: seldom one.
fn odd() -> String {
    let pick = |words: &[&str]| words[rand::random_range(0..words.len())].to_owned();
    let number = || pick(&["0", "1", "2", "5", "7", "12", "29", "31", "59", "60", "05", "2020", "2030", "70000"]);
    let name = || pick(&["MON", "fri", "SUN", "sat", "JAN", "feb", "DEC", "MONDAY", "L", "W", "LW", "?", "X"]);
    let atom = || if rand::random_ratio(1, 3) { name() } else { number() };
    let item = || match rand::random_range(0..12) {
        0 | 1 => "*".to_owned(),
        2 => format!("{}-{}", atom(), atom()),
        3 => format!("{}-{}/{}", atom(), atom(), number()),
        4 => format!("*/{}", atom()),
        5 => format!("{}{}", atom(), pick(&["L", "W", "LW", "#", "#L", "/2", "-", "?"])),
        6 => format!("{}#{}", atom(), pick(&["0", "1", "5", "6", "L", "2L"])),
        7 => format!("{}-{}{}", atom(), atom(), pick(&["#2", "#L", "L", "W", "/2#3"])),
        8 => format!("{}{}", pick(&["+", "*", "-", "/", ",", "@"]), atom()),
        _ => atom(),
    };
    let field = || {
        let more = if rand::random_ratio(1, 5) { format!(",{}", item()) } else { String::new() };
        item() + &more
    };
    // Most fields are in order, so that the odd one counts.
    let mut fields: Vec<String> = (0..rand::random_range(5..=7)).map(|_| "*".to_owned()).collect();
    if fields.len() == 7 {
        fields[6] = pick(&["*", "2020", "2030", "2020-2040/5", "2100"]);
    }
    for _ in 0..rand::random_range(1..=2) {
        let place = rand::random_range(0..fields.len());
        fields[place] = field();
    }
    let nickname = || format!("@{}", pick(&["daily", "Hourly", "foo", "weekly ", "yearly *", ""]));
    if rand::random_ratio(1, 50) { nickname() } else { fields.join(pick(&[" ", "  ", "\t"]).as_str()) }
}

#[tokio::test]
async fn a_replica_can_read_every_expression_that_the_database_takes() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let sql = "select c.cron from unnest($1::text[]) c (cron)
                where orch.fault_of_rhythm('s', c.cron, null, 'UTC', 'one', 100, '1 h', 'skip') is null";
    let of_months =
        ["* * * 1-mar *", "* * * JAN,3-5/2 *", "* * 1,15W,L,LW * *", "* * ?/3 * ?", "* * * * +SUN-fri/2#L,5L"];
    let mut tried: Vec<String> = (0..6000).map(|_| odd()).collect();
    tried.extend(of_months.map(str::to_owned));
    let taken = client.query(sql, &[&tried]).await.unwrap();
    let mut odd = std::collections::BTreeSet::new();
    for cron in taken.iter().map(|row| row.get::<_, &str>(0)) {
        if let Err(fault) = Rhythm::cron(cron, "UTC") {
            panic!("the database took what no replica can read: {fault}");
        }
        odd.insert(cron);
    }
    assert!(odd.len() > 100, "too few that it took: {}", odd.len());
    for cron in of_months {
        assert!(odd.contains(cron), "{cron} was refused");
    }
}

#[tokio::test]
async fn the_database_takes_the_zones_of_places_to_the_letter_and_a_replica_knows_them() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let taken = client
        .query(
            "select t.name, exists (select from pg_timezone_names z where z.name = t.name)
               from (select name from pg_timezone_names where name !~ '^(posix|right)/' or name ~ '(Berlin|UTC)$'
                     union select abbrev from pg_timezone_abbrevs
                     union select unnest(array['Europe/berlin', 'EUROPE/BERLIN', 'Etc/gmt+5', 'Europe/Berlin5', 'A/B5',
                                               'Etc/UTC+1', 'X+3', 'EST5', 'EST5EDT', '+02', '<+02>-2', '', ' UTC', '../UTC',
                                               'Europe/../UTC', 'Europe', 'Europe/', '/etc/passwd', 'UTC/', 'default'])) t (name)
              where orch.fault_of_zone(t.name) is null",
            &[],
        )
        .await
        .unwrap();
    // The machine's own database of zones may be another version than the server's.
    let known: Vec<String> = jiff::tz::db().available().map(|name| name.as_str().to_owned()).collect();
    for row in &taken {
        let (name, is_one): (&str, bool) = (row.get(0), row.get(1));
        assert!(is_one && (name == "UTC" || name.contains('/')) && !name.starts_with("posix/"), "{name}");
        if known.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            assert!(Rhythm::cron("@daily", name).is_ok(), "{name}");
        }
    }
    let names: Vec<&str> = taken.iter().map(|row| row.get(0)).collect();
    for name in
        ["UTC", "Europe/Berlin", "America/New_York", "America/Port-au-Prince", "Etc/GMT+5", "America/Argentina/Ushuaia"]
    {
        assert!(names.contains(&name), "{name}");
    }
}

#[tokio::test]
async fn the_database_takes_every_expression_that_a_replica_can_read_and_that_ticks() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let sql = "select orch.fault_of_rhythm('s', $1, null, 'UTC', 'one', 100, '1 h', 'skip')";
    let (mut taken, mut never) = (0, 0);
    for _ in 0..3000 {
        let mut fields: Vec<String> = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]
            .into_iter()
            .map(|(low, high)| {
                let items = rand::random_range(1..=2);
                (0..items).map(|_| item(low, high)).collect::<Vec<_>>().join(",")
            })
            .collect();
        // Days that there are not, often enough.
        if rand::random_ratio(1, 4) {
            fields[3] = ["30", "31", "30,31", "29-31/2"][rand::random_range(0..4)].to_owned();
            fields[4] = ["2", "FEB", "4", "2,4", "jun,9"][rand::random_range(0..5)].to_owned();
            fields[5] = ["*", "?", "1"][rand::random_range(0..3)].to_owned();
        }
        let cron = fields[usize::from(rand::random::<bool>())..].join(" ");
        let fault: Option<String> = client.query_one(sql, &[&cron]).await.unwrap().get(0);
        let ticks = Rhythm::cron(&cron, "UTC").ok().and_then(|rhythm| rhythm.next_after(Timestamp::now()));
        match (ticks, fault) {
            (Some(_), fault) => {
                assert_eq!(fault, None, "{cron}");
                taken += 1;
            }
            (None, Some(fault)) => never += i32::from(fault.contains("it never ticks")),
            (None, None) => {}
        }
    }
    assert!(taken > 100 && never > 10, "{taken} ticked, and {never} never would");
}
