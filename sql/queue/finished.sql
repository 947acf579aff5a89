-- What finished, by project and status, in pieces of five minutes, so that later only the last ones are counted again.
--
-- A job counts once, by the run that ended it: one that was retried since counts no more, and one that was cancelled before
-- it ever ran has no run to count by.
-- $1 timestamptz   only runs that ended from here on, or null for the last 24 hours
-- rows: piece (its beginning), project, status, jobs, counted_at; at least one, with a null piece where nothing finished
-- guard: none
-- index: agent_runs_ended, then the primary key of jobs
select f.piece, f.project, f.status, coalesce(f.jobs, 0) as jobs, c.counted_at
  from (select clock_timestamp() as counted_at) c
  left join (
    select date_bin('5 minutes', r.ended_at, 'epoch') as piece, j.project, j.status,
           count(*) filter (where j.last_run_id = r.run_id and j.finished_at is not null) as jobs
      from orch.agent_runs r
      join orch.jobs j on j.id = r.job_id
     where r.ended_at >= coalesce($1, now() - interval '24 hours')
     group by 1, 2, 3
  ) f on f.jobs > 0
