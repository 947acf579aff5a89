-- Acknowledge that the old process of a job is gone: from now on the job may be claimed.
--
-- $1 uuid     replica_id of the former owner
-- $2 bigint   job_id
-- $3 uuid     run_id of the old process
-- rows: job_id, if it was waiting for this
-- guard: awaits_replica and last_run_id
-- index: the primary key
update orch.jobs
   set awaits_replica = null, claimable = status = 'queued' and waits_for is null
 where id = $2 and awaits_replica = $1 and last_run_id is not distinct from $3
returning id as job_id
