-- How many jobs wait for which reason. Jobs that are alike wait for the same, so lanes are asked and not jobs; only those
-- that nothing keeps from running, near the head of the queue, are looked at one by one.
--
-- $1 boolean   serial_gate_enabled
-- rows: reason, jobs; none where no job waits
-- guard: none
-- index: jobs_claim, jobs_set_aside, jobs_waits_for
with lanes as materialized (
    select w.project, w.lane, w.due, w.not_due, case when $1 then w.reason else w.reason_without_gates end as reason,
           $1 and w.gate is not null as is_gated, w.rest
      from orch.waiting_lanes w
),
places as materialized (
    select o.project, o.lane, o.reason, count(*) as jobs from orch.claim_order($1, false) o group by o.project, o.lane, o.reason
),
named as (
    select p.project, p.lane, sum(p.jobs) as jobs from places p group by p.project, p.lane
)
select w.reason, sum(w.jobs)::bigint as jobs
  from (select l.reason, l.due as jobs from lanes l where l.reason is not null
        union all select p.reason, p.jobs from places p
        union all select o.reason, o.jobs
                    from lanes l
                    left join named n on n.project = l.project and n.lane = l.lane
                   cross join lateral (
                      -- where its head has no place it has none for all the lanes before it, not for its gate
                      select case when l.is_gated then 'serial_gate' else l.rest end as reason,
                             l.due - coalesce(n.jobs, l.is_gated::integer) as jobs
                      union all
                      select l.rest, 1 where l.is_gated and n.jobs is null and l.due > 0) o
                   where l.reason is null
        union all select 'not_due', l.not_due from lanes l
        union all select orch.own_wait(j), 1 from orch.jobs j where j.set_aside
        union all select 'waits_for_jobs', count(*) from orch.jobs j where j.waits_for is not null and not j.set_aside) w
 where w.jobs > 0
 group by w.reason
