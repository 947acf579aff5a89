-- Where an awaited job stands.
--
-- $1 bigint   id
-- rows: status, run_id while it runs, the last run that ended and how, error
-- guard: none
-- index: the primary keys
select j.status, j.run_id, j.last_run_id, r.outcome as last_outcome, j.error
  from orch.jobs j
  left join orch.agent_runs r on r.run_id = j.last_run_id
 where j.id = $1
