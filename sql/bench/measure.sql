-- How far a pass of the bench has come, and how long it took.
--
-- $1 bigint   first job_id
-- $2 bigint   last job_id
-- rows: one: jobs that have not finished, runs that succeeded, seconds from the first claim to the last settle
-- guard: none
-- index: the primary key of jobs, agent_runs_job
select (select count(*) from orch.jobs j where j.id between $1 and $2 and j.finished_at is null) as live,
       count(*) filter (where r.outcome = 'succeeded') as succeeded,
       extract(epoch from max(r.ended_at) - min(r.claimed_at))::double precision as seconds
  from orch.agent_runs r
 where r.job_id between $1 and $2
