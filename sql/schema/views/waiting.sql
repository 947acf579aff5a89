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

-- Every job that waits, and why. Of some 4,096 jobs near the head of the queue it is counted how many are ahead; behind these,
-- that at least so many are. Nothing is looked up for a job that a claim may take; for one that waits by itself, a few rows.
create or replace view orch.waiting as
with places as materialized (
    select o.job_id, o.project, o.lane, o.reason, o.ahead_of_it, o.at_least, o.because_of
      from orch.claim_places(true, true, null, null, null) o
),
-- With how many are ahead of the last of each that was ranked: by a window and not by a join, which the server would take for
-- one of a few rows, and have each lane look at all of these.
lanes as materialized (
    select w.*
      from (select l.*, max(l.last_ahead) over (partition by l.project, l.lane) + 1 as ahead
              from (select w.project, w.lane, w.head, w.agent, w.require, w.gate, w.shut_limit, w.closed_until, w.reason, w.rest,
                           w.rest_limit, null::bigint as last_ahead
                      from orch.judged_lanes() w
                     where w.run_at <= now()
                    union all
                    select p.project, p.lane, null, null, null, null, null, null, null, null, null, p.ahead_of_it
                      from places p) l) w
     where w.head is not null
)
select j.id as job_id, j.project, j.agent, o.reason, coalesce(h.held_at, orch.waits_since(j)) as since,
       orch.waits_until(j, o.reason) as until, coalesce('by ' || h.held_by, orch.waits_detail(j, o.reason)) as detail
  from orch.jobs j
 cross join lateral (select orch.own_wait(j) as reason) o
  left join lateral (select * from orch.hold_of(j)) h on o.reason = 'held'
 where j.set_aside or j.waits_for is not null or (j.claimable and j.run_at > now())
union all
select j.id, j.project, j.agent, v.reason, j.run_at,
       case when v.reason in ('paused', 'limit_closed') then l.closed_until end,
       case when v.reason = 'serial_gate' then l.gate
            when v.reason in ('paused', 'limit_closed', 'limit_full')
            then coalesce(case when l.reason is not null then l.shut_limit end, p.because_of, l.rest_limit)
            when v.reason = 'no_replica_serves_agent' then l.agent
            when v.reason = 'no_replica_matches_labels' then l.require::text
            when v.reason in ('fair_share', 'no_free_slot')
            then case when p.job_id is null or p.at_least then 'at least ' else '' end
                 || coalesce(p.ahead_of_it, l.ahead, 1) || ' ahead of it' end
  from lanes l
  join orch.jobs j on j.claimable and j.run_at <= now() and j.project = l.project and j.lane = l.lane
  left join places p on p.job_id = j.id
 cross join lateral (
    select coalesce(l.reason, p.reason, case when l.gate is not null and j.id <> l.head then 'serial_gate' else l.rest end) as reason) v;
comment on view orch.waiting is 'Every job that waits, and why. One job, with all that is to be known: select * from orch.why(job_id).';
comment on column orch.waiting.job_id is 'The job''s number.';
comment on column orch.waiting.project is 'Its project.';
comment on column orch.waiting.agent is 'What it is to run.';
comment on column orch.waiting.reason is 'What it waits for: the first of held, old_process_ending, waits_for_jobs, not_due, paused, no_replica_serves_agent, no_replica_matches_labels, serial_gate, limit_closed, limit_full, no_free_slot, fair_share; or next.';
comment on column orch.waiting.since is 'Since when it waits.';
comment on column orch.waiting.until is 'Until when, where that is known; infinity: until somebody ends it.';
comment on column orch.waiting.detail is 'The limit, the gate, the labels, the jobs or the old process that it waits for, who held it or what its last run said, or how many are ahead of it.';
