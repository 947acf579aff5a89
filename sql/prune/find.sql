-- The next piece of a walk over the jobs, oldest first, looking for what ended long ago. The walk ends at the first piece
-- in which nothing was enqueued that long ago, so it costs what is old and still there, and no index on finished_at.
--
-- $1 bigint            walk from behind this job_id
-- $2 bigint            how many rows at the most
-- $3 double precision  for how many seconds what has ended is kept
-- rows: one: job_ids found, and where the walk goes on (null: it is over)
-- guard: none here
-- index: the primary key
with piece as materialized (
    select j.id, j.status, j.created_at, j.finished_at, j.awaits_replica
      from orch.jobs j
     where j.id > $1
     order by j.id
     limit $2
)
select coalesce(array_agg(p.id order by p.id) filter (
           where p.status in ('succeeded', 'failed', 'cancelled')
             and p.finished_at < now() - make_interval(secs => $3)
             and p.awaits_replica is null), '{}') as job_ids,
       case when count(*) = $2 and min(p.created_at) < now() - make_interval(secs => $3) then max(p.id) end as next_after
  from piece p
