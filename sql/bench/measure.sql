-- Whether a pass of the bench is over, and then how long it took.
--
-- $1 bigint   first job_id
-- $2 bigint   last job_id
-- rows: one: live, whether any job waits or runs; else runs that succeeded, seconds from the first claim to the last settle
-- guard: none; the pass has its database for itself
-- index: jobs_claim, agent_runs_one_open_a_job, agent_runs_job
select s.live, p.succeeded, p.seconds
  from (select exists (select from orch.jobs j where j.claimable)
               or exists (select from orch.agent_runs r where r.ended_at is null) as live) s
  left join lateral (
    select count(*) filter (where r.outcome = 'succeeded') as succeeded,
           extract(epoch from max(r.ended_at) - min(r.claimed_at))::double precision as seconds
      from orch.agent_runs r
     where not s.live and r.job_id between $1 and $2) p on true
