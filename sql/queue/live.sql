-- What lives, and the totals, in one snapshot.
--
-- rows: one: projects (jsonb: project to status to count, without zeros), max_concurrency, running (jsonb array, the
--       oldest first), oldest_queued_seconds (null where no job is due), replicas (jsonb array, live ones), last_tick_at,
--       reaped_total, impossible_queued_total, guard_repairs_total, counted_at
-- guard: none
-- index: jobs_claim, jobs_set_aside, jobs_waits_for and agent_runs_open: none of them holds a finished job; the end of run_logs_pkey for
--        each running one
with running as materialized (
    select j.id, r.run_id, j.pid, j.agent, j.project, p.name as replica, r.host, r.replica_id, r.claimed_at, p.lease_until,
           coalesce(o.at, r.spawned_at) as output_at
      from orch.agent_runs r
      join orch.jobs j on j.id = r.job_id and j.run_id = r.run_id and j.status = 'running'
      left join orch.replicas p on p.replica_id = r.replica_id
      left join lateral (select l.at from orch.run_logs l where l.run_id = r.run_id order by l.position desc limit 1) o
           on true
     where r.ended_at is null
),
queued as materialized (
    select project, count(*) as jobs, min(run_at) as oldest from orch.jobs where claimable group by project
),
aside as materialized (
    select project, status, count(*) as jobs, min(run_at) as oldest from orch.jobs where set_aside group by project, status
),
-- held ones are aside already
waits as materialized (
    select project, count(*) as jobs from orch.jobs where waits_for is not null and not set_aside group by project
),
counts as (
    select project, status, sum(jobs) as jobs
      from (select project, 'queued' as status, jobs from queued
            union all select project, 'queued', jobs from waits
            union all select project, status, jobs from aside
            union all select project, 'running', count(*) from running group by project) each
     group by project, status
),
projects as (
    select project, jsonb_object_agg(status, jobs) as statuses from counts group by project
),
replicas as (
    select p.*, (select count(*) from running r where r.replica_id = p.replica_id) as running
      from orch.replicas p
     where p.state = 'live'
)
select (select coalesce(jsonb_object_agg(project, statuses), '{}') from projects) as projects,
       (select coalesce(sum(max_concurrency), 0)::bigint from replicas) as max_concurrency,
       (select coalesce(jsonb_agg(jsonb_build_object(
                   'job_id', id, 'run_id', run_id, 'pid', pid, 'agent', agent, 'project', project, 'replica', replica,
                   'host', host,
                   'age_seconds', extract(epoch from clock_timestamp() - claimed_at)::double precision,
                   'lease_left_seconds', extract(epoch from lease_until - clock_timestamp())::double precision,
                   'output_age_seconds', extract(epoch from clock_timestamp() - output_at)::double precision)
               order by claimed_at, id), '[]') from running) as running,
       (select extract(epoch from clock_timestamp() - min(oldest))::double precision
          from (select oldest from queued union all select oldest from aside where status = 'queued') q
         where oldest <= clock_timestamp()) as oldest_queued_seconds,
       (select coalesce(jsonb_agg(jsonb_build_object(
                   'replica_id', replica_id, 'name', name, 'host', host, 'version', version, 'draining', draining,
                   'agents', agents, 'max_concurrency', max_concurrency, 'running', running, 'started_at', started_at,
                   'lease_left_seconds', extract(epoch from lease_until - clock_timestamp())::double precision)
               order by name, replica_id), '[]') from replicas) as replicas,
       m.last_tick_at,
       coalesce((select value from orch.counters where name = 'reaped_total'), 0) as reaped_total,
       coalesce((select value from orch.counters where name = 'impossible_queued_total'), 0) as impossible_queued_total,
       coalesce((select value from orch.counters where name = 'guard_repairs_total'), 0) as guard_repairs_total,
       clock_timestamp() as counted_at
  from orch.meta m
