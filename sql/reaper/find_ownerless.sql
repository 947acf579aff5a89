-- Sanitize, third kind, the walk: a bounded piece of the primary key, looking for running rows without an owner or
-- without an open run of their own.
--
-- $1 bigint   walk from behind this job_id
-- $2 bigint   how many rows at the most
-- rows: one: job_ids found, and where the next walk goes on (null: from the start)
-- guard: none here
-- index: the primary key
with piece as materialized (
    select j.id, j.status, j.run_id, j.replica_id
      from orch.jobs j
     where j.id > $1
     order by j.id
     limit $2
)
select coalesce(array_agg(p.id order by p.id) filter (
           where p.status = 'running'
             and (not exists (select from orch.replicas o where o.replica_id = p.replica_id)
                  or not exists (select from orch.agent_runs r
                                  where r.run_id = p.run_id and r.job_id = p.id and r.replica_id = p.replica_id
                                    and r.ended_at is null))), '{}') as job_ids,
       case when count(*) = $2 then max(p.id) end as next_after
  from piece p
