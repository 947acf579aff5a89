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
    client
        .batch_execute(
            "insert into orch.schedules (name, agent, cron, time_zone)
             values ('never', 'a', '0 0 0 1 1 * 1999', 'UTC'), ('odd', 'a', '0 0 99W * *', 'UTC'),
                    ('nowhere', 'a', '0 0 * * *', 'EST5')",
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
