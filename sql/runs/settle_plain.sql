-- Settle runs whose owner says how they ended, where no limit is closed: nearly all there are. What runs/settle has beside
-- this (late results, reaps, limits that a run closes or that its end opens) is two thirds of its plan, and setting a plan up
-- is most of what the settle of one run costs. Whatever of a batch this does not answer is for that statement.
--
-- Facts come as arrays, one element a run, as $1 to $22 of runs/settle.
-- $1  bigint[]            job_ids
-- $2  uuid[]              run_ids
-- $3  uuid[]              replica_ids: the owner's, or a former boot's
-- $4  text[]              closed_by: owner or successor
-- $5  text[]              outcomes
-- $6  integer[]           exit codes
-- $7  integer[]           signals
-- $8  text[]              errors, for people
-- $9  text[]              results, JSON as text
-- $10 timestamptz[]       when a transient run wants to be tried again: this instant,
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
-- $22 double precision[]  or so many seconds from now ($10), by the database's clock
-- rows: run_id of each that was settled; answer: settled; with the next status; and awaited: some job of the batch has others
--       that run after it
-- guard: run_id and replica_id of a running row, under its lock; no closed limit, whose probe may be one of these. Jobs are
--        locked in id order, then runs; none is waited for
-- index: the primary keys; job_dependencies_after, once
with facts as (
    select *
      from unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)
           as f (job_id, run_id, replica_id, closed_by, outcome, exit_code, signal, error, result, retry_at, jitter, pid,
                 pid_started, containment, user_cpu, system_cpu, peak_memory, log_kept, log_dropped, killed, lasted,
                 retry_in)
     order by job_id
     -- all of them: it has the server expect one row here and not ten, or it would plan every settle anew
     limit cardinality($1)
),
-- Each job is locked by itself, in this order: with the facts beside it in one select, they would be copied for its sake.
-- Its run is only looked at where how it ended asks for its rules, and settled all the same where somebody deleted its row.
-- The rule's arguments are columns and constants: with anything volatile among them it would be called instead of inlined.
ruled as materialized (
    select w.job_id, w.run_id, w.replica_id, w.closed_by, w.outcome, w.exit_code, w.signal, w.error, w.result, w.pid,
           w.pid_started, w.containment, w.user_cpu, w.system_cpu, w.peak_memory, w.log_kept, w.log_dropped, w.killed,
           w.lasted, w.lost_count, w.dedupe_key, d.*
      from (select f.*, j.*, j.cancel_requested_at is not null as cancel_pending,
                   coalesce(f.retry_at, clock_timestamp() + make_interval(secs => f.retry_in)) as again_at,
                   coalesce(r.rules, '{}') as rules_known,
                   coalesce(f.lasted, extract(epoch from clock_timestamp() - r.spawned_at)::double precision, 0) as seconds
              from facts f
             cross join lateral (
                select j.cancel_requested_at, j.failures, j.lost_count, j.transient_count, j.interrupted_count, j.dedupe_key
                  from orch.jobs j
                 where j.id = f.job_id and j.status = 'running' and j.run_id = f.run_id and j.replica_id = f.replica_id
                   for update skip locked) j
              left join lateral (
                select r.rules, r.spawned_at
                  from orch.agent_runs r
                 where r.run_id = f.run_id and f.outcome <> 'succeeded'
                 limit 1) r on true
             where not exists (select from orch.limits c where c.closed_until is not null)
            offset 0) w
     cross join lateral orch.settle_rule(
         w.outcome, w.cancel_pending, w.failures, w.lost_count, w.transient_count, w.interrupted_count, w.rules_known,
         w.seconds, w.again_at, w.jitter, false) d
),
-- As in runs/settle, with what these runs have not: constants here, of which nothing is left where it is asked for.
decided as not materialized (
    select r.*, r.next_status as status, false as late, null::text as close_name, false as closes,
           null::text as project, null::text as agent, null::text[] as holds
      from ruled r
),
changed as (
    update orch.jobs j
       set status = d.status,
           claimable = d.status = 'queued',
           run_id = null, replica_id = null, pid = null, started_at = null, running_gate = null,
           last_run_id = d.run_id,
           run_at = coalesce(d.next_run_at, j.run_at),
           failures = d.next_failures,
           lost_count = d.next_lost_count,
           transient_count = d.next_transient_count,
           interrupted_count = d.next_interrupted_count,
           finished_at = case when d.status in ('succeeded', 'failed', 'cancelled') then clock_timestamp() end,
           failed_at = case when d.status = 'failed' then clock_timestamp() end,
           live_dedupe_key = case when d.status in ('queued', 'held') then d.dedupe_key end,
           error = case when d.status <> 'succeeded' then nullif(concat_ws('; ', d.verdict, d.error), '') end,
           result = coalesce(d.result::jsonb, j.result)
      from decided d
     where j.id = d.job_id and d.status is not null
       and ((j.run_id = d.run_id and j.replica_id = d.replica_id)
            or (d.late and j.status <> 'running' and j.last_run_id = d.run_id))
    returning j.last_run_id as run_id, j.status
),
closed as (
    update orch.agent_runs r
       set ended_at = coalesce(r.ended_at, clock_timestamp()),
           outcome = d.outcome,
           closed_by = d.closed_by,
           exit_code = d.exit_code,
           signal = d.signal,
           error = nullif(concat_ws('; ', d.error,
                       case when d.late
                            then case when d.status is null then 'told too late to count for its job: it was '
                                      else 'told late: it was ' end || coalesce(r.error, 'reaped as lost') end,
                       case when d.close_name is null or d.closes then null
                            when d.close_name = any (orch.needs(d.project, d.agent, d.holds, null))
                            then format('closed no limit: it was to be open again by now: %s', to_jsonb(d.close_name))
                            else format('closed no limit: its job does not need %s', to_jsonb(left(d.close_name, 120))) end),
                   ''),
           result = d.result::jsonb,
           lost_counted = case when d.outcome = 'lost' and d.status is not null then d.next_lost_count > d.lost_count end,
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
     where r.run_id = d.run_id and coalesce(r.ended_at, 'infinity') = 'infinity'
)
select c.run_id, 'settled' as answer, c.status as next_status,
       exists (select from orch.job_dependencies d where d.after_id = any ($1)) as awaited
  from changed c
