-- Let no job start that needs a limit; afterwards one job probes.
--
-- $1 text              name
-- $2 timestamptz       until this instant, or null
-- $3 double precision  for so many seconds, or null; with neither, until it is opened
-- $4 text              why, or null
-- rows: changed, until (null: until it is opened)
-- guard: orch.close_limit's own
-- index: the primary key
select orch.close_limit(name => $1, until => u.at, reason => $4) as changed, case when isfinite(u.at) then u.at end as until
  from (select coalesce($2, now() + make_interval(secs => $3), 'infinity') as at) u
