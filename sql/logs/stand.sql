-- How far a run's log has been shipped, by parts of the output, so that a shipper may go on there.
--
-- $1 uuid    run id
-- $2 bigint  the length of a part
-- rows: for each part that chunks begin in, in order: where the first one begins, where the last one ends, bytes of all
-- guard: none
-- index: run_logs_pkey; the length of a chunk is known without reading it
select min(position) as first, max(position + octet_length(bytes)) as last, sum(octet_length(bytes))::bigint as bytes
  from orch.run_logs
 where run_id = $1
 group by position / $2
 order by first
