-- What breaks an invariant right now.
--
-- $1 bigint   how many at the most
-- rows: invariant, what (the job or run)
-- guard: none
-- index: orch.violations' own
select invariant, what from orch.violations limit $1
