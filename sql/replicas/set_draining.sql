-- Tell replicas to claim nothing more, or to claim again: an operator's act. Their runs are not touched. What may claim again
-- hears of it on its own channel: no enqueue has told it of what waits.
--
-- $1 uuid[]    replica_ids
-- $2 boolean   whether they are to drain
-- rows: replica_id, changed (false where it was so already); none for one that is not live
-- guard: live
-- index: the primary key
with asked as (
    select replica_id, draining from orch.replicas where replica_id = any ($1) and state = 'live' order by replica_id for update
),
changed as (
    update orch.replicas p set draining = $2
      from asked a
     where p.replica_id = a.replica_id and a.draining is distinct from $2
    returning p.replica_id, p.name, p.host
),
told as (
    insert into orch.events (kind, detail)
    select case when $2 then 'draining' else 'drain_ended' end,
           jsonb_build_object('replica_id', replica_id, 'name', name, 'host', host)
      from changed
),
woken as (
    -- A commit that notifies into a full queue fails.
    select pg_notify('orch_' || replica_id, '') as said from changed where not $2 and pg_notification_queue_usage() <= 0.5
)
select a.replica_id, a.draining is distinct from $2 as changed from asked a where (select count(said) from woken) >= 0
