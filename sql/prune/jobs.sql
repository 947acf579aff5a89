-- Delete jobs that ended long ago, with their runs and what output of them is left.
--
-- $1 bigint[]          job ids
-- $2 double precision  for how many seconds what has ended is kept
-- rows: one: jobs, how many were deleted
-- guard: ended that long ago under its lock, no open run, and no job that has yet to hear of its end; jobs that somebody has
--        locked are passed over
-- index: the primary keys, agent_runs_job, agent_runs_one_open_a_job, job_dependencies_after
with old as materialized (
    select j.id
      from orch.jobs j
     where j.id = any ($1)
       and j.status in ('succeeded', 'failed', 'cancelled')
       and j.finished_at < now() - make_interval(secs => $2)
       and j.awaits_replica is null
       and not exists (select from orch.agent_runs r where r.job_id = j.id and r.ended_at is null)
       and not exists (select from orch.job_dependencies d join orch.jobs w on w.id = d.job_id
                        where d.after_id = j.id and j.id = any (w.waits_for))
     order by j.id
       for update skip locked
),
runs as (
    delete from orch.agent_runs r using old o where r.job_id = o.id and r.ended_at is not null returning r.run_id
),
logs as (
    delete from orch.run_logs l using runs r where l.run_id = r.run_id
),
forgotten as (
    delete from orch.job_dependencies d using old o where d.job_id = o.id
),
deleted as (
    delete from orch.jobs j using old o where j.id = o.id returning j.id
)
select count(*) as jobs from deleted
