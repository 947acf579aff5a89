-- Start nothing more of a project, an agent, or at all; what runs goes on.
--
-- $1 text              all, project:NAME or agent:NAME
-- $2 timestamptz       until this instant, or null
-- $3 double precision  for so many seconds, or null; with neither, until it is resumed
-- $4 text              why, or null
-- rows: changed, until (null: until it is resumed)
-- guard: orch.pause's own
-- index: the primary key
select orch.pause(what => $1, until => u.at, reason => $4) as changed, case when isfinite(u.at) then u.at end as until
  from (select coalesce($2, now() + make_interval(secs => $3), 'infinity') as at) u
