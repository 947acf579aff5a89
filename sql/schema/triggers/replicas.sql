-- The guards of orch.replicas.
create or replace trigger replicas_guard_state
    before update on orch.replicas
    for each row when (old.state <> 'live' and new.state <> old.state)
    execute function orch.guard_replica();
alter table orch.replicas enable always trigger replicas_guard_state;
comment on trigger replicas_guard_state on orch.replicas is 'Dead and left are for ever.';

create or replace trigger replicas_guard_delete
    before delete on orch.replicas
    for each row when (old.state = 'live')
    execute function orch.guard_replica();
alter table orch.replicas enable always trigger replicas_guard_delete;
comment on trigger replicas_guard_delete on orch.replicas is 'A live replica is not deleted.';
