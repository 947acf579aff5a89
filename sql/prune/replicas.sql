-- Delete the rows of replicas that have been gone for long.
--
-- $1 double precision  for how many seconds what has ended is kept
-- $2 bigint            how many at the most
-- rows: one: replicas, how many were deleted
-- guard: dead or left, which is for ever; no open run is its own, no job waits for its word
-- index: agent_runs_open and jobs_awaits_replica; replicas itself is a small table and walked
with old as materialized (
    select p.replica_id
      from orch.replicas p
     where p.state <> 'live'
       and p.lease_until < now() - make_interval(secs => $1)
       and not exists (select from orch.agent_runs r where r.replica_id = p.replica_id and r.ended_at is null)
       and not exists (select from orch.jobs j where j.awaits_replica = p.replica_id)
     order by p.replica_id
     limit $2
       for update skip locked
),
deleted as (
    delete from orch.replicas p using old o where p.replica_id = o.replica_id returning p.replica_id
)
select count(*) as replicas from deleted
