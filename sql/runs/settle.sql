-- Settle: the only way out of `running`, for owner, successor and reap alike; and the one door for a late result, whose
-- run a reap had closed as lost.
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
-- $23 text[]              the limit that the run closes, if it closes one
-- $24 timestamptz[]       until this instant,
-- $25 double precision[]  or for so many seconds from now
-- $26 text[]              why
-- rows: job_id, run_id, answer:
--       settled    with the next status
--       late       a reap had closed the run as lost, and its job takes the result all the same; with the next status
--       noted      likewise, but the job is no longer this run's: written to the run only
--       already    the owner's side closed it before: this was heard the first time
--       busy       another transaction holds a row, or has just changed it: send it again
--       not_yours  no longer: a normal answer
--       In each, `awaited`: some job of the batch has others that run after it.
-- guard: run_id and replica_id of a running row, under its lock; late: of a run that is closed as lost by a reap, under
--        the locks of job and run, which have it counted once. Jobs are locked in id order, then runs; none is waited
--        for. A dedupe key that a late result takes back may be in an enqueue's hands, and is waited for but a moment; so
--        are limits, which come after the runs. A run closes only a limit that its job needs.
-- index: the primary keys, agent_runs_job; job_dependencies_after, once
with facts as (
    select *
      from unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
                  $23, $24, $25, $26)
           as f (job_id, run_id, replica_id, closed_by, outcome, exit_code, signal, error, result, retry_at, jitter, pid,
                 pid_started, containment, user_cpu, system_cpu, peak_memory, log_kept, log_dropped, killed, lasted,
                 retry_in, close_name, close_at, close_in, close_reason)
     -- all of them: it has the server expect one row here and not ten, or it would plan every settle anew
     limit cardinality($1)
),
-- As the snapshot shows it. What follows decides again, under locks.
known as materialized (
    select f.*, r.rules, r.spawned_at, r.claimed_at, j.project, j.agent, coalesce(r.limits, j.limits) as holds,
           coalesce(j.status = 'running' and j.run_id = f.run_id and j.replica_id = f.replica_id, false) as runs_it,
           coalesce(s.owners and r.closed_by in ('owner', 'successor'), false) as told,
           coalesce(s.owners and r.outcome = 'lost' and r.closed_by = 'reap', false) as reaped,
           case when s.owners and r.outcome = 'lost' and r.closed_by = 'reap' then coalesce(
               j.last_run_id = f.run_id and j.status in ('queued', 'held', 'failed') and j.awaits_replica is null
               and not exists (select from orch.agent_runs n where n.job_id = f.job_id and n.attempt > r.attempt), false)
           end as accepts
      from facts f
      -- a run whose row somebody deleted is settled all the same, by what its job says
      left join orch.agent_runs r on r.run_id = f.run_id
      left join orch.jobs j on j.id = f.job_id
     cross join lateral (select r.job_id = f.job_id and r.replica_id = f.replica_id
                                and f.closed_by in ('owner', 'successor') as owners) s
),
locked as materialized (
    select k.*, false as late, null::timestamptz as reaped_at, j.status as was,
           j.cancel_requested_at is not null as cancel_pending,
           j.failures, j.lost_count, j.transient_count, j.interrupted_count, j.dedupe_key
      from orch.jobs j
      join known k on k.job_id = j.id
     where k.runs_it
       and j.status = 'running' and j.run_id = k.run_id and j.replica_id = k.replica_id
     order by j.id
       for update of j skip locked
),
-- Both rows are locked: of two deliveries of one late result the second sees what the first has made of the run.
locked_late as materialized (
    select k.*, true as late, r.ended_at as reaped_at, j.status as was,
           j.cancel_requested_at is not null as cancel_pending,
           j.failures, greatest(j.lost_count - coalesce(r.lost_counted, false)::integer, 0) as lost_count,
           j.transient_count, j.interrupted_count, j.dedupe_key
      from known k
      join orch.jobs j on j.id = k.job_id
      join orch.agent_runs r on r.run_id = k.run_id
     where k.accepts
       and j.last_run_id = k.run_id and j.status in ('queued', 'held', 'failed') and j.awaits_replica is null
       and r.replica_id = k.replica_id and r.outcome = 'lost' and r.closed_by = 'reap'
     order by j.id
       for update of j, r skip locked
),
-- What its job takes no more it never takes again: neither a newer run nor a retry leads back. So its lock is not needed.
locked_noted as materialized (
    select k.*
      from known k
      join orch.agent_runs r on r.run_id = k.run_id
     where k.reaped and not k.accepts and not k.runs_it
       and r.replica_id = k.replica_id and r.outcome = 'lost' and r.closed_by = 'reap'
     order by k.job_id
       for update of r skip locked
),
-- What the rule goes by, computed once. The rule's arguments below are columns and constants: with anything volatile
-- among them it would be called instead of inlined, and every join with what it decides planned for a thousand rows.
weighed as materialized (
    select l.*,
           -- who would wait for a limit that it does not close is tried again like any other
           case when l.close_name is not null and not l.closes
                     and (l.retry_at, l.retry_in) is not distinct from (l.close_at, l.close_in) then null
                else coalesce(l.retry_at, clock_timestamp() + make_interval(secs => l.retry_in)) end as again_at,
           coalesce(l.rules, '{}') as rules_known,
           -- who closes a limit waits for it, however often: that does not count towards max_transient
           l.transient_count - (l.outcome = 'transient' and l.closes)::integer as transients,
           coalesce(l.lasted,
                    extract(epoch from coalesce(l.reaped_at, clock_timestamp()) - l.spawned_at)::double precision, 0)
               as seconds,
           -- what a reap finds soon after an outage is nobody's fault; a shim whose death its owner saw is another matter
           l.closed_by = 'reap' and coalesce(
               (select m.wait_until_set_at from orch.meta m limit 1)
                   > clock_timestamp() - make_interval(secs => 2 * (l.rules ->> 'lease')::double precision),
               false) as after_outage,
           l.late and l.dedupe_key is not null
               and exists (select from orch.jobs o where o.live_dedupe_key = l.dedupe_key and o.id <> l.job_id) as key_taken,
           -- or in the hands of an enqueue that is not committed: a batch does not wait for that
           case when l.late and l.was = 'failed' and l.dedupe_key is not null
                then set_config('lock_timeout', '200ms', true) end
      from (select u.*, coalesce(u.close_name = any (orch.needs(u.project, u.agent, u.holds, null))
                                 and coalesce(u.close_at, clock_timestamp() + make_interval(secs => u.close_in))
                                     > clock_timestamp(), false) as closes
              from (select * from locked
                    union all select * from locked_late
                    union all select k.*, true, null, null, false, 0, 0, 0, 0, null from locked_noted k) u) l
),
decided as materialized (
    select w.*, d.*,
           case when w.late then orch.late_rule(w.was, w.rules ->> 'on_lost', w.key_taken, d.next_status)
                else d.next_status end as status
      from weighed w
     cross join lateral orch.settle_rule(
         w.outcome, w.cancel_pending, w.failures, w.lost_count, w.transients, w.interrupted_count, w.rules_known, w.seconds,
         w.again_at, w.jitter, w.after_outage) d
),
closing as materialized (
    select d.run_id, d.job_id, d.close_name as name,
           coalesce(d.close_at, clock_timestamp() + make_interval(secs => d.close_in)) as until,
           coalesce(d.close_reason, format('closed by job %s', d.job_id)) as reason
      from decided d
     where d.closes
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
     where r.run_id = d.run_id and (r.ended_at is null or d.late)
),
-- A probe that came to an end of its own and does not close the limit again: the limit is open.
probed as materialized (
    select distinct on (u.name) u.name, d.run_id, d.job_id
      from decided d
     cross join lateral unnest(orch.needs(d.project, d.agent, d.holds, null)) u (name)
      join orch.limits l on l.name = u.name and l.probe and l.closed_until <= d.claimed_at
     where (select exists (select from orch.limits c where c.closed_until is not null))
       and d.outcome in ('succeeded', 'failed', 'timed_out', 'transient')
       and u.name not in (select c.name from closing c)
     order by u.name, d.claimed_at
),
affected as materialized (
    select n.name, set_config('lock_timeout', '200ms', true) as patience
      from (select name from closing union select name from probed) n
),
in_order as materialized (
    select l.name from orch.limits l join affected a on a.name = l.name order by l.name for no key update of l
),
shut as (
    insert into orch.limits as l (name, closed_until, reason)
    select distinct on (c.name) c.name, c.until, c.reason
      from closing c
     where (select count(*) from in_order) >= 0
     order by c.name, c.until desc
    on conflict on constraint limits_pkey do update
       set closed_until = excluded.closed_until, reason = excluded.reason, probe = true, updated_at = clock_timestamp()
     where l.closed_until is null or l.closed_until < excluded.closed_until
    returning l.name
),
opened as (
    update orch.limits l set closed_until = null, reason = null, updated_at = clock_timestamp()
      from probed p
      join in_order o on o.name = p.name
     where l.name = p.name and l.probe and l.closed_until <= clock_timestamp()
    returning l.name, p.run_id, p.job_id
),
told as (
    insert into orch.events (kind, job_id, run_id, detail)
    select 'limit_closed', c.job_id, c.run_id, jsonb_build_object('limit', c.name, 'until', c.until, 'reason', c.reason)
      from closing c
      join shut s on s.name = c.name
    union all
    select 'limit_opened', o.job_id, o.run_id, jsonb_build_object('limit', o.name) from opened o
)
select k.job_id, k.run_id,
       case when not d.late and c.run_id is not null then 'settled'
            when d.late and c.run_id is not null then 'late'
            when d.late and d.status is null then 'noted'
            when k.runs_it or k.reaped then 'busy'
            when k.told then 'already'
            else 'not_yours' end as answer,
       c.status as next_status,
       exists (select from orch.job_dependencies d where d.after_id = any ($1)) as awaited
  from known k
  left join decided d on d.run_id = k.run_id
  left join changed c on c.run_id = k.run_id
