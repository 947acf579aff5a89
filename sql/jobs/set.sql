-- Change when, or before which others, a job that does not run is to run. Made due, it is told as an enqueue is.
--
-- $1 bigint            id
-- $2 smallint          priority, or null to leave it
-- $3 timestamptz       not before this instant, or null
-- $4 double precision  not before so many seconds from now, or null
-- rows: priority and run_at as they are now; none where the job is not there, or neither queued nor held
-- guard: queued or held
-- index: the primary key
with changed as (
    update orch.jobs
       set priority = coalesce($2, priority),
           run_at = coalesce($3, now() + make_interval(secs => $4), run_at)
     where id = $1 and status in ('queued', 'held')
    returning id, priority, run_at, agent, require, claimable
),
told as (
    insert into orch.events (kind, job_id, detail)
    select 'set', id, jsonb_build_object('priority', priority, 'run_at', run_at) from changed
),
woken as (
    select orch.wake(agent, require) as replicas
      from changed where claimable and run_at <= now() and num_nonnulls($3, $4) > 0
)
select c.priority, c.run_at from changed c where (select count(replicas) from woken) >= 0
