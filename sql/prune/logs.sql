-- Delete output of jobs that ended long ago, before the jobs themselves: their logs may be a thousand times as big.
--
-- $1 bigint[]          job ids
-- $2 double precision  for how many seconds what has ended is kept
-- $3 bigint            how many chunks at the most
-- rows: one: chunks, how many were deleted; fewer than $3 where none is left
-- guard: ended that long ago under its lock, no open run; jobs that somebody has locked are passed over
-- index: the primary keys, agent_runs_job, agent_runs_one_open_a_job
with old as materialized (
    select j.id
      from orch.jobs j
     where j.id = any ($1)
       and j.status in ('succeeded', 'failed', 'cancelled')
       and j.finished_at < now() - make_interval(secs => $2)
       and j.awaits_replica is null
       and not exists (select from orch.agent_runs r where r.job_id = j.id and r.ended_at is null)
     order by j.id
       for update skip locked
),
chunks as materialized (
    select l.run_id, l.position
      from old o
      join orch.agent_runs r on r.job_id = o.id
      join orch.run_logs l on l.run_id = r.run_id
     limit $3
),
deleted as (
    delete from orch.run_logs l using chunks c where l.run_id = c.run_id and l.position = c.position returning l.run_id
)
select count(*) as chunks from deleted
