-- The lanes of the queue, and what keeps each from running: of all of them for orch.waiting_lanes, of a few for orch.why.
--
-- The predicates are those of the claim: orch.needs, orch.limit_use, orch.taken_gates, orch.serves.

-- The heads of lanes in the order of the claim's index, one probe each: at most `most`, and `of_one_project` of one project
-- (null: all), from the first project on that is not before `start`.
create or replace function orch.walk_lanes(
    most integer default null, of_one_project integer default null, start text default '')
returns table (project text, lane bigint, head bigint, run_at timestamptz, agent text, priority smallint, gate text,
               limits text[], require jsonb)
language sql stable
as $$
    with recursive ring as (
        (select j.project, j.lane, j.id, j.run_at, j.agent, j.priority, j.gate, j.limits, j.require, 1 as place, 1 as turn
           from orch.jobs j
          where j.claimable and j.project >= start and coalesce(most > 0, true)
          order by j.project, j.lane, j.run_at, j.id
          limit 1)
        union all
        select n.*
          from ring r
         cross join lateral (
            select j.project, j.lane, j.id, j.run_at, j.agent, j.priority, j.gate, j.limits, j.require, r.place + 1,
                   case when j.project = r.project then r.turn + 1 else 1 end
              from orch.jobs j
             where j.claimable
               and (j.project, j.lane) > (r.project, case when r.turn >= of_one_project then 9223372036854775807
                                                          else r.lane end)
             order by j.project, j.lane, j.run_at, j.id
             limit 1) n
         where coalesce(r.place < most, true)
    )
    select r.project, r.lane, r.id, r.run_at, r.agent, r.priority, r.gate, r.limits, r.require from ring r
$$;
comment on function orch.walk_lanes is 'The heads of lanes, in the order in which a claim looks at them; at most so many, and so many of one project.';

-- What keeps whole lanes from running: all lanes; or at most `most` and a quarter of that of one project, as many of one's
-- own project, and one's own lane whatever stands before it. A null reason: nothing does, and its due jobs have a place in
-- orch.claim_order.
create or replace function orch.judged_lanes(
    most integer default null, own_project text default null, own_lane bigint default null)
returns table (project text, lane bigint, head bigint, run_at timestamptz, agent text, priority smallint, gate text,
               limits text[], require jsonb, needs text[], shut_limit text, closed_until timestamptz, reason text,
               reason_without_gates text, rest text, rest_limit text)
language sql stable
as $$
    with heads as (
        select w.* from orch.walk_lanes(most, most / 4) w
         where own_project is null or w.project <> own_project
        union all
        select w.* from orch.walk_lanes(most / 4, start => own_project) w
         where w.project = own_project and w.lane <> own_lane
        union all
        (select j.project, j.lane, j.id, j.run_at, j.agent, j.priority, j.gate, j.limits, j.require
           from orch.jobs j
          where j.claimable and j.project = own_project and j.lane = own_lane
          order by j.run_at, j.id
          limit 1)
    ),
    shut as materialized (
        select u.name, coalesce(u.closed_until > now(), false) as is_closed, orch.is_unsaid_limit(u.name) as is_unsaid,
               u.closed_until
          from orch.limit_use u
         where u.room <= 0
    ),
    taken as materialized (
        select distinct t.gate from orch.taken_gates t
    ),
    roomy as materialized (
        select u.name, u.room from orch.limit_use u where u.room > 0
    ),
    fleet as materialized (
        select f.replica, f.free from orch.free_slots f
    )
    select h.project, h.lane, h.head, h.run_at, h.agent, h.priority, h.gate, h.limits, h.require,
           orch.needs(h.project, h.agent, h.limits, a.limits), s.name, s.closed_until,
           coalesce(v.reason, case when g.gate is not null then 'serial_gate' end, s.reason),
           coalesce(v.reason, s.reason),
           case when m.name is not null then 'limit_full' when v.has_free_slot then 'fair_share' else 'no_free_slot' end,
           m.name
      from heads h
      left join orch.agents a on a.name = h.agent
      left join taken g on g.gate = h.gate
      left join lateral (
        select b.name, b.closed_until, b.is_closed and b.is_unsaid as is_pause,
               case when b.is_closed then 'limit_closed' else 'limit_full' end as reason
          from shut b
         where b.name = any (orch.needs(h.project, h.agent, h.limits, a.limits))
         order by b.is_closed and b.is_unsaid desc, b.is_closed desc, b.closed_until desc nulls last, b.name
         limit 1
      ) s on true
     cross join lateral (
        select case when s.is_pause then 'paused'
                    when not exists (select from fleet f where orch.serves(f.replica, h.agent, null)) then 'no_replica_serves_agent'
                    when not exists (select from fleet f where orch.serves(f.replica, h.agent, h.require))
                    then 'no_replica_matches_labels' end as reason,
               exists (select from fleet f where f.free > 0 and orch.serves(f.replica, h.agent, h.require)) as has_free_slot
      ) v
      left join lateral (
        select r.name from roomy r
         where r.name = any (orch.needs(h.project, h.agent, h.limits, a.limits))
         order by r.room, r.name
         limit 1
      ) m on true
$$;
comment on function orch.judged_lanes is 'What keeps the due jobs of lanes from running, if anything does: of all lanes, or of some and one''s own.';
