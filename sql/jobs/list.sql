-- A page of jobs, the newest first.
--
-- $1 bigint            only ids below this one (the last of the page before), or null
-- $2 text[]            only these statuses, or null
-- $3 text              only this project, or null
-- $4 text              only this agent, or null
-- $5 double precision  only created at most so many seconds ago, or null
-- $6 double precision  only created at least so many seconds ago, or null
-- $7 double precision  only finished at most so many seconds ago, or null
-- $8 double precision  only finished at least so many seconds ago, or null
-- $9 bigint            how many at the most
-- rows: the job without its wide columns, and its owner's name and host
-- guard: none
-- index: a walk of the primary key; no index of jobs may name the status
select j.id, j.status, j.project, j.agent, j.run_id, p.name as replica, p.host, j.pid, j.priority, j.run_at, j.attempt,
       j.failures, j.awaits_replica, j.waits_for, j.cancel_requested_at, j.created_at, j.started_at, j.finished_at, j.error,
       clock_timestamp() as read_at
  from orch.jobs j
  left join orch.replicas p on p.replica_id = j.replica_id
 where j.id < coalesce($1, 9223372036854775807)
   and ($2 is null or j.status = any ($2))
   and ($3 is null or j.project = $3)
   and ($4 is null or j.agent = $4)
   and ($5 is null or j.created_at >= now() - make_interval(secs => $5))
   and ($6 is null or j.created_at <= now() - make_interval(secs => $6))
   and ($7 is null or j.finished_at >= now() - make_interval(secs => $7))
   and ($8 is null or j.finished_at <= now() - make_interval(secs => $8))
 order by j.id desc
 limit $9
