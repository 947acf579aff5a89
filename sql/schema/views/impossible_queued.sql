-- Rows that carry an owner although they do not run: what guard and CHECK refuse, and what the sanitizer repairs. Both
-- the sanitizer and orch.violations stand on the same stored column, jobs.impossible.
create or replace view orch.impossible_queued as
select j.id as job_id, j.status, j.run_id, j.pid, j.replica_id, j.started_at, j.running_gate
  from orch.jobs j
 where j.impossible and j.status <> 'running';
comment on view orch.impossible_queued is 'Rows that carry an owner although they do not run; empty while the guards hold.';
