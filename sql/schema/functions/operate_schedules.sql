-- What operators do to a schedule: pause, resume, run. Each act is told in events. Everything else is a plain insert, update
-- or delete of its row.

create or replace function orch.locked_schedule(name text) returns orch.schedules
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    s orch.schedules;
begin
    select c.* into s from orch.schedules c where c.name = locked_schedule.name for update;
    if s.name is null then
        raise exception 'there is no schedule %', coalesce(to_jsonb(left(name, 120))::text, 'null')
            using errcode = 'OR005', hint = coalesce(
                (select format('the nearest is %s', to_jsonb(n.name))
                   from (select c.name, orch.distance(lower(c.name), lower(locked_schedule.name)) as far
                           from (select c.name from orch.schedules c order by c.name limit 1000) c) n
                  where n.far <= greatest(length(locked_schedule.name) / 3, 1)
                  order by n.far, n.name limit 1),
                'select name from orch.schedules order by name');
    end if;
    return s;
end
$$;
comment on function orch.locked_schedule is 'Locks a schedule and returns it (SQLSTATE OR005 if there is none).';

-- Keeps a schedule from ticking. Returns whether that was new.
create or replace function orch.pause_schedule(name text) returns boolean
language sql
set search_path = pg_catalog, orch
as $$
    select orch.turn_schedule(name, true)
$$;
comment on function orch.pause_schedule is 'Keeps a schedule from ticking until it is resumed; what falls into the pause is not made up for.';

-- Lets a schedule tick again, from now on. Returns whether that was new.
create or replace function orch.resume_schedule(name text) returns boolean
language sql
set search_path = pg_catalog, orch
as $$
    select orch.turn_schedule(name, false)
$$;
comment on function orch.resume_schedule is 'Lets a schedule tick again, from now on.';

create or replace function orch.turn_schedule(name text, pause boolean) returns boolean
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    s orch.schedules := orch.locked_schedule(name);
begin
    if s.paused = pause then
        return false;
    end if;
    update orch.schedules c set paused = pause where c.name = s.name;
    insert into orch.events (kind, detail)
    values (case when pause then 'schedule_paused' else 'schedule_resumed' end, jsonb_build_object('schedule', s.name));
    return true;
end
$$;
comment on function orch.turn_schedule is 'What orch.pause_schedule and orch.resume_schedule have in common.';

-- Enqueues a job of a schedule now, paused or not, and returns its number. Its ticks stay as they are, and its overlap policy
-- holds: what it would skip is refused.
create or replace function orch.run_schedule(name text) returns bigint
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    s orch.schedules := orch.locked_schedule(name);
    done record;
begin
    done := orch.enqueue_tick(s, clock_timestamp());
    if done.answer = 'waits' and done.job_id is null then
        raise exception 'schedule %: somebody is dropping a limit that its jobs need', to_jsonb(s.name)
            using errcode = 'OR002', hint = 'say it again once that has committed or rolled back';
    elsif done.answer <> 'fired' then
        raise exception 'schedule %: its job % is still live', to_jsonb(s.name), done.job_id
            using errcode = 'OR002',
                  hint = case done.answer when 'skipped' then 'wait for it, or cancel it: its overlap policy is skip'
                                          else 'say it again once it has ended' end;
    end if;
    update orch.schedules c set last_job_id = done.job_id where c.name = s.name;
    insert into orch.events (kind, job_id, detail)
    values ('schedule_run', done.job_id, jsonb_build_object('schedule', s.name));
    return done.job_id;
end
$$;
comment on function orch.run_schedule is 'Enqueues a job of a schedule now and returns its number; its ticks stay as they are.';
