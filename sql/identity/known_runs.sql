-- Which of these runs the database knows, open or ended.
--
-- $1 uuid[]   run_ids
-- rows: run_id, job_id, open, ending (it is over by an operator's hand, and its job waits until its process is gone)
-- guard: none
-- index: agent_runs_pkey, jobs_pkey
select r.run_id, r.job_id, r.ended_at is null as open,
       coalesce(j.awaits_replica is not null and j.last_run_id = r.run_id, false) as ending
  from unnest($1) with ordinality asked (run_id, position)
  join orch.agent_runs r on r.run_id = asked.run_id
  left join orch.jobs j on j.id = r.job_id
 order by asked.position
