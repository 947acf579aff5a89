-- The jobs that a job was enqueued after, and those that were enqueued after it.
--
-- $1 bigint   job_id
-- $2 bigint   how many of each at the most
-- rows: before (whether it is one that the job was enqueued after), job_id, status (null: it was removed), agent, pending
--       (whether it is still waited for, as far as is known), total (how many there are of this kind)
-- guard: none
-- index: job_dependencies_pkey, job_dependencies_after, the primary key of jobs
(select true as before, d.after_id as job_id, p.status, p.agent,
        coalesce(d.after_id = any (j.waits_for), false) and p.status is distinct from 'succeeded' as pending,
        count(*) over () as total
   from orch.job_dependencies d
   join orch.jobs j on j.id = d.job_id
   left join orch.jobs p on p.id = d.after_id
  where d.job_id = $1
  order by pending desc, d.after_id
  limit $2)
union all
(select false, d.job_id, w.status, w.agent, coalesce(d.after_id = any (w.waits_for), false), count(*) over ()
   from orch.job_dependencies d
   join orch.jobs w on w.id = d.job_id
  where d.after_id = $1
  order by d.job_id
  limit $2)
