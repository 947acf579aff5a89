-- Hold a job that cannot be claimed, with the database's own words, so that it stops nobody and is found.
--
-- $1 bigint   job_id
-- $2 text     the error
-- rows: job_id, if it was held
-- guard: the job is still claimable
-- index: the primary key
with held as (
    update orch.jobs set status = 'held', claimable = false, error = $2
     where id = $1 and claimable
    returning id
),
told as (
    insert into orch.events (kind, job_id, detail)
    select 'claim_refused', id, jsonb_build_object('error', $2) from held
)
select id as job_id from held
