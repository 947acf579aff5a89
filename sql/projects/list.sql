-- The projects that have rules of their own, jobs that wait or run, or are paused.
--
-- rows: name, weight, serial, queued, held, running, is_paused, paused_until (null where it is not, or until it is
--       resumed), reason
-- guard: none
-- index: jobs_claim, jobs_set_aside, jobs_waits_for, agent_runs_open_project
with live as (
    select j.project, count(*) as queued, 0 as held, 0 as running from orch.jobs j where j.claimable group by j.project
    union all
    select j.project, count(*) filter (where j.status = 'queued'), count(*) filter (where j.status = 'held'), 0
      from orch.jobs j where j.set_aside group by j.project
    union all
    select j.project, count(*), 0, 0 from orch.jobs j where j.waits_for is not null and not j.set_aside group by j.project
    union all
    select r.project, 0, 0, count(*) from orch.agent_runs r where r.ended_at is null group by r.project
),
counts as (
    select project, sum(queued)::bigint as queued, sum(held)::bigint as held, sum(running)::bigint as running
      from live where project is not null group by project
),
paused as (
    select substr(l.name, 9) as project, l.closed_until, l.reason
      from orch.limits l where l.name like 'project:%' and l.closed_until > now()
)
select n.name, coalesce(p.weight, 1) as weight, coalesce(p.serial, false) as serial, coalesce(c.queued, 0) as queued,
       coalesce(c.held, 0) as held, coalesce(c.running, 0) as running, s.project is not null as is_paused,
       case when isfinite(s.closed_until) then s.closed_until end as paused_until, s.reason
  from (select name from orch.projects union select project from counts union select project from paused) n (name)
  left join orch.projects p on p.name = n.name
  left join counts c on c.project = n.name
  left join paused s on s.project = n.name
 order by n.name
