-- Open a closed limit at once, without a probe.
--
-- $1 text   name
-- rows: changed
-- guard: orch.open_limit's own
-- index: the primary key
select orch.open_limit(name => $1) as changed
