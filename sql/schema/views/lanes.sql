-- The lanes of the queue: a row for jobs of one project that are alike for a claim and so wait for the same things. As in a
-- claim, one probe of the index finds the head of each; jobs are counted only where a query asks for the counts.
create or replace view orch.lanes as
select w.project, w.lane, w.head, w.run_at, w.agent, w.priority, w.gate, w.limits, w.require,
       (select count(*) from orch.jobs j
         where j.claimable and j.project = w.project and j.lane = w.lane and j.run_at <= now()) as due,
       (select count(*) from orch.jobs j
         where j.claimable and j.project = w.project and j.lane = w.lane and j.run_at > now()) as not_due
  from orch.walk_lanes() w;
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
