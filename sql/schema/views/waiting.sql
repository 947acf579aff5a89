-- Why jobs wait: first by lane (orch.judged_lanes), then by job (orch.claim_order, which ranks what nothing keeps from
-- running). Reasons come in the order in which they are written here, so that each job has the first that holds.

-- What keeps whole lanes from running. Null: nothing does, and its due jobs have a place in orch.claim_order.
create or replace view orch.waiting_lanes as
select l.project, l.lane, l.head, l.run_at, l.agent, l.priority, l.gate, l.limits, l.require,
       (select count(*) from orch.jobs j
         where j.claimable and j.project = l.project and j.lane = l.lane and j.run_at <= now()) as due,
       (select count(*) from orch.jobs j
         where j.claimable and j.project = l.project and j.lane = l.lane and j.run_at > now()) as not_due,
       l.needs, l.shut_limit, l.closed_until, l.reason, l.reason_without_gates, l.rest, l.rest_limit
  from orch.judged_lanes() l;
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
    select w.project, w.lane, w.head, w.gate, w.shut_limit, w.closed_until, w.reason, w.rest, w.rest_limit
      from orch.judged_lanes() w
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
select j.id, j.project, j.agent,
       coalesce(l.reason, p.reason, case when l.gate is not null and j.id <> l.head then 'serial_gate' else l.rest end),
       j.run_at, l.closed_until,
       case when l.reason = 'serial_gate' then l.gate
            when l.reason is not null then l.shut_limit
            when p.reason in ('fair_share', 'no_free_slot') then p.ahead_of_it || ' ahead of it'
            when p.reason is not null then p.because_of
            else coalesce(case when j.id <> l.head then l.gate end, l.rest_limit) end
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
