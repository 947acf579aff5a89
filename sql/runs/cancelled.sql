-- The live runs of a replica that somebody wants to be cancelled.
--
-- $1 uuid   replica_id
-- rows: run_id
-- guard: none; the owner ends the tree and settles by its token
-- index: agent_runs_open, then the primary key of jobs
select r.run_id
  from orch.agent_runs r
  join orch.jobs j on j.id = r.job_id
 where r.replica_id = $1 and r.ended_at is null
   and j.run_id = r.run_id and j.cancel_requested_at is not null
