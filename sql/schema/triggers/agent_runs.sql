-- The guard of orch.agent_runs. After the row is written: one before an UPDATE would have the row locked first, with a record
-- in the write-ahead log. ENABLE ALWAYS, so that session_replication_role does not skip it.
create or replace trigger agent_runs_guard_run
    after insert or update of attempt, rules, outcome, closed_by, containment on orch.agent_runs
    for each row execute function orch.guard_run();
alter table orch.agent_runs enable always trigger agent_runs_guard_run;
comment on trigger agent_runs_guard_run on orch.agent_runs is 'What a run says of itself is known.';
