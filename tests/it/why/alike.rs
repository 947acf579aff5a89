//! What `orch.waiting` says of all jobs beside what `orch.why` says of each: the same reason, times and detail.

use tokio_postgres::Client;

use super::{enqueue, why};
use crate::{
    played::Played,
    support::{Orch, TestDb},
};

/// The jobs of which the two do not say the same, and what they say. `orch.waiting` names in short what `orch.why` has in full. Both count
/// who is ahead as far as they look, so that of two which say "at least" the numbers may differ, and of one that does not
/// it is no less.
pub(super) const DIFFERS: &str = r"
with one as (
    select j.id, y.reason, y.since, y.until,
           case y.reason
               when 'held' then coalesce('by ' || (y.detail ->> 'held_by'), left(j.error, 300))
               when 'old_process_ending' then format('pid %s on %s', coalesce(y.detail #>> '{old_run,pid}', 'not known'),
                                                     y.detail #>> '{old_run,host}')
               when 'waits_for_jobs' then (select 'jobs ' || string_agg(a ->> 'job_id', ', ' order by n)
                                             from jsonb_array_elements(y.detail -> 'after') with ordinality u (a, n))
               when 'not_due' then left(j.error, 300)
               when 'serial_gate' then y.detail #>> '{gate,name}'
               when 'no_replica_serves_agent' then y.detail ->> 'agent'
               when 'no_replica_matches_labels' then (y.detail -> 'require')::text
               when 'fair_share' then (y.detail ->> 'ahead_of_it') || ' ahead of it'
               when 'no_free_slot' then (y.detail ->> 'ahead_of_it') || ' ahead of it'
               else y.detail #>> '{limit,name}'
           end as detail,
           (y.detail ->> 'ahead_at_least')::boolean as at_least
      from orch.jobs j, orch.why(j.id) y
     where j.status in ('queued', 'held')
)
select format(E'why:     %s\nwaiting: %s', to_jsonb(o), to_jsonb(w))
  from one o full join orch.waiting w on w.job_id = o.id
 where (o.reason, o.since, o.until) is distinct from (w.reason, w.since, w.until)
    or case when w.detail like 'at least %'
            then substring(o.detail from '\d+')::integer < substring(w.detail from '\d+')::integer
            else o.detail is distinct from w.detail or o.at_least end
";

/// The jobs of which `orch.why` does not name who is in the way, and what it says.
pub(super) const UNNAMED: &str = r"
select format('%s: %s', j.id, y.detail)
  from orch.jobs j
 cross join lateral orch.why(j.id) y
 cross join lateral (select coalesce(jsonb_array_length(y.detail -> 'before_it'), 0) as before) b
 where case y.reason
           when 'fair_share' then b.before <> least((y.detail ->> 'ahead_of_it')::bigint, 10)
           when 'no_free_slot' then b.before <> least((y.detail ->> 'ahead_of_it')::bigint, 10)
                                    or y.detail -> 'kept_by' = '[]' and y.detail -> 'others_first' is null
                                       and exists (select from orch.free_slots f
                                                    where f.max_concurrency > 0 and orch.serves(f.replica, j.agent, j.require))
                                    or y.detail -> 'others_first' is null
                                       and exists (select from orch.free_slots f
                                                    where f.free > 0 and orch.serves(f.replica, j.agent, j.require))
           when 'limit_full' then ((y.detail #>> '{limit,room}')::integer > 0) <> (b.before > 0)
                                  or b.before = 0 and y.detail #> '{limit,held_by}' = '[]'
           when 'serial_gate' then y.detail #>> '{gate,held_by}' is null and y.detail ->> 'first' is null
           when 'old_process_ending' then y.detail #>> '{old_run,run_id}' is null
           else b.before > 0
       end
";

/// That all is said, and said alike.
pub(super) async fn agree(client: &Client) {
    for faults in [DIFFERS, UNNAMED] {
        let faults: Vec<String> = client.query(faults, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert!(faults.is_empty(), "{faults:#?}");
    }
}

async fn detail(client: &Client, job: i64) -> Option<String> {
    client.query_one("select detail from orch.waiting where job_id = $1", &[&job]).await.unwrap().get(0)
}

#[tokio::test]
async fn until_and_detail_are_of_the_reason_and_of_nothing_else() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let client = db.client().await;
    client
        .batch_execute(
            r#"select orch.set_limit('shut'), orch.set_limit('probing');
               select orch.close_limit('shut', now() + interval '1 h');
               select orch.close_limit('probing');
               update orch.limits set closed_until = clock_timestamp() where name = 'probing';
               select orch.enqueue('b', limits => '{shut}');
               select orch.enqueue('a', limits => '{shut}', require => '{"zone": "eu"}');
               select orch.hold(orch.enqueue('a', run_at => now() + interval '1 h'));
               select orch.enqueue('a', run_at => now() + interval '1 h', after => '{1}');
               select orch.enqueue('a', limits => '{probing}'), orch.enqueue('a', limits => '{probing}')"#,
        )
        .await
        .unwrap();
    agree(&client).await;
    let asked =
        "select reason, coalesce(until::text, 'not known'), coalesce(detail, '') from orch.waiting order by job_id";
    let told = client.query(asked, &[]).await.unwrap();
    let told: Vec<[String; 3]> = told.iter().map(|row| [0, 1, 2].map(|column| row.get(column))).collect();
    let user: String = client.query_one("select session_user::text", &[]).await.unwrap().get(0);
    let expected = [
        ["no_replica_serves_agent", "not known", "b"],
        ["no_replica_matches_labels", "not known", r#"{"zone": "eu"}"#],
        ["held", "infinity", &format!("by {user}")],
        ["waits_for_jobs", "not known", "jobs 1"],
        ["next", "not known", ""],
        ["limit_full", "not known", "probing"],
    ];
    assert_eq!(told, expected);
    let orch = Orch::on(&db);
    assert_eq!(why(&orch, 3).await["until"], "infinity");
    let text = orch.run(["why", "3"]).await.ok().stdout;
    assert!(text.contains("\nuntil     further notice\n"), "{text}");
}

#[tokio::test]
async fn who_holds_a_job_is_told_of_its_present_hold_and_of_no_earlier_one() {
    let db = TestDb::new().await;
    let played = Played::on(&db, &["a"]).await;
    let (orch, client) = (Orch::on(&db), db.client().await);
    client.batch_execute("update orch.agents set on_lost = 'hold'").await.unwrap();
    let held_by = async |job: i64| {
        let told = why(&orch, job).await;
        assert_eq!(told["reason"], "held", "{told}");
        (told["detail"]["held_by"].is_string(), told["since"].as_str().unwrap().to_owned())
    };
    let id = enqueue(&orch, &["a"]).await;
    orch.run(["hold", "1"]).await.ok();
    let first = held_by(id).await;
    assert!(first.0);

    // A rule holds it after a hold that is over.
    orch.run(["release", "1"]).await.ok();
    let claimed = played.claim().await.unwrap();
    played.settle(claimed, orch::model::Outcome::Lost).await;
    let second = held_by(id).await;
    assert!(!second.0 && second.1 > first.1, "{first:?} {second:?}");
    assert!(detail(&client, id).await.unwrap().contains("on_lost"));

    // An operator holds it after a run.
    orch.run(["release", "1"]).await.ok();
    orch.run(["hold", "1"]).await.ok();
    let third = held_by(id).await;
    assert!(third.0 && third.1 > second.1, "{second:?} {third:?}");

    // And takes it from a replica.
    orch.run(["release", "1"]).await.ok();
    played.claim().await.unwrap();
    client.batch_execute("update orch.jobs set status = 'held'").await.unwrap();
    let fourth = held_by(id).await;
    assert!(fourth.0 && fourth.1 > third.1, "{third:?} {fourth:?}");
    agree(&client).await;
}

#[tokio::test]
async fn how_many_are_ahead_is_counted_behind_the_first_slots_too() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let client = db.client().await;
    client
        .batch_execute("select orch.enqueue('a', priority => (n % 3)::smallint) from generate_series(1, 300) n")
        .await
        .unwrap();
    agree(&client).await;
    let ranked = "select count(*), min(substring(detail from '^(\\d+) ahead of it$')::integer),
                         max(substring(detail from '^(\\d+) ahead of it$')::integer) from orch.waiting where reason = 'fair_share'";
    let row = client.query_one(ranked, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i32>(1), row.get::<_, i32>(2)), (296, 4, 299));
}

#[tokio::test]
async fn where_not_all_are_looked_at_no_more_are_said_to_be_ahead_than_are_and_at_least_is_said() {
    let db = TestDb::new().await;
    Played::on(&db, &["a"]).await;
    let (orch, client) = (Orch::on(&db), db.client().await);
    client
        .batch_execute(
            "insert into orch.jobs (agent, project, priority, run_at)
             select 'a', 'p', 1 - n / 3001, now() - interval '1 min' + n * interval '1 ms' from generate_series(1, 6000) n",
        )
        .await
        .unwrap();
    client.batch_execute("vacuum analyze orch.jobs").await.unwrap();
    // They are in the order of their numbers: so many are ahead as have smaller ones.
    let wrong = "select w.job_id, w.detail from orch.waiting w
                  where w.reason <> 'next'
                    and case when w.detail like 'at least %' then substring(w.detail from '\\d+')::integer > w.job_id - 1
                             else w.detail is distinct from w.job_id - 1 || ' ahead of it' end";
    let wrong: Vec<(i64, Option<String>)> =
        client.query(wrong, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(wrong.is_empty(), "{} of them, such as {:?}", wrong.len(), wrong.first());
    assert_eq!(detail(&client, 2048).await.unwrap(), "2047 ahead of it");
    for job in [2_500, 3_001, 6_000] {
        let told = detail(&client, job).await.unwrap();
        assert!(told.starts_with("at least "), "{job}: {told}");
    }
    // `why` looks further in the job's own lane.
    for (job, ahead, at_least) in [(2_500, 2_499, false), (3_001, 2_048, true)] {
        let told = why(&orch, job).await;
        assert_eq!(told["detail"]["ahead_of_it"], ahead, "{told}");
        assert_eq!(told["detail"]["ahead_at_least"].as_bool().unwrap_or_default(), at_least, "{told}");
        let sentence = told["sentence"].as_str().unwrap();
        assert_eq!(sentence.contains("at least"), at_least, "{sentence}");
    }
}
