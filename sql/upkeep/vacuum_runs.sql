-- Vacuum orch.agent_runs: remove its dead rows and make its statistics anew. Who is at it already is left to it.
--
-- rows: none
-- guard: none; the server skips it where the role may not. Its end is not cut off, which would lock the table.
-- index: none
vacuum (skip_locked, truncate false, analyze) orch.agent_runs
