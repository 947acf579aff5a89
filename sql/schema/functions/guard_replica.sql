-- A replica that is dead or has left never lives again, and one that is live is neither deleted nor renamed: each would
-- give runs an owner that the reaper has already answered for, or none. It leaves owning nothing.
create or replace function orch.guard_replica() returns trigger
language plpgsql
set search_path = pg_catalog, orch
as $$
begin
    if tg_op = 'DELETE' then
        raise exception 'replica % is live; its row is not deleted', old.replica_id
            using errcode = 'OR006', hint = 'stop the replica, or wait until its lease has run out';
    end if;
    if new.replica_id <> old.replica_id then
        raise exception 'replica %: a replica_id never changes', old.replica_id
            using errcode = 'OR006', hint = 'every boot registers under a replica_id of its own';
    end if;
    if old.state <> 'live' then
        raise exception 'replica % is %, for ever', old.replica_id, old.state
            using errcode = 'OR006', hint = 'a boot that was declared dead registers under a new replica_id';
    end if;
    if exists (select from orch.agent_runs r where r.replica_id = old.replica_id and r.ended_at is null) then
        raise exception 'replica % has open runs; it has not left', old.replica_id
            using errcode = 'OR006', hint = 'it leaves once its runs are settled; if it is gone, its lease runs out by itself';
    end if;
    return new;
end
$$;
comment on function orch.guard_replica() is
    'Dead is for ever, a live replica is not deleted, and one that leaves owns nothing (SQLSTATE OR006).';
