-- Make a limit, or change its bound.
--
-- $1 text      name
-- $2 integer   how many jobs that need it run at the same time, or null for any number
-- rows: changed
-- guard: orch.set_limit's own
-- index: the primary key
select orch.set_limit(name => $1, max_running => $2) as changed
