-- Settle: the only way out of `running`, for owner, successor and reap alike.
--
-- Facts come as arrays, one element a run; nulls where nothing is known.
-- $1  bigint[]            job_ids
-- $2  uuid[]              run_ids
-- $3  uuid[]              replica_ids: the owner's, a former boot's, or what a reap saw
-- $4  text[]              closed_by
-- $5  text[]              outcomes
-- $6  integer[]           exit codes
-- $7  integer[]           signals
-- $8  text[]              errors, for people
-- $9  text[]              results, JSON as text: what jsonb refuses fails the batch, which is then repeated one by one
-- $10 timestamptz[]       when a transient run wants to be tried again
-- $11 double precision[]  jitter, 0.5 to 1.5
-- $12 integer[]           pids, where the stamp did not come first
-- $13 bigint[]            their start times, in clock ticks since boot
-- $14 text[]              containments
-- $15 double precision[]  user CPU, seconds
-- $16 double precision[]  system CPU, seconds
-- $17 bigint[]            peak memory, bytes
-- $18 bigint[]            log bytes kept
-- $19 bigint[]            log bytes dropped
-- $20 integer[]           processes killed after the main process ended
-- $21 double precision[]  seconds since the program started; null where it did not
-- rows: job_id, run_id, answer: `settled` (with the next status), `busy` (another transaction holds the row: send it
--       again) or `not_yours` (no longer: a normal answer)
-- guard: run_id and replica_id of a running row, under its lock; rows are locked in id order and none is waited for
-- index: the primary keys
with facts as (
    select *
      from unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
           as f (job_id, run_id, replica_id, closed_by, outcome, exit_code, signal, error, result, retry_at, jitter, pid,
                 pid_started, containment, user_cpu, system_cpu, peak_memory, log_kept, log_dropped, killed, lasted)
),
locked as materialized (
    select f.*, j.cancel_requested_at is not null as cancel_pending,
           j.failures, j.lost_count, j.transient_count, j.interrupted_count, j.dedupe_key
      from orch.jobs j
      join facts f on f.job_id = j.id
     where j.status = 'running' and j.run_id = f.run_id and j.replica_id = f.replica_id
     order by j.id
       for update of j skip locked
),
decided as materialized (
    select l.*, d.*
      from locked l
      -- a run whose row somebody deleted is settled all the same, by what its job says
      left join orch.agent_runs r on r.run_id = l.run_id
     cross join orch.meta m
     cross join lateral orch.settle_rule(
         l.outcome, l.cancel_pending, l.failures, l.lost_count, l.transient_count, l.interrupted_count,
         coalesce(r.rules, '{}'),
         coalesce(l.lasted, extract(epoch from clock_timestamp() - r.spawned_at)::double precision, 0),
         l.retry_at, l.jitter,
         -- what a reap finds soon after an outage is nobody's fault; a shim whose death its owner saw is another matter
         l.closed_by = 'reap' and coalesce(
             m.wait_until_set_at > clock_timestamp() - make_interval(secs => 2 * (r.rules ->> 'lease')::double precision),
             false)) d
),
left_running as (
    update orch.jobs j
       set status = d.next_status,
           claimable = d.next_status = 'queued',
           run_id = null, replica_id = null, pid = null, started_at = null, running_gate = null,
           last_run_id = d.run_id,
           run_at = coalesce(d.next_run_at, j.run_at),
           failures = d.next_failures,
           lost_count = d.next_lost_count,
           transient_count = d.next_transient_count,
           interrupted_count = d.next_interrupted_count,
           finished_at = case when d.next_status in ('succeeded', 'failed', 'cancelled') then clock_timestamp() end,
           failed_at = case when d.next_status = 'failed' then clock_timestamp() end,
           live_dedupe_key = case when d.next_status in ('queued', 'held') then d.dedupe_key end,
           error = case when d.next_status <> 'succeeded' then nullif(concat_ws('; ', d.verdict, d.error), '') end,
           result = coalesce(d.result::jsonb, j.result)
      from decided d
     where j.id = d.job_id and j.run_id = d.run_id and j.replica_id = d.replica_id
    returning j.id, j.status
),
closed as (
    update orch.agent_runs r
       set ended_at = clock_timestamp(),
           outcome = d.outcome,
           closed_by = d.closed_by,
           exit_code = d.exit_code,
           signal = d.signal,
           error = d.error,
           result = d.result::jsonb,
           pid = coalesce(d.pid, r.pid),
           pid_started = coalesce(d.pid_started, r.pid_started),
           spawned_at = coalesce(r.spawned_at, clock_timestamp() - make_interval(secs => d.lasted)),
           containment = coalesce(d.containment, r.containment),
           user_cpu_seconds = d.user_cpu,
           system_cpu_seconds = d.system_cpu,
           peak_memory_bytes = d.peak_memory,
           log_bytes_kept = d.log_kept,
           log_bytes_dropped = d.log_dropped,
           processes_killed = d.killed
      from decided d
     where r.run_id = d.run_id and r.ended_at is null
)
select f.job_id, f.run_id,
       case when l.id is not null then 'settled'
            when j.id is not null then 'busy'
            else 'not_yours' end as answer,
       l.status as next_status
  from facts f
  left join left_running l on l.id = f.job_id
  left join orch.jobs j
    on j.id = f.job_id and j.status = 'running' and j.run_id = f.run_id and j.replica_id = f.replica_id
