-- What is known of the length of a run's output.
--
-- $1 uuid  run id
-- rows: the run: whether it began, seconds since it ended (null while it is open), its host, and, once its shim has told,
--       bytes kept and dropped
-- guard: none
-- index: agent_runs_pkey
select spawned_at is not null as began, extract(epoch from clock_timestamp() - ended_at)::double precision as ended_seconds, host,
       log_bytes_kept, log_bytes_dropped
  from orch.agent_runs
 where run_id = $1
