-- A replica that is dead or has left never lives again, and one that is live is not deleted: both would give runs an owner
-- that the reaper has already answered for.
create or replace function orch.guard_replica() returns trigger
language plpgsql
set search_path = pg_catalog, orch
as $$
begin
    if tg_op = 'DELETE' then
        raise exception 'replica % is live; its row is not deleted', old.replica_id
            using errcode = 'OR006', hint = 'stop the replica, or wait until its lease has run out';
    end if;
    raise exception 'replica % is %, for ever', old.replica_id, old.state
        using errcode = 'OR006', hint = 'a boot that was declared dead registers under a new replica_id';
end
$$;
comment on function orch.guard_replica() is 'Dead is for ever, and a live replica is not deleted (SQLSTATE OR006).';
