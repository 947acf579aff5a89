-- Claim where all that waits is alike: the jobs of one lane, which need no gate and no limit that has a bound. There is
-- nothing to rank then, and a plan of a third of the size, which is most of what a claim of one job costs. Says so where it
-- is otherwise, and takes nothing: `runs/claim` is for that. What it takes, that would take as well.
--
-- $1 uuid    replica_id of the claimant
-- $2 uuid[]  run_ids, made and remembered by the claimant before this is sent; as many as it has free slots
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
-- rows: first the summary (job_id null): lone, false where this is not for it; contended, where another claim had what this
--       one wanted; dead_rows of the table, as the statistics have it; and the head of the lane, where something was claimed.
--       Then one a claimed job, the best first; the payload as text
-- guard: the claimant's own row is live; the job is claimable under its lock
-- index: jobs_claim
with me as materialized (
    select p as replica from orch.replicas p where p.replica_id = $1 and p.state = 'live' and not p.draining
),
-- The first job that waits, and whether it is the head of the only lane: two probes of the index.
head as materialized (
    select f.*, $8 is null and exists (select from (select o.id
                                       from orch.jobs o
                                      where o.claimable and (o.project, o.lane) > (f.project, f.lane)
                                      order by o.project, o.lane, o.run_at, o.id
                                      limit 1) o) as others
      from (select j.project, j.lane, j.id, j.run_at, j.agent, j.gate, j.limits, j.require
              from orch.jobs j
             where j.claimable and exists (select from me)
               and (j.project, j.lane, j.run_at, j.id) >= (coalesce($8, ''), coalesce($9, -9223372036854775808),
                                                           coalesce($10, '-infinity'), coalesce($11, 0))
             order by j.project, j.lane, j.run_at, j.id
             limit 1) f
     where $8 is null or (f.project, f.lane) = ($8, $9)
),
simple as materialized (
    select h.*
      from head h
     where not h.others and h.gate is null and h.limits is null
       and not exists (select from orch.agents a where a.name = h.agent and a.limits is not null)
       and not exists (select from orch.limits l
                        where l.name = any (orch.needs(h.project, h.agent, null, null))
                          and (l.max_running is not null or l.closed_until is not null))
),
offered as materialized (
    select s.*, cardinality($2) as slots
      from simple s
      join me on orch.serves(me.replica, s.agent, s.require)
     where s.run_at <= now() and s.agent = any ($3)
),
-- As in runs/claim. A lane is a hash: what is taken is compared with its head.
locked as materialized (
    select 1 as place, t.id, t.run_at
      from offered b
     cross join lateral (
        select w.*
          from (select j.id, j.run_at, j.agent, j.gate, j.limits, j.require
                  from orch.jobs j
                 where j.claimable and j.project = b.project and j.lane = b.lane
                   and (j.run_at, j.id) >= (b.run_at, b.id) and j.run_at <= now()
                 order by j.run_at, j.id
                 limit 4096
                   for update skip locked) w
         -- not the parameter itself: the server would know it where it plans for it, and plan every claim anew
         limit b.slots) t
     where (t.agent, t.gate, t.limits, t.require) is not distinct from (b.agent, b.gate, b.limits, b.require)
),
taken as (
    select l.place, l.id, l.run_at from locked l
),
-- Not "claimable", which locked has seen to: a server whose statistics are from a time when the queue was empty would walk
-- the whole index of claimable jobs, instead of looking each up by its key.
claimed as (
    update orch.jobs j
       set status = 'running', claimable = false, run_id = ($2)[p.place], replica_id = $1, pid = null,
           started_at = clock_timestamp(), running_gate = case when $4 then j.gate end, attempt = j.attempt + 1
      from (select l.id, row_number() over (order by l.place, l.run_at, l.id) as place from taken l) p
     where j.id = p.id and j.status = 'queued'
    returning p.place, j.id, j.run_id, j.attempt, j.project, j.agent, j.payload::text as payload, j.error, j.max_attempts,
              j.timeout, j.limits
),
-- The rules of each agent, made once a claim and not once a job.
rules as materialized (
    select c.agent, a.limits, a.timeout,
           $7 || jsonb_build_object(
               'max_attempts', coalesce(a.max_attempts, 3),
               'on_lost', coalesce(a.on_lost, 'requeue'),
               'timeout', extract(epoch from a.timeout),
               'backoff', jsonb_build_object(
                   'base', extract(epoch from coalesce(a.backoff_base, interval '5 seconds')),
                   'factor', coalesce(a.backoff_factor, 2),
                   'max', extract(epoch from coalesce(a.backoff_max, interval '1 hour')))) as of_agent
      from (select distinct agent from claimed) c
      left join orch.agents a on a.name = c.agent
),
ruled as (
    select c.*,
           coalesce(c.timeout, r.timeout) as timeout_by_rule,
           case when c.limits is null and r.limits is null then null
                else array(select distinct n from unnest(c.limits || r.limits) n order by n) end as holds,
           case when c.max_attempts is null and c.timeout is null then r.of_agent
                else r.of_agent || jsonb_strip_nulls(jsonb_build_object(
                         'max_attempts', c.max_attempts, 'timeout', extract(epoch from c.timeout))) end as rules
      from claimed c
      join rules r on r.agent = c.agent
),
opened as (
    insert into orch.agent_runs (run_id, job_id, attempt, replica_id, host, boot_id, claimed_at, rules, project, agent, limits)
    select run_id, id, attempt, $1, $5, $6, clock_timestamp(), rules, project, agent, holds from ruled
)
select null::bigint as job_id, null::uuid as run_id, null::integer as attempt, null::text as project, null::text as agent,
       null::text as payload, null::text as previous_error, null::double precision as timeout_seconds,
       not exists (select from head) or exists (select from simple) as lone,
       exists (select from offered) and not exists (select from locked) as contended,
       pg_stat_get_dead_tuples('orch.jobs'::regclass) as dead_rows,
       o.project as mark_project, o.lane as mark_lane, o.run_at as mark_run_at, o.id as mark_id
  from (values (1)) one
  left join offered o on exists (select from locked)
union all
select id, run_id, attempt, project, agent, payload, error, extract(epoch from timeout_by_rule)::double precision,
       null, null, null, null, null, null, null
  from (select * from ruled order by place) in_order
