-- Sanitize, second kind: open runs that no job runs. The history is closed, and says so.
--
-- $1 bigint   how many at the most
-- rows: run_id, job_id
-- guard: still open under its lock, and its job does not run it
-- index: agent_runs_open
with idle as materialized (
    select r.run_id
      from orch.agent_runs r
     where r.ended_at is null
       and not exists (select from orch.jobs j where j.id = r.job_id and j.status = 'running' and j.run_id = r.run_id)
     order by r.job_id
     limit $1
       for update skip locked
),
closed as (
    update orch.agent_runs r
       set ended_at = clock_timestamp(), outcome = 'interrupted', closed_by = 'sanitize',
           error = 'closed by the sanitizer: no job runs this run'
      from idle i
     where r.run_id = i.run_id and r.ended_at is null
    returning r.run_id, r.job_id
),
told as (
    insert into orch.events (kind, job_id, run_id)
    select 'idle_run_closed', job_id, run_id from closed
)
select run_id, job_id from closed
