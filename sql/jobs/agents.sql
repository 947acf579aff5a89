-- The names of all registered agents.
--
-- rows: name
-- guard: none
-- index: the primary key
select name from orch.agents order by name
