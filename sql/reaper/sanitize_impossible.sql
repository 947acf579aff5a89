-- Sanitize, first kind: rows that carry an owner although they do not run (job 2286). They are written back as what
-- their status says, and counted. A healthy row is not written.
--
-- $1 bigint   how many at the most
-- rows: job_id, the status and the owner that was found
-- guard: the row is still impossible under its lock
-- index: jobs_impossible
with bad as materialized (
    select j.id, j.status, j.run_id, j.pid, j.replica_id, j.started_at
      from orch.jobs j
     where j.impossible and j.status <> 'running'
     order by j.id
     limit $1
       for update skip locked
),
repaired as (
    update orch.jobs j
       set run_id = null, replica_id = null, pid = null, started_at = null, running_gate = null
      from bad b
     where j.id = b.id
    returning j.id
),
counted as (
    insert into orch.counters as c (name, value)
    select 'impossible_queued_total', n from (select count(*) as n from repaired) r where n > 0
    on conflict (name) do update set value = c.value + excluded.value
),
told as (
    insert into orch.events (kind, job_id, run_id, detail)
    select 'impossible_queued', b.id, b.run_id,
           jsonb_build_object('status', b.status, 'run_id', b.run_id, 'pid', b.pid, 'replica_id', b.replica_id,
                              'started_at', b.started_at)
      from bad b join repaired r on r.id = b.id
)
select b.id as job_id, b.status, b.run_id, b.pid
  from bad b join repaired r on r.id = b.id
