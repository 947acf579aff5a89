-- What the queue holds, by project, agent and status. Counts every row: on a long history, ask for live ones
-- (where status in ('queued', 'held', 'running')) or use GET /queue.
create or replace view orch.queue as
select j.project, j.agent, j.status, count(*) as jobs,
       count(*) filter (where j.status = 'queued' and j.run_at <= now()) as due,
       min(j.run_at) filter (where j.status = 'queued') as next_run_at
  from orch.jobs j
 group by j.project, j.agent, j.status
 order by j.project, j.agent, j.status;
comment on view orch.queue is 'Counts by project, agent and status.';
