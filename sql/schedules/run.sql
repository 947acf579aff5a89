-- Enqueue a job of a schedule now.
--
-- $1 text  name
-- rows: id
-- guard: orch.run_schedule's own
-- index: the primary keys
select orch.run_schedule($1) as id
