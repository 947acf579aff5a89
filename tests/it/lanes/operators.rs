//! What operators do to limits and projects by SQL, and what they are told when they cannot.

use tokio_postgres::{Client, types::Type};

use super::{one, stage};
use crate::{guards::refused, support::eventually};

#[tokio::test]
async fn every_act_says_whether_it_changed_anything_and_is_told_once() {
    let (_test, client, _) = stage().await;
    for (act, changed) in [
        ("set_limit('api', 2)", "true"),
        ("set_limit('api', 2)", "false"),
        ("set_limit('api')", "true"),
        ("close_limit('api', reason => 'r')", "true"),
        ("close_limit('api', reason => 'r')", "false"),
        ("open_limit('api')", "true"),
        ("open_limit('api')", "false"),
        ("open_limit('all')", "false"),
        ("pause('all')", "true"),
        ("pause('all')", "false"),
        ("resume('all')", "true"),
        ("resume('all')", "false"),
        ("set_project('p', 3)", "true"),
        ("set_project('p', serial => true)", "true"),
        ("set_project('p', 3, true)", "false"),
        ("drop_limit('api')", "true"),
    ] {
        assert_eq!(one(&client, &format!("select orch.{act}")).await, changed, "{act}");
    }
    let told = "select string_agg(kind, ' ' order by id) from orch.events";
    assert_eq!(
        one(&client, told).await,
        "limit_set limit_set limit_closed limit_opened paused resumed project_set project_set limit_dropped"
    );
    assert_eq!(one(&client, "select weight || ' ' || serial from orch.projects").await, "3 true");
}

#[tokio::test]
async fn every_bad_argument_is_refused_in_words() {
    let (_test, client, _) = stage().await;
    client.batch_execute("select orch.set_limit('anthropic'), orch.set_limit('github')").await.unwrap();
    client.batch_execute("select orch.enqueue('a', limits => '{github}')").await.unwrap();
    let many = "x".repeat(101);
    for (call, words) in [
        ("set_limit('x', 0)".to_owned(), "limit \"x\": max_running 0 is not at least 1"),
        ("set_limit('x', -1)".to_owned(), "max_running -1"),
        ("set_limit(null)".to_owned(), "a limit's name is missing"),
        ("set_limit('a b')".to_owned(), "limit \"a b\" is no well-formed name"),
        (format!("set_limit('{many}')"), "no well-formed name"),
        ("set_limit('project:')".to_owned(), "names no well-formed project"),
        ("close_limit('antropic')".to_owned(), "limit \"antropic\" is unknown: the nearest is \"anthropic\""),
        ("close_limit('github', now() - interval '1 s')".to_owned(), "which is past"),
        ("close_limit('github', null)".to_owned(), "it cannot be closed until null"),
        ("open_limit('gitlab')".to_owned(), "limit \"gitlab\" is unknown: the nearest is \"github\""),
        ("drop_limit('github')".to_owned(), "it is in use: job 1 waits with it"),
        ("drop_limit('nowhere')".to_owned(), "is unknown"),
        ("pause('github')".to_owned(), "\"github\" is nothing to pause"),
        ("pause('project:a b')".to_owned(), "names no well-formed project"),
        ("pause(null)".to_owned(), "null is nothing to pause"),
        ("resume('job 7')".to_owned(), "\"job 7\" is nothing to resume"),
        ("set_project('p', -1)".to_owned(), "project \"p\": weight -1 is not between 1 and 1000000"),
        ("set_project('p', 0)".to_owned(), "weight 0"),
        ("set_project('')".to_owned(), "no well-formed name"),
    ] {
        let (code, message) = refused(&client, &format!("select orch.{call}")).await;
        assert_eq!(code, "OR004", "{call}: {message}");
        assert!(message.contains(words), "{call}: {message}");
    }
    assert_eq!(one(&client, "select count(*) from orch.limits").await, "2");
}

/// Whoever enqueues with a limit and has not committed: as SQL.
const PRODUCERS: [&str; 3] = [
    "select orch.enqueue('a', limits => '{api}')",
    r#"select orch.enqueue_many('[{"agent": "a"}, {"agent": "a", "limits": ["api"]}]')"#,
    r#"select orch.enqueue_many('[{"agent": "a", "dedupe_key": "k", "limits": ["api", "other"]}]')"#,
];

/// That a session of this database waits for a lock.
async fn until_one_waits(client: &Client) {
    eventually("a session to wait for the other", async || {
        let waits =
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
        (one(client, waits).await == "1").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_limit_that_an_uncommitted_job_names_is_dropped_only_if_that_job_comes_to_nothing() {
    let (test, client, _) = stage().await;
    let (producer, dropper) = (test.client().await, test.client().await);
    client.batch_execute("select orch.set_limit('api', 1), orch.set_limit('other', 1)").await.unwrap();
    for enqueue in PRODUCERS {
        producer.batch_execute(&format!("begin; {enqueue}")).await.unwrap();
        let (refusal, ()) = tokio::join!(refused(&dropper, "select orch.drop_limit('api')"), async {
            until_one_waits(&client).await;
            // Nobody else minds.
            client
                .batch_execute("select orch.set_limit('api', 2), orch.close_limit('api'), orch.open_limit('api')")
                .await
                .unwrap();
            client.batch_execute(&format!("begin; {enqueue}; rollback").replace("\"k\"", "\"l\"")).await.unwrap();
            let held = "select name || ' ' || room || ' ' || busy from orch.hold_limits('{api}')";
            assert_eq!(one(&client, held).await, "api 2 false", "a claim goes on as well");
            producer.batch_execute("commit").await.unwrap();
        });
        assert!(refusal.1.contains("limit \"api\": it is in use: job"), "{enqueue}: {}", refusal.1);
        client.batch_execute("select orch.cancel(id) from orch.jobs where status = 'queued'").await.unwrap();
    }
    producer.batch_execute(&format!("begin; {}", PRODUCERS[0])).await.unwrap();
    let (done, ()) = tokio::join!(one(&dropper, "select orch.drop_limit('api')"), async {
        until_one_waits(&client).await;
        producer.batch_execute("rollback").await.unwrap();
    });
    assert_eq!(done, "true");
}

#[tokio::test]
async fn a_limit_is_not_dropped_under_an_agent_that_is_about_to_name_it() {
    let (test, client, _) = stage().await;
    let (mut replica, dropper) = (test.client().await, test.client().await);
    client.batch_execute("select orch.set_limit('api', 1)").await.unwrap();
    let registers = replica.transaction().await.unwrap();
    let register = registers
        .prepare_typed(
            include_str!("../../../sql/agents/register.sql"),
            &[
                Type::TEXT_ARRAY,
                Type::INT4_ARRAY,
                Type::FLOAT8_ARRAY,
                Type::FLOAT8_ARRAY,
                Type::FLOAT8_ARRAY,
                Type::FLOAT8_ARRAY,
                Type::FLOAT8_ARRAY,
                Type::TEXT_ARRAY,
                Type::TEXT_ARRAY,
            ],
        )
        .await
        .unwrap();
    let (none, words) = (vec![None::<f64>], |word: &str| vec![word.to_owned()]);
    registers
        .execute(
            &register,
            &[
                &words("new"),
                &vec![3],
                &none,
                &none,
                &vec![5.0],
                &vec![2.0],
                &vec![60.0],
                &words("requeue"),
                &words("api,made"),
            ],
        )
        .await
        .unwrap();
    let (refusal, ()) = tokio::join!(refused(&dropper, "select orch.drop_limit('api')"), async {
        until_one_waits(&client).await;
        registers.commit().await.unwrap();
    });
    assert!(refusal.1.contains("agent new names it"), "{}", refusal.1);
    assert_eq!(one(&client, "select string_agg(name, ' ' order by name) from orch.limits").await, "api made");
}

#[tokio::test]
async fn who_enqueues_with_a_limit_that_is_being_dropped_waits_and_is_then_refused() {
    let (test, client, _) = stage().await;
    let (producer, dropper) = (test.client().await, test.client().await);
    for enqueue in PRODUCERS {
        client.batch_execute("select orch.set_limit('api', 1), orch.set_limit('other', 1)").await.unwrap();
        dropper.batch_execute("begin; select orch.drop_limit('api')").await.unwrap();
        let (refusal, ()) = tokio::join!(refused(&producer, enqueue), async {
            until_one_waits(&client).await;
            // Those without limits wait for nobody.
            client.batch_execute("select orch.cancel(orch.enqueue('a'))").await.unwrap();
            dropper.batch_execute("commit").await.unwrap();
        });
        assert!(refusal.1.contains("limit \"api\" is unknown"), "{enqueue}: {}", refusal.1);
    }
    client.batch_execute("select orch.set_limit('api', 1)").await.unwrap();
    dropper.batch_execute("begin; select orch.drop_limit('api')").await.unwrap();
    let (done, ()) = tokio::join!(one(&producer, PRODUCERS[0]), async {
        until_one_waits(&client).await;
        dropper.batch_execute("rollback").await.unwrap();
    });
    assert!(done.parse::<i64>().is_ok(), "{done}");
    client.batch_execute("begin isolation level repeatable read").await.unwrap();
    let refusal = refused(&client, "select orch.drop_limit('other')").await;
    assert!(refusal.1.contains("in READ COMMITTED, not in REPEATABLE READ"), "{}", refusal.1);
}

#[tokio::test]
async fn the_distance_of_two_words_is_levenshteins() {
    let (_test, client, _) = stage().await;
    for (a, b, far) in [("", "", 0), ("abc", "abc", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("api", "apo", 1)] {
        assert_eq!(one(&client, &format!("select orch.distance('{a}', '{b}')")).await, far.to_string(), "{a} {b}");
    }
}
