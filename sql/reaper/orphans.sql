-- Running jobs whose owner is dead or has left, as tokens: each is settled as lost by the run_id and replica_id seen here.
--
-- $1 bigint   how many at the most
-- rows: job_id, run_id, replica_id
-- guard: none here; the settle is guarded by the token, so repeating it is harmless and an adoption in between wins
-- index: agent_runs_open, then the primary key of jobs
select j.id as job_id, j.run_id, j.replica_id
  from orch.agent_runs r
  join orch.replicas p on p.replica_id = r.replica_id and p.state <> 'live'
  join orch.jobs j on j.id = r.job_id
 where r.ended_at is null
   and j.status = 'running' and j.run_id = r.run_id and j.replica_id = r.replica_id
 order by j.id
 limit $1
