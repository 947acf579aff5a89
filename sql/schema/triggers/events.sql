-- Counts the guards' repairs when their transaction ends. `create or replace` knows no constraint triggers.
drop trigger if exists events_count_guard_repairs on orch.events;
create constraint trigger events_count_guard_repairs
    after insert on orch.events
    deferrable initially deferred
    for each row when (new.kind = 'guard_repair')
    execute function orch.count_guard_repairs();
alter table orch.events enable always trigger events_count_guard_repairs;
comment on trigger events_count_guard_repairs on orch.events is 'Adds the repairs of a transaction to guard_repairs_total.';
