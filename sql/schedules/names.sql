-- The names of all schedules.
--
-- rows: name, in order
-- guard: none
-- index: the primary key
select name from orch.schedules order by name
