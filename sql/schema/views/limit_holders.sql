-- Who holds which limit: every open run each limit that it needed at its claim, and the three that every job needs unsaid
-- where they have a row. A job that an operator took from its replica holds them until the old process is gone.
--
-- This is the count, and there is no other: no counter that could drift, no semaphore that could expire.
create or replace view orch.limit_holders as
with holding as not materialized (
    select r.run_id, r.job_id, r.replica_id, r.host, r.project, r.agent, r.limits, r.claimed_at
      from orch.agent_runs r
     where r.ended_at is null
    union all
    select r.run_id, r.job_id, r.replica_id, r.host, r.project, r.agent, r.limits, r.claimed_at
      from orch.jobs j
      join orch.agent_runs r on r.run_id = j.last_run_id
     where j.awaits_replica is not null and r.ended_at is not null
)
select u.name, h.run_id, h.job_id, h.replica_id, h.host, h.claimed_at
  from holding h cross join lateral unnest(h.limits) u (name)
 where h.limits is not null
union all
select l.name, h.run_id, h.job_id, h.replica_id, h.host, h.claimed_at
  from orch.limits l join holding h on true
 where l.name = 'all'
union all
select l.name, h.run_id, h.job_id, h.replica_id, h.host, h.claimed_at
  from orch.limits l join holding h on h.project = substr(l.name, 9)
 where l.name like 'project:%'
union all
select l.name, h.run_id, h.job_id, h.replica_id, h.host, h.claimed_at
  from orch.limits l join holding h on h.agent = substr(l.name, 7)
 where l.name like 'agent:%';
comment on view orch.limit_holders is 'Who holds which limit: one row a limit and a run.';
comment on column orch.limit_holders.name is 'The limit.';
comment on column orch.limit_holders.run_id is 'The run that holds it.';
comment on column orch.limit_holders.job_id is 'Its job.';
comment on column orch.limit_holders.replica_id is 'The replica that has it.';
comment on column orch.limit_holders.host is 'Where it runs.';
comment on column orch.limit_holders.claimed_at is 'Since when.';
