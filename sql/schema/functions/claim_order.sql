-- In which order claims take what may run, and what follows from it for each job: the ranking of sql/runs/claim.sql, for
-- all replicas that could take the job, with no lock and as if each of them asked for as many jobs as it liked.
--
-- Replicas that serve the same agents and have the same labels take the same jobs, so they are one class: their lanes are
-- ranked once, and the most slots that one of them has free say how far a claim reaches.

-- A row a job near the head of the queue, at most some 4,096 a class of replicas, or, unless deep, hardly more than there
-- are free slots; what the others wait for, orch.judged_lanes says. Of more lanes than 2,048 that may run, those are ranked
-- whose heads come first.
create or replace function orch.claim_order(serial_gate boolean default true, deep boolean default true)
returns table (job_id bigint, project text, lane bigint, reason text, ahead_of_it bigint, because_of text, replicas uuid[])
language sql stable
set search_path = pg_catalog, orch
as $$
    select o.job_id, o.project, o.lane, o.reason, o.ahead_of_it, o.because_of, o.replicas
      from orch.claim_places(serial_gate, deep, null, null, null) o
$$;
comment on function orch.claim_order is 'The jobs near the head of the queue that nothing keeps from running, in what relation to the claims that take them.';

-- That of versions before.
drop function if exists orch.claim_order_of(boolean, boolean, integer, text, bigint);

-- The same of some lanes: as orch.judged_lanes has them. at_least: what stands behind the last that was looked at of some lane
-- may be ahead of this job too, so that more are than ahead_of_it says. class: the replicas of which reason and ahead_of_it are
-- said; ranks: where it stands in each of these classes, among them those that find no room in a limit; aheads: how many are
-- ahead there of those that do, null where it is none of them.
create or replace function orch.claim_places(
    serial_gate boolean, deep boolean, most integer, own_project text, own_lane bigint)
returns table (job_id bigint, project text, lane bigint, reason text, ahead_of_it bigint, at_least boolean, because_of text,
               replicas uuid[], class bigint, classes bigint[], ranks bigint[],
               aheads bigint[])
language plpgsql stable
set search_path = pg_catalog, orch
as $$
#variable_conflict use_column
begin
    return query
    with rooms as materialized (
        select u.name, u.room from orch.limit_use u where u.room > 0
    ),
    classes as materialized (
        select row_number() over (order by f.agents, f.labels) as class, (array_agg(f.replica))[1] as replica,
               max(f.free) as free, array_agg(f.replica_id) as ids, array_agg(f.free) as frees
          from orch.free_slots f
         group by f.agents, f.labels
    ),
    projects as materialized (
        select r.project, count(*) as running from orch.agent_runs r where r.ended_at is null group by r.project
    ),
    offered as (
        select k.class, k.free, w.project, w.lane, w.head, w.run_at, w.priority, w.gate, w.needs,
               coalesce((w.project, w.lane) = (own_project, own_lane), false) as is_own,
               coalesce(r.running, 0) as running, coalesce(p.weight, 1)::double precision as weight,
               row_number() over (partition by k.class, w.project order by orch.place_of(w.priority, w.run_at), w.head) as turn
          from classes k
          join orch.judged_lanes(most, own_project, own_lane) w
            on w.run_at <= now() and case when serial_gate then w.reason else w.reason_without_gates end is null
               and orch.serves(k.replica, w.agent, w.require)
          left join orch.projects p on p.name = w.project
          left join projects r on r.project = w.project
    ),
    -- What stands behind a head ranks behind it. How many stand before one that needs a limit says whether it finds room
    -- there: so in a project with such a job none of them is left out.
    heads as materialized (
        select o.*, (o.running + o.turn - 1) / o.weight as key,
               row_number() over (partition by o.class
                                  order by (o.running + o.turn - 1) / o.weight, o.run_at, o.head) as place
          from offered o
    ),
    lanes as materialized (
        select r.*, least(count(*) over (partition by r.class), 2048) as lanes,
               deep or min(r.room) over (partition by r.class, r.project) is not null as whole
          from (select h.*, (select min(m.room) from rooms m where m.name = any (h.needs)) as room
                  from heads h where h.place <= 2048 or h.is_own) r
    ),
    -- So many of each lane; looked at is one more, which says whether the lane goes on.
    candidates as materialized (
        select c.*, c.nth = c.most and c.last > c.most and coalesce(c.most < c.bound, true) as is_cut
          from (select l.class, l.free, l.project, l.lane, l.gate, l.needs, l.running, l.weight, t.id, t.run_at,
                       orch.place_of(l.priority, t.run_at) as place_of, b.bound, m.most, t.nth,
                       max(t.nth) over (partition by l.class, l.project, l.lane) as last
                  from lanes l
                 cross join lateral (select case when serial_gate and l.gate is not null then 1 else l.room end as bound) b
                 cross join lateral (
                    select least(b.bound, case when deep and l.is_own then 4096 else greatest(
                               case when l.whole then 4096 / l.lanes
                                    else least(l.free, 4096 / l.lanes) end,
                               least(l.free - l.place + 1, 4096 / least(l.lanes, greatest(l.free, 1))), 1) end) as most) m
                 cross join lateral (
                    select j.id, j.run_at, row_number() over (order by j.run_at, j.id) as nth
                      from (select j.id, j.run_at
                              from orch.jobs j
                             where j.claimable and j.project = l.project and j.lane = l.lane and j.run_at <= now()
                             order by j.run_at, j.id
                             limit m.most + 1) j) t) c
         where c.nth <= c.most
    ),
    gated as materialized (
        select c.*, case when serial_gate and c.gate is not null
                         then row_number() over (partition by c.class, c.gate order by c.place_of, c.id) else 1 end as of_gate
          from candidates c
    ),
    ranked as materialized (
        select g.*, (g.running + g.turn - 1) / g.weight as key,
               row_number() over (partition by g.class
                                  order by (g.running + g.turn - 1) / g.weight, g.run_at, g.id) as place
          from (select g.*, row_number() over (partition by g.class, g.project order by g.place_of, g.id) as turn
                  from gated g where g.of_gate = 1) g
    ),
    crowded as materialized (
        select distinct on (t.class, t.id) t.class, t.id, t.name
          from (select r.class, r.id, m.name, m.room, row_number() over (partition by r.class, m.name order by r.place) as turn
                  from ranked r join rooms m on m.name = any (r.needs)) t
         where t.turn > t.room
         order by t.class, t.id, t.name
    ),
    -- Behind which place somebody may stand who was not looked at: after the last that was of a lane, or in a lane of which none was.
    edges as materialized (
        select k.class, least(
                   (select min(r.place) from ranked r where r.class = k.class and r.is_cut),
                   case when d.head is not null then (select count(*) from ranked r
                                                       where r.class = k.class
                                                         and (r.key, r.run_at, r.id) < (d.key, d.run_at, d.head)) end) as edge
          from classes k
          left join lateral (select h.key, h.run_at, h.head from heads h
                              where h.class = k.class and h.place > 2048 and not h.is_own
                              order by h.key, h.run_at, h.head
                              limit 1) d on true
    ),
    placed as (
        select r.class, r.id, r.project, r.lane, r.free, r.place as rank, x.name, coalesce(r.place > e.edge, false) as at_least,
               count(*) filter (where x.id is null) over (partition by r.class order by r.place) as place
          from ranked r
          join edges e on e.class = r.class
          left join crowded x on x.class = r.class and x.id = r.id
    ),
    judged as (
        select p.class, p.id, p.project, p.lane,
               case when p.name is not null then 'limit_full'
                    when p.place <= p.free then 'next'
                    when p.free > 0 then 'fair_share'
                    else 'no_free_slot' end as reason,
               case when p.name is null then p.place - 1 end as ahead_of_it, p.name is null and p.at_least as at_least,
               p.name as because_of
          from placed p
        union all
        select g.class, g.id, g.project, g.lane, 'serial_gate', null, false, g.gate from gated g where g.of_gate > 1
    ),
    takers as (
        select p.id, array_agg(u.id order by u.id) as ids
          from placed p
          join classes k on k.class = p.class
         cross join lateral unnest(k.ids, k.frees) u (id, free)
         where p.name is null and p.place <= u.free
         group by p.id
    ),
    everywhere as (
        select p.id, array_agg(p.class) as classes, array_agg(p.rank) as ranks,
               array_agg(case when p.name is null then p.place - 1 end) as aheads
          from placed p
         group by p.id
    )
    -- What a job waits for is what it waits for where it comes soonest.
    select distinct on (d.id) d.id, d.project, d.lane, d.reason, d.ahead_of_it, d.at_least, d.because_of, t.ids,
           d.class, e.classes, e.ranks, e.aheads
      from judged d
      left join takers t on t.id = d.id
      left join everywhere e on e.id = d.id
     order by d.id, array_position(array['next', 'fair_share', 'no_free_slot', 'limit_full', 'serial_gate'], d.reason),
              d.ahead_of_it, d.class;
end
$$;
comment on function orch.claim_places is 'What orch.claim_order says, of at most so many lanes and of one''s own, and whether more may be ahead.';
