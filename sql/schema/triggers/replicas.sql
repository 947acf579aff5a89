-- The guards of orch.replicas. A renewal fires none of them.
create or replace trigger replicas_guard_state
    before update on orch.replicas
    for each row when (
        (old.state <> 'live' and new.state <> old.state)
        or (old.state = 'live' and new.state = 'left')
        or new.replica_id <> old.replica_id)
    execute function orch.guard_replica();
alter table orch.replicas enable always trigger replicas_guard_state;
comment on trigger replicas_guard_state on orch.replicas is 'Dead and left are for ever, and who leaves owns nothing.';

create or replace trigger replicas_guard_delete
    before delete on orch.replicas
    for each row when (old.state = 'live')
    execute function orch.guard_replica();
alter table orch.replicas enable always trigger replicas_guard_delete;
comment on trigger replicas_guard_delete on orch.replicas is 'A live replica is not deleted.';

create or replace trigger replicas_guard_truncate
    before truncate on orch.replicas
    for each statement execute function orch.guard_truncate();
alter table orch.replicas enable always trigger replicas_guard_truncate;
comment on trigger replicas_guard_truncate on orch.replicas is 'Live replicas are not truncated away.';
