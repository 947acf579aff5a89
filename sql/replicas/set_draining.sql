-- Tell replicas to claim nothing more, or to claim again: an operator's act. Their runs are not touched.
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
)
select a.replica_id, a.draining is distinct from $2 as changed from asked a
