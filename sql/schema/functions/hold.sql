-- How a claim makes sure of what it counts: it locks, skipping what another claim has locked, and then counts.
--
-- A count may only be trusted if its snapshot is newer than the lock. A statement has one snapshot from its start, older
-- than any lock that it takes; a volatile function has a new one for each of its statements (READ COMMITTED). So the claim
-- calls these, and stays one statement. The locks last until it has committed. None is ever waited for.

-- The limits of these that have a bound or are closed, and how many more jobs that need it may start: 0 where it is
-- closed, full, or in the hands of another claim (then `busy`: worth another look soon). Those with room are locked.
create or replace function orch.hold_limits(names text[]) returns table (name text, room integer, busy boolean)
language plpgsql volatile strict
set search_path = pg_catalog, orch
as $$
declare
    roomy text[];
    held text[];
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'a claim is made in READ COMMITTED, not in %', upper(current_setting('transaction_isolation'))
            using hint = 'set default_transaction_isolation back for the replicas'' role and database';
    end if;
    roomy := array(select u.name from orch.limit_use u where u.name = any (names) and u.room > 0);
    if roomy <> '{}' then
        held := array(select l.name from orch.limits l where l.name = any (roomy) order by l.name
                         for no key update skip locked);
    end if;
    return query
    select u.name, case when u.name = any (held) then greatest(u.room, 0) else 0 end,
           u.room > 0 and (u.name = any (held)) is not true
      from orch.limit_use u
     where u.name = any (names) and u.room is not null;
end
$$;
comment on function orch.hold_limits is 'Locks those of these limits that have room, and says how much; what another claim has locked has none.';

-- The gates of these that are free, and that no other claim is about to take.
create or replace function orch.hold_gates(gates text[]) returns setof text
language plpgsql volatile strict
set search_path = pg_catalog, orch
as $$
declare
    held text[];
begin
    held := array(select g from unnest(gates) g where pg_try_advisory_xact_lock(hashtextextended(g, 1869767528)));
    return query
    select g from unnest(held) g where not exists (select from orch.taken_gates t where t.gate = g);
end
$$;
comment on function orch.hold_gates is 'Locks those of these gates that no other claim has locked, and says which of them are free.';
