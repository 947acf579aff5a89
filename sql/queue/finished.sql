-- What finished over the last 24 hours, by project and status.
--
-- A job counts once, by the run that ended it.
-- rows: one: projects (jsonb: project to status to count), counted_at
-- guard: none
-- index: agent_runs_ended
select coalesce(jsonb_object_agg(project, statuses), '{}') as projects, clock_timestamp() as counted_at
  from (
    select project, jsonb_object_agg(status, jobs) as statuses
      from (
        select j.project, j.status, count(*) as jobs
          from orch.agent_runs r
          join orch.jobs j on j.id = r.job_id and j.last_run_id = r.run_id
         where r.ended_at > now() - interval '24 hours'
           and j.status in ('succeeded', 'failed', 'cancelled')
         group by j.project, j.status
      ) by_status
     group by project
  ) by_project
