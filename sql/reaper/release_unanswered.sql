-- Let jobs go on that wait for a replica which will never answer: it is not live any more, so its processes are gone.
--
-- $1 bigint   how many at the most
-- rows: job_id
-- guard: still waiting under its lock, for a replica that is not live
-- index: jobs_awaits_replica
with waiting as materialized (
    select j.id
      from orch.jobs j
     where j.awaits_replica is not null
       and not exists (select from orch.replicas p where p.replica_id = j.awaits_replica and p.state = 'live')
     order by j.id
     limit $1
       for update skip locked
)
update orch.jobs j
   set awaits_replica = null, claimable = j.status = 'queued' and j.waits_for is null
  from waiting w
 where j.id = w.id and j.awaits_replica is not null
returning j.id as job_id
