-- The guard of orch.jobs: refuses illegal transitions, nulls the owner of a row that does not run, and sets what follows
-- from the status. Looks at every row that is written, and finds nothing to do for a statement of orch's own; what it does
-- find is for guard_transition, guard_owner, derive_helpers and guard_bounds.
--
-- The transitions that it lets pass unasked, each by what its statement shows:
--   claim         queued and claimable, to running with attempt + 1 and no pid as yet
--   pid, cancel   running to running, the same run_id
--   settle, reap  running to anything, with last_run_id = the run that ends
--   operators     queued and held to each other and to cancelled; a finished row as it is
-- What is left (an operator's plain UPDATE of a running row, a retry, a late result, and all that is illegal) is rare.
--
-- One trigger without a WHEN, and a function without a search_path of its own: Postgres reads the text of each WHEN anew
-- for each statement, which took 0.25 ms of one; a call takes 1 us a row, and 3 with its own search_path (docs/adr/0017).
-- The CHECKs stand behind it whatever the search_path is.
create or replace function orch.guard_job() returns trigger
language plpgsql
as $$
begin
    if tg_op = 'UPDATE' then
        if not (new.attempt >= old.attempt and case
            -- that is for the column to refuse
            when new.status is null then true
            when old.status = 'running' and new.status = 'running' then new.run_id is not distinct from old.run_id
            when old.status = 'running' then old.run_id is not null and new.last_run_id is not distinct from old.run_id
            when new.status = 'running'
                then old.status = 'queued' and old.claimable and new.attempt = old.attempt + 1 and new.pid is null
            when new.status = old.status then true
            else old.status in ('queued', 'held') and new.status in ('queued', 'held', 'cancelled') end) then
            new := orch.guard_transition(old, new);
        end if;
    end if;

    -- Set for every statement: none of orch's own knows it.
    if new.set_aside is distinct from (new.status = 'held' or (new.status = 'queued' and new.awaits_replica is not null)) then
        new.set_aside := new.status = 'held' or (new.status = 'queued' and new.awaits_replica is not null);
    end if;

    -- Whatever the statement changed: one from queued to queued that sets a pid is caught as well. A null is not as it should.
    if (case
           when new.status in ('queued', 'held') then
               num_nonnulls(new.run_id, new.replica_id, new.pid, new.started_at, new.running_gate,
                            new.finished_at, new.failed_at) = 0
               and new.claimable = (new.status = 'queued' and num_nonnulls(new.awaits_replica, new.waits_for) = 0)
               and new.live_dedupe_key is not distinct from new.dedupe_key
           when new.status = 'running' then
               num_nonnulls(new.finished_at, new.failed_at, new.awaits_replica, new.waits_for) = 0
               and not new.claimable
               and new.live_dedupe_key is not distinct from new.dedupe_key
           else
               num_nonnulls(new.run_id, new.replica_id, new.pid, new.started_at, new.running_gate,
                            new.waits_for, new.live_dedupe_key) = 0
               and new.finished_at is not null and (new.failed_at is not null) = (new.status = 'failed')
               and (new.awaits_replica is null or new.status = 'cancelled')
               and not new.claimable end)
       and least(new.attempt, new.failures, new.lost_count, new.transient_count, new.interrupted_count) >= 0
       and greatest(new.run_at, new.created_at, new.started_at, new.cancel_requested_at, new.finished_at, new.failed_at)
           < timestamptz '9999-01-01 00:00:00+00'
       and least(new.run_at, new.created_at, new.started_at, new.cancel_requested_at, new.finished_at, new.failed_at)
           >= timestamptz '1970-01-01 00:00:00+00' then
        return new;
    end if;

    if new.status <> 'running'
       and num_nonnulls(new.run_id, new.replica_id, new.pid, new.started_at, new.running_gate) > 0 then
        new := orch.guard_owner(new);
    end if;
    new := orch.derive_helpers(new);
    perform orch.guard_bounds(new);
    return new;
end
$$;
comment on function orch.guard_job() is
    'Refuses illegal transitions of a job, nulls the owner of one that does not run, and sets what follows from its status.';
