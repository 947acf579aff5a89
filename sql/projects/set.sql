-- Give a project rules of its own.
--
-- $1 text      name
-- $2 integer   weight, or null to leave it
-- $3 boolean   serial, or null to leave it
-- rows: changed
-- guard: orch.set_project's own
-- index: the primary key
select orch.set_project(name => $1, weight => $2, serial => $3) as changed
