-- Add orch.agent_runs.lost_counted: whether a loss was counted against its job.
--
-- Why: a result that comes after a reap closed its run as lost takes the loss back, and no loss is counted soon after an
--   outage: what is to be taken back must be written down.
-- Lock: access exclusive on agent_runs for a moment; a column without a default rewrites nothing.
-- The binary before: works. Losses that it reaps say nothing here and are not taken back.
-- Undo by hand: alter table orch.agent_runs drop column lost_counted;
set local lock_timeout = '5s';

alter table orch.agent_runs add column lost_counted boolean;

comment on column orch.agent_runs.lost_counted is 'Of a lost run: whether the loss counts towards max_lost; not so soon after an outage of the database. Null for any other.';
