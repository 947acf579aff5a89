-- Why jobs wait: first by lane, then by job.
--
-- The predicates are those of the claim: orch.needs, orch.limit_use, orch.taken_gates, orch.serves; and orch.claim_order,
-- which ranks what nothing keeps from running. Reasons come in the order in which they are written here, so that each job
-- has the first that holds.

-- What keeps whole lanes from running. Null: nothing does, and its due jobs have a place in orch.claim_order.
create or replace view orch.waiting_lanes as
with shut as materialized (
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
select l.project, l.lane, l.head, l.run_at, l.agent, l.priority, l.gate, l.limits, l.require, l.due, l.not_due,
       orch.needs(l.project, l.agent, l.limits, a.limits) as needs, s.name as shut_limit, s.closed_until,
       coalesce(v.reason, case when g.gate is not null then 'serial_gate' end, s.reason) as reason,
       coalesce(v.reason, s.reason) as reason_without_gates,
       case when m.name is not null then 'limit_full' when v.has_free_slot then 'fair_share' else 'no_free_slot' end as rest,
       m.name as rest_limit
  from orch.lanes l
  left join orch.agents a on a.name = l.agent
  left join taken g on g.gate = l.gate
  left join lateral (
    select b.name, b.closed_until, b.is_closed and b.is_unsaid as is_pause,
           case when b.is_closed then 'limit_closed' else 'limit_full' end as reason
      from shut b
     where b.name = any (orch.needs(l.project, l.agent, l.limits, a.limits))
     order by b.is_closed and b.is_unsaid desc, b.is_closed desc, b.closed_until desc nulls last, b.name
     limit 1
  ) s on true
 cross join lateral (
    select case when s.is_pause then 'paused'
                when not exists (select from fleet f where orch.serves(f.replica, l.agent, null)) then 'no_replica_serves_agent'
                when not exists (select from fleet f where orch.serves(f.replica, l.agent, l.require))
                then 'no_replica_matches_labels' end as reason,
           exists (select from fleet f where f.free > 0 and orch.serves(f.replica, l.agent, l.require)) as has_free_slot
  ) v
  left join lateral (
    select r.name from roomy r
     where r.name = any (orch.needs(l.project, l.agent, l.limits, a.limits))
     order by r.room, r.name
     limit 1
  ) m on true;
comment on view orch.waiting_lanes is 'What keeps the due jobs of each lane from running, if anything does.';
comment on column orch.waiting_lanes.project is 'As in orch.lanes.';
comment on column orch.waiting_lanes.lane is 'As in orch.lanes.';
comment on column orch.waiting_lanes.head is 'As in orch.lanes.';
comment on column orch.waiting_lanes.run_at is 'As in orch.lanes.';
comment on column orch.waiting_lanes.agent is 'As in orch.lanes.';
comment on column orch.waiting_lanes.priority is 'As in orch.lanes.';
comment on column orch.waiting_lanes.gate is 'As in orch.lanes.';
comment on column orch.waiting_lanes.limits is 'As in orch.lanes.';
comment on column orch.waiting_lanes.require is 'As in orch.lanes.';
comment on column orch.waiting_lanes.due is 'As in orch.lanes.';
comment on column orch.waiting_lanes.not_due is 'As in orch.lanes.';
comment on column orch.waiting_lanes.needs is 'The limits that each of its jobs needs.';
comment on column orch.waiting_lanes.shut_limit is 'One of them that is paused, closed or full.';
comment on column orch.waiting_lanes.closed_until is 'Until when that one is closed.';
comment on column orch.waiting_lanes.reason is 'What keeps its due jobs from running; null: nothing does.';
comment on column orch.waiting_lanes.reason_without_gates is 'The same where serial_gate_enabled is off.';
comment on column orch.waiting_lanes.rest is 'Where nothing does: what those of them wait for that orch.claim_order does not name. With a gate, serial_gate.';
comment on column orch.waiting_lanes.rest_limit is 'The limit of which they find no room left.';

-- Every job that waits, and why.
create or replace view orch.waiting as
with lanes as materialized (
    select w.project, w.lane, w.gate, w.shut_limit, w.closed_until, w.reason, w.rest, w.rest_limit
      from orch.waiting_lanes w
     where w.run_at <= now()
),
places as materialized (
    select o.job_id, o.reason, o.ahead_of_it, o.because_of from orch.claim_order(true, false) o
)
select j.id as job_id, j.project, j.agent, orch.own_wait(j) as reason, orch.waits_since(j) as since,
       case when j.run_at > now() then j.run_at end as until, null::text as detail
  from orch.jobs j
 where j.set_aside or j.waits_for is not null or (j.claimable and j.run_at > now())
union all
select j.id, j.project, j.agent, coalesce(l.reason, p.reason, case when l.gate is not null then 'serial_gate' else l.rest end), j.run_at, l.closed_until,
       case when l.reason = 'serial_gate' then l.gate
            when l.reason is not null then l.shut_limit
            when p.reason in ('fair_share', 'no_free_slot') then p.ahead_of_it || ' ahead of it'
            when p.reason is not null then p.because_of
            else coalesce(l.gate, l.rest_limit) end
  from lanes l
  join orch.jobs j on j.claimable and j.run_at <= now() and j.project = l.project and j.lane = l.lane
  left join places p on p.job_id = j.id;
comment on view orch.waiting is 'Every job that waits, and why. One job, with all that is to be known: select * from orch.why(job_id).';
comment on column orch.waiting.job_id is 'The job''s number.';
comment on column orch.waiting.project is 'Its project.';
comment on column orch.waiting.agent is 'What it is to run.';
comment on column orch.waiting.reason is 'What it waits for: the first of held, old_process_ending, waits_for_jobs, not_due, paused, no_replica_serves_agent, no_replica_matches_labels, serial_gate, limit_closed, limit_full, no_free_slot, fair_share; or next.';
comment on column orch.waiting.since is 'Since when it waits.';
comment on column orch.waiting.until is 'Until when, where that is known.';
comment on column orch.waiting.detail is 'The limit, the gate, or how many are ahead of it.';
