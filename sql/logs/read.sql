-- The next chunks of a run's log.
--
-- $1 uuid    run id
-- $2 bigint  from this position on
-- $3 bigint  at most so many
-- rows: position and bytes of each, in order
-- guard: none
-- index: run_logs_pkey
select position, bytes from orch.run_logs where run_id = $1 and position >= $2 order by position limit $3
