-- Guard 1: a row that does not run has no owner. Nulls the ownership columns; on a queued or held row that is a repair,
-- counted in guard_repairs_total and told in events. Fired by its trigger only where there is something to null.
create or replace function orch.guard_owner() returns trigger
language plpgsql
set search_path = pg_catalog, orch
as $$
begin
    if new.status in ('queued', 'held') then
        insert into orch.counters as c (name, value) values ('guard_repairs_total', 1)
        on conflict (name) do update set value = c.value + 1;
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
comment on function orch.guard_owner() is 'Nulls the owner of a row that does not run, and counts it as a repair.';
