-- Derives finished_at, failed_at, claimable, live_dedupe_key, awaits_replica and waits_for from the status, so that a plain INSERT or
-- UPDATE need not know them. Called by guard_job, only where they disagree; orch's own statements set them.
create or replace function orch.derive_helpers(new orch.jobs) returns orch.jobs
language plpgsql
set search_path = pg_catalog, orch
as $$
begin
    if new.status = 'running' or new.status in ('succeeded', 'failed') then
        new.awaits_replica := null;
    end if;
    if new.status not in ('queued', 'held') then
        new.waits_for := null;
    end if;
    new.claimable := new.status = 'queued' and new.awaits_replica is null and new.waits_for is null;
    new.finished_at := case when new.status in ('succeeded', 'failed', 'cancelled')
                            then coalesce(new.finished_at, clock_timestamp()) end;
    new.failed_at := case when new.status = 'failed' then coalesce(new.failed_at, new.finished_at) end;
    new.live_dedupe_key := case when new.status in ('queued', 'held', 'running') then new.dedupe_key end;
    return new;
end
$$;
comment on function orch.derive_helpers(orch.jobs) is 'Sets what follows from a job''s status, where a statement did not.';
