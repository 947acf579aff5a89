-- The gates that are taken, and by which run. A job that an operator took from its replica keeps its gate until the old
-- process is gone, so that two of one gate are never alive.
create or replace view orch.taken_gates as
select j.running_gate as gate, j.id as job_id, j.run_id, j.replica_id, j.started_at as since
  from orch.jobs j
 where j.running_gate is not null
union all
select j.gate, j.id, j.last_run_id, j.awaits_replica, r.claimed_at
  from orch.jobs j
  left join orch.agent_runs r on r.run_id = j.last_run_id
 where j.awaits_replica is not null and j.gate is not null;
comment on view orch.taken_gates is 'The gates that are taken, and by which run.';
comment on column orch.taken_gates.gate is 'The gate.';
comment on column orch.taken_gates.job_id is 'The job that keeps it.';
comment on column orch.taken_gates.run_id is 'Its run; of a job that was taken from its replica, the one whose process is being ended.';
comment on column orch.taken_gates.replica_id is 'The replica that has the process.';
comment on column orch.taken_gates.since is 'When that run was claimed.';
