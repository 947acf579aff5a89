-- Stamp the pids of runs whose processes exist by now.
--
-- $1 uuid        replica_id of the owner
-- $2 bigint[]    job_ids
-- $3 uuid[]      run_ids
-- $4 integer[]   pids
-- $5 bigint[]    their start times, in clock ticks since boot
-- $6 text[]      containments
-- rows: run_id of each that was stamped; one that is missing is no longer ours
-- guard: run_id and replica_id
-- index: the primary keys
with facts as (
    select *
      from unnest($2, $3, $4, $5, $6) as f (job_id, run_id, pid, pid_started, containment)
     -- all of them: it has the server expect one row here and not ten, or it would plan every stamp anew
     limit cardinality($2)
),
locked as materialized (
    select j.id, f.run_id, f.pid, f.pid_started, f.containment
      from orch.jobs j
      join facts f on f.job_id = j.id
     where j.status = 'running' and j.run_id = f.run_id and j.replica_id = $1
     order by j.id
       for update of j skip locked
),
stamped as (
    update orch.jobs j set pid = l.pid
      from locked l
     where j.id = l.id and j.run_id = l.run_id and j.replica_id = $1
    returning j.run_id
),
noted as (
    update orch.agent_runs r
       set pid = l.pid, pid_started = l.pid_started, containment = l.containment, spawned_at = coalesce(r.spawned_at, clock_timestamp())
      from locked l
     -- is open, said so that an index of open runs is of no use for it: each is looked up by its key, however many are open
     where r.run_id = l.run_id and r.replica_id = $1 and coalesce(r.ended_at, 'infinity') = 'infinity'
)
select run_id from stamped
