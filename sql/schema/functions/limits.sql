-- What operators do to limits and projects: set, close, open, drop, pause, resume. Each says in words why it cannot, tells
-- what it did in events, and returns whether anything changed.

-- Makes a limit, or changes its bound; null: any number.
create or replace function orch.set_limit(name text, max_running integer default null) returns boolean
language plpgsql
set search_path = pg_catalog, orch
as $$
#variable_conflict use_variable
declare
    fault constant text := orch.fault_of_limit_name(name);
    done boolean;
begin
    if fault is not null then
        raise exception '%', fault using errcode = 'OR004', hint = 'nothing was changed';
    end if;
    if max_running < 1 then
        raise exception 'limit %: max_running % is not at least 1', to_jsonb(name), max_running
            using errcode = 'OR004', hint = 'to let nothing run, close it: select orch.close_limit(name, reason => …)';
    end if;
    insert into orch.limits as l (name, max_running) values (name, max_running)
    on conflict on constraint limits_pkey do update set max_running = excluded.max_running, updated_at = clock_timestamp()
     where l.max_running is distinct from excluded.max_running;
    done := found;
    if done then
        insert into orch.events (kind, detail)
        values ('limit_set', jsonb_build_object('limit', name, 'max_running', max_running));
        -- There may be room now; who fills all its slots passes the word on.
        perform orch.wake(replicas => 8);
    end if;
    return done;
end
$$;
comment on function orch.set_limit is 'Makes a limit, or changes how many jobs that need it run at the same time (null: any number).';

-- Lets no job start that needs the limit, until a time or until it is opened. Then one job probes, and the rest follows.
create or replace function orch.close_limit(name text, until timestamptz default 'infinity', reason text default null)
returns boolean
language plpgsql
set search_path = pg_catalog, orch
as $$
begin
    return orch.close_until(name, until, reason, true);
end
$$;
comment on function orch.close_limit is 'Lets no job start that needs the limit, until a time (infinity: until it is opened); then one job probes whether it may be opened.';

create or replace function orch.close_until(name text, until timestamptz, reason text, probe boolean) returns boolean
language plpgsql
set search_path = pg_catalog, orch
as $$
#variable_conflict use_variable
declare
    fault constant text := orch.fault_of_limit_name(name);
    done boolean;
begin
    if fault is not null then
        raise exception '%', fault using errcode = 'OR004', hint = 'nothing was changed';
    end if;
    if until is null or until <= clock_timestamp() then
        raise exception 'limit %: it cannot be closed until %, which is past', to_jsonb(name), coalesce(until::text, 'null')
            using errcode = 'OR004', hint = 'leave the time out to close it until it is opened by hand';
    end if;
    if orch.is_unsaid_limit(name) then
        insert into orch.limits as l (name, closed_until, reason, probe) values (name, until, reason, probe)
        on conflict on constraint limits_pkey do update
           set closed_until = excluded.closed_until, reason = excluded.reason, probe = excluded.probe,
               updated_at = clock_timestamp()
         where (l.closed_until, l.reason, l.probe)
               is distinct from (excluded.closed_until, excluded.reason, excluded.probe);
        done := found;
    else
        update orch.limits l
           set closed_until = until, reason = close_until.reason, probe = close_until.probe, updated_at = clock_timestamp()
         where l.name = close_until.name
           and (l.closed_until, l.reason, l.probe) is distinct from (until, close_until.reason, close_until.probe);
        done := found;
        if not done and not exists (select from orch.limits l where l.name = close_until.name) then
            raise exception '%', orch.unknown_limit(name)
                using errcode = 'OR004', hint = 'make it first: select orch.set_limit(name, max_running)';
        end if;
    end if;
    if done then
        insert into orch.events (kind, detail)
        values (case when probe then 'limit_closed' else 'paused' end,
                jsonb_build_object('limit', name, 'until', until, 'reason', reason));
    end if;
    return done;
end
$$;
comment on function orch.close_until is 'What orch.close_limit and orch.pause have in common.';

-- Opens a closed limit at once, without a probe.
create or replace function orch.open_limit(name text) returns boolean
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    fault constant text := orch.fault_of_limit_name(name);
begin
    if fault is not null then
        raise exception '%', fault using errcode = 'OR004', hint = 'nothing was changed';
    end if;
    if orch.open_now(name, 'limit_opened') then
        return true;
    end if;
    if not orch.is_unsaid_limit(name) and not exists (select from orch.limits l where l.name = open_limit.name) then
        raise exception '%', orch.unknown_limit(name) using errcode = 'OR004', hint = 'select name from orch.limit_use';
    end if;
    return false;
end
$$;
comment on function orch.open_limit is 'Opens a closed limit at once, without a probe.';

create or replace function orch.open_now(name text, kind text) returns boolean
language plpgsql
set search_path = pg_catalog, orch
as $$
begin
    update orch.limits l set closed_until = null, reason = null, probe = true, updated_at = clock_timestamp()
     where l.name = open_now.name and l.closed_until is not null;
    if not found then
        return false;
    end if;
    insert into orch.events (kind, detail) values (kind, jsonb_build_object('limit', name));
    -- What waited for it may run now.
    perform orch.wake(replicas => 8);
    return true;
end
$$;
comment on function orch.open_now is 'What orch.open_limit and orch.resume have in common.';

-- Removes a limit that nobody needs.
create or replace function orch.drop_limit(name text) returns boolean
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    who text;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'limit %: it is dropped in READ COMMITTED, not in %', to_jsonb(name),
                upper(current_setting('transaction_isolation'))
            using errcode = 'OR004', hint = 'what was enqueued meanwhile would not be seen';
    end if;
    -- Waits for whoever enqueues with it (orch.keep_limits): what they commit, the looks behind this see.
    perform from orch.limits l where l.name = drop_limit.name for update;
    if not found then
        raise exception '%', coalesce(orch.fault_of_limit_name(name), orch.unknown_limit(name))
            using errcode = 'OR004', hint = 'select name from orch.limit_use';
    end if;
    select format('agent %s names it: take it out of orch.toml', a.name) into who
      from orch.agents a where a.limits @> array[drop_limit.name] order by a.name limit 1;
    if who is null then
        select format('job %s waits with it', j.id) into who
          from orch.jobs j where (j.claimable or j.set_aside or j.waits_for is not null) and j.limits @> array[drop_limit.name] limit 1;
    end if;
    if who is null then
        select format('job %s runs with it', h.job_id) into who
          from orch.agent_runs h where h.ended_at is null and h.limits @> array[drop_limit.name] limit 1;
    end if;
    if who is not null then
        raise exception 'limit %: it is in use: %', to_jsonb(name), who
            using errcode = 'OR004', hint = 'orch.set_limit(name, null) takes its bound away';
    end if;
    delete from orch.limits l where l.name = drop_limit.name;
    insert into orch.events (kind, detail) values ('limit_dropped', jsonb_build_object('limit', name));
    if orch.is_unsaid_limit(name) then
        -- A bound or a pause of these goes with it.
        perform orch.wake(replicas => 8);
    end if;
    return true;
end
$$;
comment on function orch.drop_limit is 'Removes a limit that no agent names and no job waits or runs with.';
