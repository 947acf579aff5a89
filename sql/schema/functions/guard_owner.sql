-- Guard 1: a row that does not run has no owner. Nulls the ownership columns; on a queued or held row that is a repair,
-- told in events and counted in guard_repairs_total. Called by guard_job, only where there is something to null.
--
-- The count is kept in a setting of the transaction until its end, when count_guard_repairs adds it: counters come last
-- in the order of locks, and a transaction that goes on for long must not keep others from repairing.
create or replace function orch.guard_owner(new orch.jobs) returns orch.jobs
language plpgsql
set search_path = pg_catalog, orch
as $$
begin
    if new.status in ('queued', 'held') then
        perform set_config('orch.guard_repairs',
                           (coalesce(nullif(current_setting('orch.guard_repairs', true), ''), '0')::bigint + 1)::text, true);
        insert into orch.events (kind, job_id, run_id, detail)
        values ('guard_repair', new.id, new.run_id,
                jsonb_build_object('status', new.status, 'run_id', new.run_id, 'replica_id', new.replica_id,
                                   'pid', new.pid, 'started_at', new.started_at, 'running_gate', new.running_gate));
    end if;
    new.run_id := null;
    new.replica_id := null;
    new.pid := null;
    new.started_at := null;
    new.running_gate := null;
    return new;
end
$$;
comment on function orch.guard_owner(orch.jobs) is 'Nulls the owner of a row that does not run, and counts it as a repair.';

-- Fired at the end of the transaction, once an event; the first adds them all.
create or replace function orch.count_guard_repairs() returns trigger
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    repairs constant bigint := coalesce(nullif(current_setting('orch.guard_repairs', true), ''), '0')::bigint;
begin
    if repairs > 0 then
        insert into orch.counters as c (name, value) values ('guard_repairs_total', repairs)
        on conflict (name) do update set value = c.value + excluded.value;
        perform set_config('orch.guard_repairs', '0', true);
    end if;
    return null;
end
$$;
comment on function orch.count_guard_repairs() is 'Adds the repairs of a transaction to guard_repairs_total, at its end.';
