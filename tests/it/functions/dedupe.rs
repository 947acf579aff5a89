//! Dedupe keys while others write: a claim, an end, another producer.

use orch::model::Outcome;

use super::{columns, id, many, one, refused, violations};
use crate::{
    played::Played,
    support::{TestDb, eventually},
};

#[tokio::test]
async fn a_payload_is_replaced_before_the_claim_or_not_at_all() {
    let db = TestDb::new().await;
    let (client, other) = (db.client().await, db.client().await);
    let played = Played::on(&db, &["a"]).await;
    let (mut replaced, mut refused) = (0, 0);
    for round in 0..60 {
        id(&client, "orch.enqueue('a', '\"old\"', dedupe_key => 'k')").await;
        let replace = "select orch.enqueue('a', '\"new\"', dedupe_key => 'k', on_conflict => 'replace')";
        let (answer, claimed) = tokio::join!(client.query_one(replace, &[]), async {
            // now the one is faster, now the other
            for _ in 0..round % 6 {
                one(&other, "select 1").await;
            }
            // a claim passes over a row that the other has in its hands
            eventually("the claim", async || played.claim().await).await
        });
        match answer {
            Ok(_) => {
                assert_eq!(claimed.payload, "\"new\"", "round {round}: it said that it was replaced");
                replaced += 1;
            }
            Err(error) => {
                assert_eq!(error.code().unwrap().code(), "OR002", "{error:?}");
                assert_eq!(claimed.payload, "\"old\"", "round {round}: it said that it was not");
                refused += 1;
            }
        }
        played.settle(claimed, Outcome::Succeeded).await;
    }
    assert_eq!(replaced + refused, 60);
    assert_eq!(violations(&client).await, []);
}

#[tokio::test]
async fn a_replace_waits_for_the_claim_that_has_the_row_and_then_hears_that_it_runs() {
    let db = TestDb::new().await;
    let (claimant, producer) = (db.client().await, db.client().await);
    Played::on(&db, &["a"]).await;
    let job = id(&producer, "orch.enqueue('a', dedupe_key => 'k')").await;
    claimant
        .batch_execute(&format!(
            "begin; update orch.jobs set status = 'running', claimable = false, attempt = 1, started_at = now(),
                    run_id = gen_random_uuid(), replica_id = (select replica_id from orch.replicas) where id = {job}"
        ))
        .await
        .unwrap();
    let (refusal, ()) = tokio::join!(
        refused(&producer, "select orch.enqueue('a', '1', dedupe_key => 'k', on_conflict => 'replace')"),
        async {
            eventually("the producer to wait", async || {
                let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
                (one(&claimant, waits).await == "1").then_some(())
            })
            .await;
            claimant.batch_execute("commit").await.unwrap();
        }
    );
    assert_eq!(refusal.0, "OR002");
    assert!(refusal.1.contains(&format!("already live as job {job}, which is running")), "{}", refusal.1);
    assert_eq!(columns(&producer, job, "payload").await, "{}");
}

#[tokio::test]
async fn a_key_whose_job_ends_meanwhile_gets_a_new_job_or_the_old_ones_number() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let played = Played::on(&db, &["a"]).await;
    for _ in 0..40 {
        let old = id(&client, "orch.enqueue('a', dedupe_key => 'k')").await;
        let claimed = played.claim().await.expect("it is due");
        let (said, ()) = tokio::join!(
            many(&client, r#"[{"agent": "a", "dedupe_key": "k"}]"#),
            played.settle(claimed, Outcome::Failed)
        );
        let live = one(&client, "select count(*) from orch.jobs where live_dedupe_key = 'k'").await;
        assert_eq!(live, if said[0] == old { "0" } else { "1" }, "{said:?} {old}");
        client.batch_execute("select orch.cancel(id) from orch.jobs where status = 'queued'").await.unwrap();
    }
    assert_eq!(violations(&client).await, []);
}

#[tokio::test]
async fn of_many_wishes_with_one_key_the_first_is_the_job_and_each_later_one_says_what_becomes_of_it() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let ids = many(
        &client,
        r#"[{"agent": "a", "payload": 1, "dedupe_key": "k"}, {"agent": "b", "payload": 2, "dedupe_key": "k"},
            {"agent": "b", "payload": 3, "dedupe_key": "k", "on_conflict": "replace"}, {"agent": "c"},
            {"agent": "b", "payload": 4, "dedupe_key": "k", "on_conflict": "return"}]"#,
    )
    .await;
    assert!(ids[0] == ids[1] && ids[1] == ids[2] && ids[2] == ids[4] && ids[3] != ids[0], "{ids:?}");
    assert_eq!(columns(&client, ids[0], "agent, payload").await, "a 3");
    assert_eq!(one(&client, "select count(*) from orch.jobs").await, "2");
    let (code, message) = refused(
        &client,
        r#"select * from orch.enqueue_many('[{"agent": "a"}, {"agent": "a", "dedupe_key": "n"},
            {"agent": "a", "dedupe_key": "n", "on_conflict": "refuse"}]')"#,
    )
    .await;
    assert_eq!(code, "OR002");
    assert_eq!(message, "enqueue_many: element 3: dedupe_key \"n\" is taken: element 2 has it already");
    assert_eq!(one(&client, "select count(*) from orch.jobs").await, "2", "nothing of it is left");
}

#[tokio::test]
async fn of_several_bad_elements_the_first_is_named_whatever_is_wrong_with_each() {
    let db = TestDb::new().await;
    let client = db.client().await;
    let played = Played::on(&db, &["a"]).await;
    let runs = id(&client, "orch.enqueue('a', dedupe_key => 'z')").await;
    let _claimed = played.claim().await.expect("it is due");
    let live = id(&client, "orch.enqueue('a', dedupe_key => 'live', run_at => now() + interval '1 hour')").await;
    let later = id(&client, &format!("orch.enqueue('a', after => array[{live}::bigint])")).await;
    let keyed = |key: &str, word: &str| format!(r#"{{"agent": "a", "dedupe_key": "{key}", "on_conflict": "{word}"}}"#);
    let bad = [
        (
            "OR002",
            format!("dedupe_key \"live\" is taken: already live as job {live}, which is queued"),
            keyed("live", "refuse"),
        ),
        (
            "OR002",
            format!("dedupe_key \"z\" is taken: already live as job {runs}, which is running"),
            keyed("z", "replace"),
        ),
        (
            "OR004",
            "after is circular".to_owned(),
            format!(r#"{{"agent": "a", "dedupe_key": "live", "after": [{later}]}}"#),
        ),
        ("OR005", "after names job 999".to_owned(), r#"{"agent": "a", "after": [999]}"#.to_owned()),
        ("OR004", "gate must have".to_owned(), r#"{"agent": "a", "gate": ""}"#.to_owned()),
        ("OR004", "an object is needed".to_owned(), "7".to_owned()),
        ("OR004", "run_at".to_owned(), r#"{"agent": "a", "run_at": "infinity"}"#.to_owned()),
        ("OR004", "invalid input syntax".to_owned(), r#"{"agent": "a", "run_at": "soon"}"#.to_owned()),
        ("OR002", "dedupe_key \"twin\" is taken: element 1 has it already".to_owned(), keyed("twin", "refuse")),
    ];
    let first = r#"{"agent": "a", "dedupe_key": "twin"}"#;
    for (code, words, element) in &bad {
        for (_, _, other) in &bad {
            let call = format!("select * from orch.enqueue_many('[{first}, {element}, {other}, {other}]')");
            let (is, message) = refused(&client, &call).await;
            assert_eq!(is, *code, "{call}: {message}");
            assert!(message.starts_with(&format!("enqueue_many: element 2: {words}")), "{call}: {message}");
        }
    }
    assert_eq!(one(&client, "select count(*) from orch.jobs").await, "3", "nothing of it is left");
}

#[tokio::test]
async fn what_has_no_shape_is_always_put_in_words() {
    let db = TestDb::new().await;
    let client = db.client().await;
    // Each key with a value of each type, alone and beside an agent: the quick answer and the words agree.
    let sql = r#"
        select string_agg(w.wish::text, E'\n')
          from (values ('agent'), ('payload'), ('project'), ('priority'), ('run_at'), ('gate'), ('limits'), ('labels'),
                       ('require'), ('dedupe_key'), ('on_conflict'), ('after'), ('max_attempts'), ('timeout'), ('else')) k (key)
         cross join (values ('null'::jsonb), ('true'), ('1'), ('1.5'), ('"x"'), ('[]'), ('[1]'), ('{}'), ('{"x": 1}')) v (value)
         cross join (values ('{}'::jsonb), ('{"agent": "a"}')) b (beside)
         cross join lateral (select b.beside || jsonb_build_object(k.key, v.value) union all select v.value) w (wish)
         where orch.has_shape(w.wish) is distinct from
               not exists (select from orch.fault_of_shape(jsonb_build_array(w.wish)) f where f.complaint is not null)"#;
    assert_eq!(one(&client, sql).await, "null");
}
