//! The table of settling is said twice, in SQL (which runs) and in Rust (which is read and modelled): they must agree.

use orch::model::{Backoff, Counts, Due, Facts, JobStatus, OnLost, Outcome, Reaped, Rules, settle, settle_late};
use proptest::{
    prelude::*,
    strategy::{Strategy, ValueTree as _},
    test_runner::TestRunner,
};

use crate::support::TestDb;

fn rules() -> impl Strategy<Value = Rules> {
    (1..4, 0.0..100.0f64, 1.0..1000.0f64, prop::sample::select(OnLost::ALL), (1..4, 1..4, 1..4), 1.0..100.0f64)
        .prop_map(|(max_attempts, base, factor, on_lost, (max_lost, max_transient, max_interrupted), lease)| Rules {
            max_attempts,
            backoff: Backoff { base, factor, max: base * 10.0 },
            on_lost,
            max_lost,
            max_transient,
            max_interrupted,
            lease,
            timeout: None,
        })
}

fn facts() -> impl Strategy<Value = Facts> {
    (
        prop::sample::select(Outcome::ALL),
        any::<bool>(),
        (0..5, 0..5, 0..5, 0..5),
        0.0..200.0f64,
        any::<bool>(),
        0.5..1.5f64,
        any::<bool>(),
    )
        .prop_map(|(outcome, cancel_pending, counts, lasted, says_when, jitter, after_outage)| Facts {
            outcome,
            cancel_pending,
            counts: Counts { failures: counts.0, lost: counts.1, transients: counts.2, interruptions: counts.3 },
            lasted,
            says_when,
            jitter,
            after_outage,
        })
}

#[tokio::test]
async fn the_rule_in_sql_is_the_rule_in_the_model() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let statement = client
        .prepare(
            "select next_status, extract(epoch from next_run_at - clock_timestamp())::float8, next_failures,
                    next_lost_count, next_transient_count, next_interrupted_count
               from orch.settle_rule($1, $2, $3, $4, $5, $6, $7, $8,
                                     case when $9 then clock_timestamp() + interval '12345 s' end, $10, $11)",
        )
        .await
        .unwrap();
    let mut runner = TestRunner::default();
    for _ in 0..2000 {
        let facts = facts().new_tree(&mut runner).unwrap().current();
        let rules = rules().new_tree(&mut runner).unwrap().current();
        let row = client
            .query_one(
                &statement,
                &[
                    &facts.outcome.as_str(),
                    &facts.cancel_pending,
                    &facts.counts.failures,
                    &facts.counts.lost,
                    &facts.counts.transients,
                    &facts.counts.interruptions,
                    &serde_json::to_value(rules).unwrap(),
                    &facts.lasted,
                    &facts.says_when,
                    &facts.jitter,
                    &facts.after_outage,
                ],
            )
            .await
            .unwrap();
        let next = settle(&facts, &rules);
        let status: JobStatus = row.get::<_, &str>(0).parse().unwrap();
        let counts =
            Counts { failures: row.get(2), lost: row.get(3), transients: row.get(4), interruptions: row.get(5) };
        assert_eq!((status, counts), (next.status, next.counts), "{facts:?} {rules:?}");
        let wait: Option<f64> = row.get(1);
        let expected = next.due.map(|due| match due {
            Due::Now => 0.0,
            Due::After(wait) => wait,
            Due::AsSaid => 12345.0,
        });
        assert_eq!(wait.is_some(), expected.is_some(), "{facts:?} {rules:?}");
        if let (Some(wait), Some(expected)) = (wait, expected) {
            assert!((wait - expected).abs() < 1.0, "{wait} {expected} {facts:?} {rules:?}");
        }
    }
}

#[tokio::test]
async fn the_rule_for_late_results_in_sql_is_the_one_in_the_model() {
    let test = TestDb::new().await;
    let client = test.client().await;
    let statement = client
        .prepare(
            "select orch.late_rule($1, $2::jsonb ->> 'on_lost', $3, d.next_status), d.next_lost_count, d.next_failures
               from orch.settle_rule($4, $5, $6, greatest($7::integer - $8::boolean::integer, 0), $9, $10, $2, $11, null, 1, false) d",
        )
        .await
        .unwrap();
    let mut runner = TestRunner::default();
    let found = (prop::option::of(prop::sample::select(JobStatus::ALL)), any::<bool>(), any::<bool>());
    for _ in 0..2000 {
        let facts = Facts { says_when: false, ..facts().new_tree(&mut runner).unwrap().current() };
        let rules = rules().new_tree(&mut runner).unwrap().current();
        let (status, lost_counted, key_taken) = found.new_tree(&mut runner).unwrap().current();
        let row = client
            .query_one(
                &statement,
                &[
                    &status.map(JobStatus::as_str),
                    &serde_json::to_value(rules).unwrap(),
                    &key_taken,
                    &facts.outcome.as_str(),
                    &facts.cancel_pending,
                    &facts.counts.failures,
                    &facts.counts.lost,
                    &lost_counted,
                    &facts.counts.transients,
                    &facts.counts.interruptions,
                    &facts.lasted,
                ],
            )
            .await
            .unwrap();
        let next = settle_late(&facts, &Reaped { status, lost_counted, key_taken }, &rules);
        let said = row.get::<_, Option<&str>>(0).map(|word| word.parse::<JobStatus>().unwrap());
        assert_eq!(said, next.map(|next| next.status), "{status:?} {key_taken} {facts:?} {rules:?}");
        if let Some(next) = next {
            assert_eq!((row.get::<_, i32>(1), row.get::<_, i32>(2)), (next.counts.lost, next.counts.failures));
        }
    }
}
