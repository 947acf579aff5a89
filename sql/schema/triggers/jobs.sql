-- The guards of orch.jobs. They fire in the order of their names, after every other trigger of the table, so that they see
-- what that made of the row; ENABLE ALWAYS, so that session_replication_role skips none.
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

-- Those of schemas up to version 12, in the transaction that makes what follows: at no time is there none.
drop trigger if exists jobs_zz0_guard_transition on orch.jobs;
drop trigger if exists jobs_zz1_guard_owner on orch.jobs;
drop trigger if exists jobs_zz2_derive_helpers on orch.jobs;
drop function if exists orch.guard_transition(), orch.guard_owner(), orch.derive_helpers();
-- That of the migration that made the CHECKs few, which stands in for those below until they are there.
drop trigger if exists jobs_zz2_set_lane_and_set_aside on orch.jobs;
drop function if exists orch.set_lane_and_set_aside();

create or replace trigger jobs_zz0_guard_format
    before insert or update of agent, project, gate, dedupe_key, limits, labels, require, max_attempts, timeout, payload, waits_for,
        priority, lane
    on orch.jobs
    for each row execute function orch.guard_format();
alter table orch.jobs enable always trigger jobs_zz0_guard_format;
comment on trigger jobs_zz0_guard_format on orch.jobs is 'What a job is enqueued with is well formed, and says its lane.';

-- Not `update of status`, not where the status changes: an update from queued to queued that sets a pid is caught as well.
create or replace trigger jobs_zz1_guard_job
    before insert or update on orch.jobs
    for each row execute function orch.guard_job();
alter table orch.jobs enable always trigger jobs_zz1_guard_job;
comment on trigger jobs_zz1_guard_job on orch.jobs is 'Refuses illegal transitions; a row that does not run has no owner; sets what follows from the status.';
