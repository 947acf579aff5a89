-- Resolve waits: let go the jobs whose predecessors have succeeded, cancel those of which one has not.
--
-- $1 bigint[]   jobs that have ended: who waits for them is looked at
-- $2 bigint[]   jobs that wait: they are looked at themselves
-- $3 integer    how many at the most
-- rows: one: released, how many; cancelled, the jobs that were; shortened, the jobs that wait for fewer now and are to be
--       looked at once more; more, whether some were passed over or left
-- guard: orch.resolve_waits' own: each still waits under its lock; locked rows are passed over; repeating it is harmless
-- index: job_dependencies_after, the primary keys
select released, cancelled, shortened, more from orch.resolve_waits($1, $2, $3)
