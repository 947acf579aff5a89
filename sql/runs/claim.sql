-- Claim: take due jobs for this replica's free slots, and open their runs.
--
-- Jobs that are alike wait in one lane (jobs.lane). The claim looks at the heads of a window of lanes, from a cursor of
-- its caller's on; drops the lanes whose jobs may not run; ranks what is left by fair share; and takes so many of each lane.
--
-- $1 uuid     replica_id of the claimant
-- $2 uuid[]   run_ids, made and remembered by the claimant before this is sent; as many as it has free slots, at most 100
-- $3 text[]   agents that the claimant serves
-- $4 boolean  serial_gate_enabled: off, a job's gate is neither looked at nor written into running_gate
-- $5 text     host
-- $6 text     boot_id
-- $7 jsonb    the claimant's part of the rules: max_lost, max_transient, max_interrupted, lease (seconds)
-- $8 bigint[] only these jobs, or null: how a batch that failed is repeated one by one
-- $9 text     the window begins behind this project, or, where $10 has it, behind that lane of it; '' for the first
-- $10 jsonb   projects whose lanes were not seen to the end, to the lane behind which to go on
-- $11 integer how many lanes to look at
-- $12 integer how many of one project
-- $13 jsonb   projects that this claimant has served of late, to the runs by which each is ahead of its share, or behind
-- $14 boolean whether to look only: the rows are those that would be claimed, without a run_id
-- $15 text[]        of the heads that the claim before saw: their projects. Only these lanes are looked at, and nothing
--                   before their heads; null: every lane, from its first job on
-- $16 bigint[]      their lanes
-- $17 timestamptz[] their run_ats
-- $18 bigint[]      their ids
-- rows: first the summary (job_id null): last_project, behind which to go on, where the window was full; cut_projects and
--       cut_lanes, those not seen to the end; contended, where another claim had what this one wanted, so that looking again
--       soon is worth it; of the projects whose jobs may run, where there are several: projects, weights, and how many run
--       before this claim; dead_rows of the table, as the statistics have it; lone, where it saw one lane at most, without a
--       gate or a limit; and the heads that were seen, as $15 to $18,
--       where something was claimed.
--       Then one a claimed job, the best first; the payload as text, since JSON that Postgres takes may be nested deeper
--       than a reader likes
-- guard: the claimant's own row is live; the job is claimable under its lock; its limits have room under theirs and its
--        gate is free under its lock (orch.hold_limits, orch.hold_gates); the unique index on running_gate has the last word
-- index: jobs_claim, jobs_running_gate, agent_runs_open_project
with recursive me as materialized (
    select p as replica from orch.replicas p where p.replica_id = $1 and p.state = 'live' and not p.draining
),
-- The head of each lane, one probe of the index each.
ring as (
    (select j.project, j.lane, 1 as place, 1 as turn, j.id, j.run_at, j.priority, j.agent, j.gate, j.limits, j.require
       from orch.jobs j
      where j.claimable and (j.project, j.lane) > ($9, coalesce(($10 ->> $9)::bigint, 9223372036854775807))
        and $8 is null and $15 is null and exists (select from me)
      order by j.project, j.lane, j.run_at, j.id
      limit 1)
    union all
    select n.*
      from ring r
     cross join lateral (
        select j.project, j.lane, r.place + 1, case when j.project = r.project then r.turn + 1 else 1 end,
               j.id, j.run_at, j.priority, j.agent, j.gate, j.limits, j.require
          from orch.jobs j
         where j.claimable
           and (j.project, j.lane) > (r.project, case when r.turn >= $12 then 9223372036854775807
                                                      when r.turn = 1 then greatest(r.lane, ($10 ->> r.project)::bigint)
                                                      else r.lane end)
         order by j.project, j.lane, j.run_at, j.id
         limit 1) n
     where r.place < $11
),
heads as materialized (
    (select * from ring
    union all
    select h.*
      from unnest($15, $16, $17, $18) m (project, lane, run_at, id)
     cross join lateral (
        select j.project, j.lane, 0, 0, j.id, j.run_at, j.priority, j.agent, j.gate, j.limits, j.require
          from orch.jobs j
         where j.claimable and j.project = m.project and j.lane = m.lane and (j.run_at, j.id) >= (m.run_at, m.id)
         order by j.run_at, j.id
         limit 1) h
     -- true of each: it has the server expect one row here and not ten, or it would plan every claim anew for its parameters
     where $8 is null and m.id = any ($18) and exists (select from me)
    union all
    select j.project, j.lane, 0, 0, j.id, j.run_at, j.priority, j.agent, j.gate, j.limits, j.require
      from unnest($8) w (id)
      join orch.jobs j on j.id = w.id
     -- likewise; and said so that the index of claimable jobs is of no use for it, for the reason that claimed gives
     where w.id = any ($8) and j.claimable is not distinct from true and exists (select from me))
    -- as many as there can be: it has the server expect less of any parameters than of those at hand; or, likewise, it would
    -- plan every claim anew
    limit greatest($11, cardinality($8), cardinality($15))
),
demanding as materialized (
    select a.name, a.limits from orch.agents a where a.limits is not null and a.name = any ($3)
),
-- Lanes that are due, served here, and whose gate is not taken.
offered as materialized (
    select row_number() over () as n, h.*, a.limits as agent_limits
      from heads h
      join me on orch.serves(me.replica, h.agent, h.require)
      left join demanding a on a.name = h.agent
     where h.run_at <= now() and h.agent = any ($3)
       and (not $4 or h.gate is null or not exists (select from orch.taken_gates t where t.gate = h.gate))
),
-- The limits of each lane that have a bound or are closed.
needed as materialized (
    select o.n, l.name
      from offered o
     cross join lateral unnest(orch.needs(o.project, o.agent, o.limits, o.agent_limits)) u (name)
      join orch.limits l on l.name = u.name and (l.max_running is not null or l.closed_until is not null)
     group by o.n, l.name
),
rooms as materialized (
    select h.name, h.room, h.busy from orch.hold_limits((select array_agg(distinct w.name) from needed w)) h
),
lanes as materialized (
    select o.*, b.room, b.names, b.rooms,
           row_number() over (partition by o.project order by orch.place_of(o.priority, o.run_at), o.id) as turn_in_project,
           min(o.project) over () <> max(o.project) over () as several
      from offered o
      left join (select w.n, min(m.room) as room, array_agg(m.name) as names, array_agg(m.room) as rooms
                   from needed w join rooms m on m.name = w.name group by w.n) b on b.n = o.n
     where coalesce(b.room, 1) > 0
),
-- What runs of each project, and what it may: asked once a project, where there is another one.
shared as materialized (
    select l.*, max(s.weight) over w as weight, max(s.running) over w as running,
           max(s.running + s.ahead) over w as charged
      from lanes l
      left join lateral (
        select case when (select exists (select from orch.projects p where p.weight <> 1))
                    then coalesce((select p.weight from orch.projects p where p.name = l.project), 1) else 1 end as weight,
               (select count(*) from orch.agent_runs r where r.ended_at is null and r.project = l.project) as running,
               coalesce(($13 ->> l.project)::double precision, 0) as ahead
         -- a limit, so that the server does not ask first and look at the condition then
         where l.several and l.turn_in_project = 1 limit 1) s on true
    window w as (partition by l.project)
),
-- Of so many slots each goes to a lane whose head is among as many first heads: what stands behind a head ranks behind it.
-- One head of each of as many projects, each of which would be ahead of the others with a second job: then it is the heads,
-- and there is nothing more to rank.
bounded as materialized (
    select b.*, count(*) over () as finalists,
           case when $4 and b.gate is not null then 1 else least(cardinality($2), b.room) end as most,
           coalesce(count(*) over () = cardinality($2) and max(b.turn_in_project) over () = 1
                    and count(b.gate) over () = 0 and count(b.names) over () = 0
                    and max(b.key) over () < min((b.charged + 1) / b.weight) over (), false) as heads_alone
      from (select s.*, coalesce((s.charged + s.turn_in_project - 1) / s.weight, s.turn_in_project) as key from shared s
             order by key, s.run_at, s.id
             limit cardinality($2)) b
),
-- Where only one lane is left there is nothing to rank. Beyond 4096 jobs in all the order is no longer exact.
candidates as (
    select b.n, b.project, b.priority, b.gate, b.charged, b.weight, b.names, b.rooms, c.id, c.run_at
      from bounded b
     cross join lateral (
        select w.id, w.run_at
          from (select j.id, j.run_at
                  from orch.jobs j
                 where j.claimable and j.project = b.project and j.lane = b.lane
                   and (j.run_at, j.id) >= (b.run_at, b.id) and j.run_at <= now()
                 order by j.run_at, j.id
                 -- known to the server when it plans: or it would expect a tenth of the queue here, and plan every claim anew
                 -- where it remembers what claims were when the queue was short
                 limit 100) w
         limit least(b.most, 4096 / b.finalists)) c
     where b.finalists > 1 and not b.heads_alone
),
-- The k-th job of a project counts as if k - 1 more of it were running.
ranked as materialized (
    select f.n, f.id, f.names, f.rooms,
           row_number() over (order by coalesce((f.charged + f.turn - 1) / f.weight, f.turn), f.run_at, f.id) as place
      from (select g.*, row_number() over (partition by g.project order by orch.place_of(g.priority, g.run_at), g.id) as turn
              from (select c.*, case when $4 and c.gate is not null
                                     then row_number() over (partition by c.gate
                                                                 order by orch.place_of(c.priority, c.run_at), c.id)
                                     else 1 end as of_gate
                      from candidates c) g
             where g.of_gate = 1) f
),
-- Of the jobs that need one limit, those that find no room in it any more.
crowded as materialized (
    select t.id
      from (select r.id, u.room, row_number() over (partition by u.name order by r.place) as turn
              from ranked r cross join lateral unnest(r.names, r.rooms) u (name, room)
             where r.names is not null) t
     where t.turn > t.room
),
quotas as materialized (
    select p.n, count(*) as quota, min(p.place) as place
      from (select r.n, r.place
              from ranked r
             where r.id not in (select c.id from crowded c)
             order by r.place
             limit cardinality($2)) p
     group by p.n
    union all
    select n, most, 1 from bounded where finalists = 1 and not heads_alone
    union all
    select n, 1, row_number() over (order by key, run_at, id) from bounded where heads_alone
),
gates as materialized (
    select g as gate
      from orch.hold_gates((select array_agg(b.gate) from quotas q join bounded b on b.n = q.n
                             where $4 and b.gate is not null)) g
),
-- So many of each lane, whichever are not locked. Nothing but the index's columns is asked for in there, so that the index
-- gives them in order whatever the server thinks of the table. A lane is a hash: what is taken is compared with its head.
locked as materialized (
    select q.place, t.id, t.run_at
      from quotas q
      join bounded b on b.n = q.n
     cross join lateral (
        select w.*
          from (select j.id, j.run_at, j.agent, j.gate, j.limits, j.require
                  from orch.jobs j
                 where j.claimable and j.project = b.project and j.lane = b.lane
                   and (j.run_at, j.id) >= (b.run_at, b.id) and j.run_at <= now()
                 order by j.run_at, j.id
                 -- likewise; rows are locked as they are asked for, so no more than the quota are
                 limit 100
                   for update skip locked) w
         limit q.quota) t
     where (not $4 or b.gate is null or b.gate in (select g.gate from gates g))
       and (t.agent, t.gate, t.limits, t.require) is not distinct from (b.agent, b.gate, b.limits, b.require)
       and ($8 is null or t.id = any ($8))
),
taken as (
    select l.place, l.id, l.run_at from locked l where not $14
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
       -- of a project of which only the first lane was seen, nothing was: the next window begins with it
       (select case when r.turn > 1 then r.project else (select b.project from ring b where b.place = $11 - 1) end
          from ring r where r.place >= $11) as last_project,
       cut.projects as cut_projects, cut.lanes as cut_lanes,
       exists (select from rooms m where m.busy)
           or exists (select from quotas) and not exists (select from locked) as contended,
       sight.projects, sight.weights, sight.running,
       pg_stat_get_dead_tuples('orch.jobs'::regclass) as dead_rows,
       (select count(*) from heads) <= 1 and not exists (select from heads h where num_nonnulls(h.gate, h.limits) > 0)
           and not exists (select from demanding) and not exists (select from needed) as lone,
       marks.projects as mark_projects, marks.lanes as mark_lanes, marks.run_ats as mark_run_ats, marks.ids as mark_ids
  from (select array_agg(r.project order by r.place) as projects, array_agg(r.lane order by r.place) as lanes
          from ring r where r.turn >= $12 or (r.place >= $11 and r.turn > 1)) cut
 cross join (select array_agg(s.project order by s.project) as projects, array_agg(s.weight order by s.project) as weights,
                    array_agg(s.running order by s.project) as running
               from shared s where s.several and s.turn_in_project = 1) sight
 cross join (select array_agg(h.project) as projects, array_agg(h.lane) as lanes, array_agg(h.run_at) as run_ats,
                    array_agg(h.id) as ids
               from heads h where exists (select from quotas)) marks
union all
select id, run_id, attempt, project, agent, payload, error, extract(epoch from timeout_by_rule)::double precision,
       null, null, null, null, null, null, null, null, null, null, null, null, null
  from (select * from ruled order by place) in_order
union all
select id, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null,
       null
  from (select id from locked where $14 order by place, run_at, id) looked
