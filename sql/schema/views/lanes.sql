-- The lanes of the queue: a row for jobs of one project that are alike for a claim and so wait for the same things. As in a
-- claim, one probe of the index finds the head of each; jobs are counted only where a query asks for the counts.
create or replace view orch.lanes as
with recursive ring as (
    (select j.project, j.lane, j.id, j.run_at, j.agent, j.priority, j.gate, j.limits, j.require
       from orch.jobs j
      where j.claimable
      order by j.project, j.lane, j.run_at, j.id
      limit 1)
    union all
    select n.*
      from ring r
     cross join lateral (
        select j.project, j.lane, j.id, j.run_at, j.agent, j.priority, j.gate, j.limits, j.require
          from orch.jobs j
         where j.claimable and (j.project, j.lane) > (r.project, r.lane)
         order by j.project, j.lane, j.run_at, j.id
         limit 1) n
)
select r.project, r.lane, r.id as head, r.run_at, r.agent, r.priority, r.gate, r.limits, r.require,
       (select count(*) from orch.jobs j
         where j.claimable and j.project = r.project and j.lane = r.lane and j.run_at <= now()) as due,
       (select count(*) from orch.jobs j
         where j.claimable and j.project = r.project and j.lane = r.lane and j.run_at > now()) as not_due
  from ring r;
comment on view orch.lanes is 'The lanes of the queue: a row for jobs of one project that wait for the same things.';
comment on column orch.lanes.project is 'Their project.';
comment on column orch.lanes.lane is 'The lane, as in orch.jobs.';
comment on column orch.lanes.head is 'The first of them.';
comment on column orch.lanes.run_at is 'When that is, or was, due.';
comment on column orch.lanes.agent is 'What they run.';
comment on column orch.lanes.priority is 'Their priority.';
comment on column orch.lanes.gate is 'The gate that each needs.';
comment on column orch.lanes.limits is 'The limits that each needs, beside those of the agent.';
comment on column orch.lanes.require is 'Labels that their replica must have.';
comment on column orch.lanes.due is 'How many of them are due.';
comment on column orch.lanes.not_due is 'How many are not.';
