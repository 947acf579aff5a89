-- Remove a limit that nobody needs.
--
-- $1 text   name
-- rows: changed
-- guard: orch.drop_limit's own
-- index: the primary key
select orch.drop_limit(name => $1) as changed
