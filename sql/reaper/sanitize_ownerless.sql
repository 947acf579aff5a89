-- Sanitize, third kind, the repair: a running row without an owner or an open run goes back to the queue the way an
-- operator's plain UPDATE would send it: the trigger nulls ownership, closes what is open, and, where an owner is
-- known, has the job wait until that replica has ended the old process.
--
-- $1 bigint[]   job_ids that the walk found
-- rows: job_id
-- guard: still running, still without, under its lock
-- index: the primary key
with bad as materialized (
    select j.id
      from orch.jobs j
     where j.id = any ($1)
       and j.status = 'running'
       and (not exists (select from orch.replicas o where o.replica_id = j.replica_id)
            or not exists (select from orch.agent_runs r
                            where r.run_id = j.run_id and r.job_id = j.id
                              -- as in the tick: not by agent_runs_open
                              and r.replica_id is not distinct from j.replica_id
                              and r.ended_at is null))
     order by j.id
       for update skip locked
),
told as (
    insert into orch.events (kind, job_id) select 'ownerless_requeued', id from bad
)
update orch.jobs j
   set status = 'queued'
  from bad b
 where j.id = b.id
returning j.id as job_id
