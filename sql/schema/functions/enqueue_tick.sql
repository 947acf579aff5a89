-- Enqueues the job of a tick of a schedule whose row the caller has locked, as its overlap policy wants it.
--
-- answer   fired (job_id is the new job), skipped (job_id is the live one), or waits (job_id is in the way; null: the
--          drop of a limit that has not committed): the tick is neither fired nor left out, and is to be tried again
--
-- Nothing here waits for a lock, so that one job which somebody holds in a long transaction keeps no other schedule waiting.
-- What of queue and replace must not overlap shares a gate, whose unique index has the last word. A predecessor that may be
-- alive and that the gate would not hold back is waited for: it runs under another gate, since the schedule was changed,
-- or under none, since a replica has serial_gate_enabled off; or it was taken from its replica and its process is ending.
create or replace function orch.enqueue_tick(s orch.schedules, tick_at timestamptz, out answer text, out job_id bigint)
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    its_gate text := coalesce(s.gate, orch.gate_of(s.project), case when s.overlap <> 'skip' then 'schedule:' || s.name end);
    tick text := to_char(tick_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
                 || rtrim(rtrim(to_char(tick_at, '.US'), '0'), '.') || 'Z';
    previous record;
    kept text[];
begin
    job_id := s.last_job_id;
    if s.overlap = 'skip' then
        if exists (select from orch.jobs j where j.id = s.last_job_id and j.status in ('queued', 'held', 'running')) then
            answer := 'skipped';
            return;
        end if;
    else
        select j.status, j.gate, j.running_gate, j.awaits_replica, j.cancel_requested_at
          into previous from orch.jobs j where j.id = s.last_job_id for update skip locked;
        if not found and exists (select from orch.jobs j where j.id = s.last_job_id) then
            answer := 'waits';
            return;
        end if;
        if s.overlap = 'replace' and (previous.status in ('queued', 'held')
                                      or (previous.status = 'running' and previous.cancel_requested_at is null)) then
            perform orch.cancel(s.last_job_id);
        end if;
        if previous.awaits_replica is not null
           or (previous.status = 'running' and previous.running_gate is distinct from its_gate) then
            answer := 'waits';
            return;
        end if;
        if s.overlap = 'queue' and previous.status in ('queued', 'held') and previous.gate is distinct from its_gate then
            update orch.jobs j set gate = its_gate where j.id = s.last_job_id;
        end if;
    end if;
    if s.limits <> '{}' then
        kept := array(select l.name from orch.limits l where l.name = any (s.limits) order by l.name for key share skip locked);
        if exists (select from orch.limits l where l.name = any (s.limits) and l.name <> all (kept)) then
            -- Somebody is about to drop one.
            answer := 'waits';
            job_id := null;
            return;
        end if;
    end if;
    job_id := orch.enqueue(
        agent => s.agent,
        payload => case when s.tick_key is null then s.payload
                        else s.payload || jsonb_build_object(s.tick_key, tick) end,
        project => s.project,
        priority => s.priority,
        gate => its_gate,
        limits => s.limits,
        labels => coalesce(s.labels, '{}') || jsonb_build_object('schedule', s.name, 'tick', tick),
        require => s.require,
        max_attempts => s.max_attempts,
        timeout => s.timeout);
    answer := 'fired';
end
$$;
comment on function orch.enqueue_tick is 'Enqueues the job of a tick, as the schedule''s overlap policy wants it; waits for no lock.';
