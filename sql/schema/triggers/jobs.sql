-- The guards of orch.jobs. Each fires only where its WHEN says that there is something to do: a false WHEN costs nothing,
-- and none is true for a statement of orch's own. They fire in the order of their names, after every other trigger of the
-- table, so that they see what that made of the row; ENABLE ALWAYS, so that session_replication_role skips none.
create or replace trigger jobs_guard_delete
    before delete on orch.jobs
    for each row when (old.status = 'running')
    execute function orch.guard_delete();
alter table orch.jobs enable always trigger jobs_guard_delete;
comment on trigger jobs_guard_delete on orch.jobs is 'A running job is not deleted.';

create or replace trigger jobs_guard_truncate
    before truncate on orch.jobs
    for each statement execute function orch.guard_truncate();
alter table orch.jobs enable always trigger jobs_guard_truncate;
comment on trigger jobs_guard_truncate on orch.jobs is 'Running jobs are not truncated away.';

-- The legal transitions that it lets pass unasked, each by what its statement shows:
--   claim         queued and claimable, to running with attempt + 1 and no pid as yet
--   pid, cancel   running to running, the same run_id
--   settle, reap  running to anything, with last_run_id = the run that ends
--   operators     queued and held to each other and to cancelled; a finished row as it is
-- What is left (an operator's plain UPDATE of a running row, a retry, a late result, and all that is illegal) is rare.

create or replace trigger jobs_zz0_guard_transition
    before update on orch.jobs
    for each row when (
        new.attempt < old.attempt
        or (old.status = 'running' and new.status = 'running' and new.run_id is distinct from old.run_id)
        or (old.status = 'running' and new.status <> 'running'
            and (old.run_id is null or new.last_run_id is distinct from old.run_id))
        or (old.status <> 'running' and new.status = 'running'
            and not (old.status = 'queued' and old.claimable and new.attempt = old.attempt + 1 and new.pid is null))
        or (old.status <> new.status and old.status <> 'running' and new.status <> 'running'
            and not (old.status in ('queued', 'held') and new.status in ('queued', 'held', 'cancelled'))))
    execute function orch.guard_transition();
alter table orch.jobs enable always trigger jobs_zz0_guard_transition;
comment on trigger jobs_zz0_guard_transition on orch.jobs is 'Refuses illegal transitions; takes a running job where an operator says so.';

-- Not `update of status`, not `old.status is distinct from new.status`: an update from queued to queued that sets a pid is
-- caught as well.
create or replace trigger jobs_zz1_guard_owner
    before insert or update on orch.jobs
    for each row when (
        new.status <> 'running'
        and num_nonnulls(new.run_id, new.replica_id, new.pid, new.started_at, new.running_gate) > 0)
    execute function orch.guard_owner();
alter table orch.jobs enable always trigger jobs_zz1_guard_owner;
comment on trigger jobs_zz1_guard_owner on orch.jobs is 'A row that does not run has no owner.';

create or replace trigger jobs_zz2_derive_helpers
    before insert or update on orch.jobs
    for each row when (
        new.claimable is distinct from (new.status = 'queued' and new.awaits_replica is null and new.waits_for is null)
        or (new.waits_for is not null and new.status not in ('queued', 'held'))
        or (new.finished_at is not null) <> (new.status in ('succeeded', 'failed', 'cancelled'))
        or (new.failed_at is not null) <> (new.status = 'failed')
        or (new.awaits_replica is not null and new.status in ('running', 'succeeded', 'failed'))
        or new.live_dedupe_key is distinct from
           case when new.status in ('queued', 'held', 'running') then new.dedupe_key end)
    execute function orch.derive_helpers();
alter table orch.jobs enable always trigger jobs_zz2_derive_helpers;
comment on trigger jobs_zz2_derive_helpers on orch.jobs is 'Sets what follows from the status, where a statement did not.';
