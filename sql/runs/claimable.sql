-- The ids of the jobs that a claim would look at now, in its order: a batch that failed is repeated over them one by one.
--
-- $1 text[]   agents that the claimant serves
-- $2 bigint   how many at the most
-- rows: job_id
-- guard: none, nothing is locked; the claim of each decides
-- index: jobs_claim
select j.id as job_id
  from orch.jobs j
 where j.claimable and j.run_at <= now() and j.agent = any ($1)
 order by j.priority desc, j.run_at, j.id
 limit $2
