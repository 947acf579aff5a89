-- What a late result makes of its job: a reap closed the run as lost, and what it says took its row of the table of
-- settling (orch.settle_rule) as if it had come in time. `model::settle_late` says the same in Rust, and a test holds the
-- two together.
--
-- `was` is the job's status now (null: it is not this run's any more), `on_lost` the agent's rule, `key_taken` whether another live job has its dedupe key,
-- `next` the status by the table. Null: the job is no longer this result's to change; it is written to its run only.
create or replace function orch.late_rule(was text, on_lost text, key_taken boolean, next text) returns text
language sql immutable
as $$
    select case
               when (was in ('queued', 'held', 'failed')) is not true then null
               when was = 'failed' and key_taken and next in ('queued', 'held') then null
               -- not the reap held it but an operator, meanwhile: that is not undone
               when was = 'held' and on_lost is distinct from 'hold' and next = 'queued' then 'held'
               else next
           end
$$;
comment on function orch.late_rule is 'What a result that comes after its run was reaped makes of the job; null: nothing.';
