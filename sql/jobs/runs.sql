-- The runs of a job, the first one first.
--
-- $1 bigint   job id
-- rows: the run, and its owner's name
-- guard: none
-- index: agent_runs_job
select r.run_id, r.attempt, r.replica_id, p.name as replica, r.host, r.pid, r.claimed_at, r.spawned_at, r.ended_at,
       r.outcome, r.exit_code, r.signal, r.error, r.result::text as result, r.closed_by, r.containment,
       r.user_cpu_seconds, r.system_cpu_seconds, r.peak_memory_bytes, r.log_bytes_kept, r.log_bytes_dropped,
       r.processes_killed
  from orch.agent_runs r
  left join orch.replicas p on p.replica_id = r.replica_id
 where r.job_id = $1
 order by r.attempt, r.claimed_at
