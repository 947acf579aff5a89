-- Claim where all that waits is alike: the jobs of one lane, which need no gate and no limit that has a bound. There is
-- nothing to rank then, and a plan of a third of the size, which is most of what a claim of one job costs. Says so where it
-- is otherwise, and takes nothing: `runs/claim` is for that. What it takes, that would take as well.
--
-- $1 uuid    replica_id of the claimant
-- $2 uuid[]  run_ids, made and remembered by the claimant before this is sent; as many as it has free slots, at most 100
-- $3 text[]  agents that the claimant serves
-- $4 boolean serial_gate_enabled
-- $5 text    host
-- $6 text    boot_id
-- $7 jsonb   the claimant's part of the rules: max_lost, max_transient, max_interrupted, lease (seconds)
-- $8 text        the head that the claim before saw, as in runs/claim: its project. Only its lane is looked at, and nothing
--                before it; null: everything
-- $9 bigint      its lane
-- $10 timestamptz its run_at
-- $11 bigint     its id
-- rows: one a claimed job, the payload as text; without one a row of nulls. Each says: lone, false where this is not for it;
--       contended, where another claim had what this one wanted. That of the first job also the head of the lane; and that of
--       the last, where there are as many as were wanted, dead_rows of the table, as the statistics have it: who has slots left
--       looks at everything next time
-- guard: the claimant's own row is live; the job is claimable under its lock
-- index: jobs_claim
with
-- The first job that waits, with what its agent says of its runs, of which all that are claimed here are; whether it is alone,
-- the head of the only lane, with no limit that matters; and whether this replica may start it. Two probes of the index.
head as materialized (
    select f.project, f.lane, f.id, f.run_at, f.agent, f.require, a.timeout,
           $7 || jsonb_build_object(
               'max_attempts', coalesce(a.max_attempts, 3),
               'on_lost', coalesce(a.on_lost, 'requeue'),
               'timeout', extract(epoch from a.timeout),
               'backoff', jsonb_build_object(
                   'base', extract(epoch from coalesce(a.backoff_base, interval '5 seconds')),
                   'factor', coalesce(a.backoff_factor, 2),
                   'max', extract(epoch from coalesce(a.backoff_max, interval '1 hour')))) as of_agent,
           num_nonnulls(f.gate, f.limits, a.limits) = 0
               and ($8 is not null or (select o.id
                                         from orch.jobs o
                                        where o.claimable and (o.project, o.lane) > (f.project, f.lane)
                                        order by o.project, o.lane, o.run_at, o.id
                                        limit 1) is null)
               and not exists (select from orch.limits l
                                where l.name = any (orch.needs(f.project, f.agent, null, null))
                                  and (l.max_running is not null or l.closed_until is not null)) as alone,
           f.run_at <= now() and f.agent = any ($3) and orch.serves(p, f.agent, f.require) as due
      from orch.replicas p
     cross join lateral (
        select j.project, j.lane, j.id, j.run_at, j.agent, j.gate, j.limits, j.require
          from orch.jobs j
         where j.claimable
           and (j.project, j.lane, j.run_at, j.id) >= (coalesce($8, ''), coalesce($9, -9223372036854775808),
                                                       coalesce($10, '-infinity'), coalesce($11, 0))
         order by j.project, j.lane, j.run_at, j.id
         limit 1) f
      left join orch.agents a on a.name = f.agent
     where p.replica_id = $1 and p.state = 'live' and not p.draining
       and ($8 is null or (f.project, f.lane) = ($8, $9))
),
-- As in runs/claim. A lane is a hash: what is taken is compared with its head.
locked as materialized (
    select t.id, b.timeout, b.of_agent, row_number() over () as place
      from head b
     cross join lateral (
        select w.*
          from (select j.id, j.agent, j.gate, j.limits, j.require
                  from orch.jobs j
                 where j.claimable and j.project = b.project and j.lane = b.lane
                   and (j.run_at, j.id) >= (b.run_at, b.id) and j.run_at <= now()
                 order by j.run_at, j.id
                 -- as in runs/claim
                 limit 100
                   for update skip locked) w
         -- of a column as well: of the parameter alone the server would know it where it plans for it, and plan every claim anew
         limit case when b.alone and b.due then cardinality($2) else 0 end) t
     where t.gate is null and t.limits is null and (t.agent, t.require) is not distinct from (b.agent, b.require)
),
-- Not "claimable", which locked has seen to: a server whose statistics are from a time when the queue was empty would walk
-- the whole index of claimable jobs, instead of looking each up by its key.
claimed as (
    update orch.jobs j
       set status = 'running', claimable = false, run_id = ($2)[p.place], replica_id = $1, pid = null,
           started_at = clock_timestamp(), running_gate = case when $4 then j.gate end, attempt = j.attempt + 1
      from locked p
     where j.id = p.id and j.status = 'queued'
    returning p.place, j.id, j.run_id, j.attempt, j.project, j.agent, j.payload::text as payload, j.error,
              coalesce(j.timeout, p.timeout) as timeout_by_rule,
              case when j.max_attempts is null and j.timeout is null then p.of_agent
                   else p.of_agent || jsonb_strip_nulls(jsonb_build_object(
                            'max_attempts', j.max_attempts, 'timeout', extract(epoch from j.timeout))) end as rules
),
opened as (
    insert into orch.agent_runs (run_id, job_id, attempt, replica_id, host, boot_id, claimed_at, rules, project, agent, limits)
    select run_id, id, attempt, $1, $5, $6, clock_timestamp(), rules, project, agent, null from claimed
)
select c.id as job_id, c.run_id, c.attempt, c.project, c.agent, c.payload, c.error as previous_error,
       extract(epoch from c.timeout_by_rule)::double precision as timeout_seconds,
       h.alone is not false as lone, coalesce(h.alone and h.due, false) and c.id is null as contended,
       case when c.place = cardinality($2) then pg_stat_get_dead_tuples('orch.jobs'::regclass) end as dead_rows,
       case when c.place = 1 then h.project end as mark_project, case when c.place = 1 then h.lane end as mark_lane,
       case when c.place = 1 then h.run_at end as mark_run_at, case when c.place = 1 then h.id end as mark_id
  from (values (1)) one
  left join head h on true
  left join claimed c on true
