-- The ids of the jobs that a filter names, piece by piece and the oldest first: what a change by filter goes over.
--
-- $1 bigint            only ids above this one (the last of the piece before)
-- $2 text[]            only these statuses, or null
-- $3 text              only this project, or null
-- $4 text              only this agent, or null
-- $5 double precision  only created at most so many seconds ago, or null
-- $6 double precision  only created at least so many seconds ago, or null
-- $7 double precision  only finished at most so many seconds ago, or null
-- $8 double precision  only finished at least so many seconds ago, or null
-- $9 bigint            how many at the most
-- rows: id, status, project, agent
-- guard: none, nothing is locked; the change of each decides
-- index: a walk of the primary key
select j.id, j.status, j.project, j.agent
  from orch.jobs j
 where j.id > $1
   and ($2 is null or j.status = any ($2))
   and ($3 is null or j.project = $3)
   and ($4 is null or j.agent = $4)
   and ($5 is null or j.created_at >= now() - make_interval(secs => $5))
   and ($6 is null or j.created_at <= now() - make_interval(secs => $6))
   and ($7 is null or j.finished_at >= now() - make_interval(secs => $7))
   and ($8 is null or j.finished_at <= now() - make_interval(secs => $8))
 order by j.id
 limit $9
