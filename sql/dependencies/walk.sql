-- A piece of a walk over the jobs that wait for others, looking for those with a predecessor that has ended and nobody said
-- so: its replica died just then, it was cancelled or deleted by hand, or it ended while the job was being enqueued.
--
-- $1 bigint    walk from behind this job_id
-- $2 bigint    how many rows at the most
-- $3 bigint    and about how many predecessors
-- rows: one: job_ids found, and next_after, where the walk goes on (null: the start)
-- guard: none; resolving looks again, under the lock
-- index: jobs_waits_for, the primary key
with piece as materialized (
    select w.id, w.waits_for
      from (select j.id, j.waits_for, sum(cardinality(j.waits_for)) over (order by j.id) - cardinality(j.waits_for) as before
              from (select id, waits_for from orch.jobs where waits_for is not null and id > $1 order by id limit $2) j) w
     where w.before < $3
)
select coalesce(array_agg(p.id order by p.id) filter (where exists (
           select from unnest(p.waits_for) a (id)
             left join orch.jobs q on q.id = a.id
            where q.id is null or q.status in ('failed', 'cancelled')
               or (q.status = 'succeeded' and a.id = p.waits_for[cardinality(p.waits_for)]))), '{}') as job_ids,
       (select max(l.id) from piece l
         where exists (select from orch.jobs j where j.waits_for is not null and j.id > l.id)
           and l.id = (select max(id) from piece)) as next_after
  from piece p
