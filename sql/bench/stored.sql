-- How much output has arrived in the database of the bench.
--
-- rows: one: bytes
-- guard: none; the database is the bench's own
-- index: none; what is there is the output of a few runs
select coalesce(sum(octet_length(l.bytes)), 0)::bigint as bytes from orch.run_logs l
