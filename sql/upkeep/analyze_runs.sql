-- Analyze orch.agent_runs: make its statistics anew, by which its statements are planned.
--
-- rows: none
-- guard: none; the server skips it where the role may not
-- index: none
analyze (skip_locked) orch.agent_runs
