-- The open runs of a replica, as tokens to settle them by: of a former boot, or of one that is dead.
--
-- $1 uuid   replica_id
-- rows: job_id, run_id, replica_id, agent
-- guard: the job still runs this run for this replica; each settle is guarded again
-- index: agent_runs_open, then the primary key of jobs
select j.id as job_id, j.run_id, j.replica_id, j.agent
  from orch.agent_runs r
  join orch.jobs j on j.id = r.job_id
 where r.replica_id = $1 and r.ended_at is null
   and j.status = 'running' and j.run_id = r.run_id and j.replica_id = r.replica_id
 order by j.id
