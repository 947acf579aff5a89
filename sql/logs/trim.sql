-- Delete the oldest part of a log's tail.
--
-- $1 uuid    run id
-- $2 bigint  where the tail begins
-- $3 bigint  where what is kept of it begins
-- rows: none
-- guard: none; the head, which lies before $2, stays
-- index: run_logs_pkey
delete from orch.run_logs where run_id = $1 and position >= $2 and position < $3
