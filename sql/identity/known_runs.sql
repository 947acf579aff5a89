-- Which of these runs the database knows, open or ended.
--
-- $1 uuid[]   run_ids
-- rows: run_id, open
-- guard: none
-- index: agent_runs_pkey
select r.run_id, r.ended_at is null as open
  from unnest($1) with ordinality asked (run_id, position)
  join orch.agent_runs r on r.run_id = asked.run_id
 order by asked.position
