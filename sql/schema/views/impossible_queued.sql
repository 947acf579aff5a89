-- Rows that carry an owner although they do not run: what guard and CHECK refuse, and what the sanitizer repairs. Both
-- the sanitizer and orch.violations stand on the same stored column, jobs.impossible.
create or replace view orch.impossible_queued as
select j.id as job_id, j.status, j.run_id, j.pid, j.replica_id, j.started_at, j.running_gate
  from orch.jobs j
 where j.impossible and j.status <> 'running';
comment on view orch.impossible_queued is 'Rows that carry an owner although they do not run; empty while the guards hold.';
comment on column orch.impossible_queued.job_id is 'The job''s number.';
comment on column orch.impossible_queued.status is 'What it says of itself.';
comment on column orch.impossible_queued.run_id is 'The run that it carries.';
comment on column orch.impossible_queued.pid is 'The pid that it carries; whoever has it now has nothing to do with the job.';
comment on column orch.impossible_queued.replica_id is 'The owner that it carries.';
comment on column orch.impossible_queued.started_at is 'Since when, by what it carries.';
comment on column orch.impossible_queued.running_gate is 'The gate that it keeps from others.';
