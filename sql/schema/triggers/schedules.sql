-- The guard of orch.schedules. A tick that fires does not fire it.
create or replace trigger schedules_guard_insert
    before insert on orch.schedules
    for each row execute function orch.guard_schedule();
alter table orch.schedules enable always trigger schedules_guard_insert;
comment on trigger schedules_guard_insert on orch.schedules is 'What is no schedule is refused in words.';

create or replace trigger schedules_guard_update
    before update on orch.schedules
    for each row when (
        (old.name, old.cron, old.every, old.anchor_at, old.time_zone, old.catch_up, old.catch_up_max, old.grace, old.overlap,
         old.paused, old.agent, old.payload, old.project, old.priority, old.gate, old.limits, old.labels, old.require,
         old.max_attempts, old.timeout, old.tick_key)
        is distinct from
        (new.name, new.cron, new.every, new.anchor_at, new.time_zone, new.catch_up, new.catch_up_max, new.grace, new.overlap,
         new.paused, new.agent, new.payload, new.project, new.priority, new.gate, new.limits, new.labels, new.require,
         new.max_attempts, new.timeout, new.tick_key))
    execute function orch.guard_schedule();
alter table orch.schedules enable always trigger schedules_guard_update;
comment on trigger schedules_guard_update on orch.schedules is 'What is no schedule any more is refused, and the next tick is computed anew where it may have changed.';
