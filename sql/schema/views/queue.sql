-- What the queue holds, by project, agent and status. Counts every row: on a long history, ask for live ones
-- (where status in ('queued', 'held', 'running')) or use GET /queue.
create or replace view orch.queue as
select j.project, j.agent, j.status, count(*) as jobs,
       count(*) filter (where j.status = 'queued' and j.run_at <= now() and j.waits_for is null) as due,
       min(j.run_at) filter (where j.status = 'queued') as next_run_at
  from orch.jobs j
 group by j.project, j.agent, j.status
 order by j.project, j.agent, j.status;
comment on view orch.queue is 'Counts by project, agent and status.';
comment on column orch.queue.project is 'The project.';
comment on column orch.queue.agent is 'The agent.';
comment on column orch.queue.status is 'The status.';
comment on column orch.queue.jobs is 'How many jobs of this project and agent have it.';
comment on column orch.queue.due is 'How many of them are queued, past their run_at, and wait for no other job.';
comment on column orch.queue.next_run_at is 'When the first of the queued ones is, or was, due.';
