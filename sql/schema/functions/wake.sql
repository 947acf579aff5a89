-- Wake-ups: how an enqueue tells a replica that waits for a job. Hints: whatever comes of one, every replica polls.
--
-- A NOTIFY takes a lock of the whole server until its transaction is on disk, so that such commits go one by one. Hence
-- only where a replica waits, to that one alone, and seldom; nobody writes, and nobody waits for a lock:
--
--   a replica without a job holds two advisory locks of a session of its own, (1869767528, 0) together with all others who
--   wait, and (1869767528, hash of its name) alone, and listens on a channel of its own;
--   an enqueuer finds by the first lock, for a microsecond, that nobody waits, and that is that;
--   else it takes (1869767529, hash of agent and centisecond) to the end of its transaction. Who does not get it leaves the
--   wake-up to whoever has: that one's commit is as near as their own;
--   of the replicas that serve the agent it then tells one that waits: the one that its session told before, for as long as
--   a second lasts, else one by chance. To choose among all is a third of what a wake-up costs.
--
-- The numbers are 'orch' and 'orci' in ASCII.

-- Whether a replica has said that it waits.
create or replace function orch.is_waiting(replica_id text) returns boolean
language sql volatile
as $$
    select case when pg_try_advisory_lock_shared(1869767528, hashtext(replica_id))
                then not pg_advisory_unlock_shared(1869767528, hashtext(replica_id)) else true end
$$;
comment on function orch.is_waiting is 'Whether a replica has said, in its listening session, that it waits for a wake-up.';

-- Wakes up to `replicas` of the replicas that wait, where they serve the agent and have the labels (null: any). Once a
-- transaction for each agent. Returns how many.
create or replace function orch.wake(agent text default null, require jsonb default null, replicas integer default 1)
returns integer
language plpgsql
as $$
#variable_conflict use_variable
declare
    told text;
    name text;
    centisecond bigint;
    habit text;
    last text;
    woken integer;
begin
    if (case when pg_try_advisory_lock(1869767528, 0) then pg_advisory_unlock(1869767528, 0) end) then
        return 0;
    end if;
    -- A transaction that is to be prepared (two-phase commit) must not notify: set orch.notify = off.
    told := coalesce(current_setting('orch.woken', true), '');
    name := ',' || coalesce(agent, '*') || ',';
    centisecond := floor(extract(epoch from clock_timestamp()) * 100);
    if position(name in told) > 0
       or current_setting('orch.notify', true) = 'off'
       or not pg_try_advisory_xact_lock(1869767529, hashtext(coalesce(agent, '') || ' ' || centisecond::text))
       -- A commit that notifies into a full queue fails. Who fills it is some listener that sits in a transaction.
       or pg_notification_queue_usage() > 0.5 then
        return 0;
    end if;
    -- In a setting of the session: the agent, the second, and who was told.
    habit := coalesce(agent, '') || ' ' || (centisecond / 100)::text || ' ';
    last := current_setting('orch.told', true);
    if replicas = 1 and starts_with(last, habit) then
        last := substr(last, length(habit) + 1);
        perform pg_notify('orch_' || last, '')
           from orch.replicas r
          where r.replica_id = last::uuid and orch.serves(r, agent, require) and orch.is_waiting(last);
        if found then
            told := set_config('orch.woken', told || name, true);
            return 1;
        end if;
    end if;
    select count(pg_notify('orch_' || s.replica_id, '')), max(s.replica_id) into woken, last
      from (select r.replica_id
              from (select r.replica_id::text
                      from orch.replicas r
                     where r.state = 'live' and not r.draining
                       and (agent is null or agent = any (r.agents))
                       and (require is null or r.labels @> require)
                     order by random()
                    -- one after the other, and no more than are needed
                    offset 0) r
             where orch.is_waiting(r.replica_id)
             limit replicas) s;
    if woken > 0 then
        told := concat(set_config('orch.woken', told || name, true), set_config('orch.told', habit || last, false));
    end if;
    return woken;
end
$$;
comment on function orch.wake is
    'Wakes replicas that wait for a job, as orch.enqueue does by itself. For whoever inserts into orch.jobs by hand.';

-- For a replica's listening session, never a pooled one: whether it is woken from now on. The locks end with the session.
-- False where a former session of the replica still has them.
create or replace function orch.await_wake(replica_id uuid, waits boolean) returns boolean
language plpgsql
set search_path = pg_catalog, orch
as $$
begin
    if not waits then
        execute format('unlisten %I', 'orch_' || await_wake.replica_id);
        perform pg_advisory_unlock(1869767528, hashtext(await_wake.replica_id::text));
        perform pg_advisory_unlock_shared(1869767528, 0);
        return true;
    end if;
    if not pg_try_advisory_lock(1869767528, hashtext(await_wake.replica_id::text)) then
        return false;
    end if;
    perform pg_advisory_lock_shared(1869767528, 0);
    execute format('listen %I', 'orch_' || await_wake.replica_id);
    return true;
end
$$;
comment on function orch.await_wake is 'Begins or ends a replica''s wait for a wake-up, in its listening session.';

-- For the same session: listens on the replica's channel.
create or replace function orch.hear(replica_id uuid) returns void
language plpgsql
set search_path = pg_catalog, orch
as $$
begin
    execute format('listen %I', 'orch_' || hear.replica_id);
end
$$;
comment on function orch.hear is 'Listens on a replica''s channel, in its listening session.';
