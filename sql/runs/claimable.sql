-- The ids of the jobs that a claim would look at now, in its order: a batch that failed is repeated over them one by one.
--
-- $1 text[]   agents that the claimant serves
-- $2 bigint   how many at the most
-- $3 boolean  serial_gate_enabled, as for the claim: jobs whose gate is taken must not stand before the offender
-- rows: job_id
-- guard: none, nothing is locked; the claim of each decides
-- index: jobs_claim, jobs_running_gate
select j.id as job_id
  from orch.jobs j
 where j.claimable and j.run_at <= now() and j.agent = any ($1)
   and (not $3 or j.gate is null
        or j.gate not in (select o.running_gate from orch.jobs o where o.running_gate is not null))
 order by j.priority desc, j.run_at, j.id
 limit $2
