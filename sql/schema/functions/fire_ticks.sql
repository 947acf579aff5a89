-- Fires ticks of schedules: the jobs and the next ticks, in the caller's one transaction. The parameters are arrays, a step
-- each, in order; of one schedule there may be several, each from where the one before it leads.
--
-- names, revisions, seen   the schedule as the caller saw it: its name, its revision, its next_tick_at
-- ticks                    the tick to fire; null: only next is written
-- nexts                    where it goes on: the tick after this one; null: it never ticks again
-- left_out                 the first tick that was missed and is left out by this step, or null; told in events
-- errors                   why the caller cannot read it: it is looked at again in a minute; null: it can
--
-- A row an answered step: fired, skipped, waits, refused (the database refused the job: error says why), planned, unread. A
-- step that saw what is no longer so has none: another replica was faster, the schedule was changed, or its row is locked.
-- error is null where it is what stood there before.
-- One schedule whose job is refused stops no other. A tick that is not due by this clock is not fired, whoever asks.
create or replace function orch.fire_ticks(
    names text[], revisions bigint[], seen timestamptz[], ticks timestamptz[], nexts timestamptz[], left_out timestamptz[],
    errors text[]
) returns table (name text, tick_at timestamptz, answer text, job_id bigint, error text)
language plpgsql
set search_path = pg_catalog, orch
as $$
#variable_conflict use_variable
declare
    s orch.schedules;
begin
    for n in 1..coalesce(cardinality(names), 0) loop
        select c.* into s from orch.schedules c
         where c.name = names[n] and c.revision = revisions[n] and c.next_tick_at = seen[n] and not c.paused
           and c.next_tick_at <= clock_timestamp() and coalesce(ticks[n] <= clock_timestamp(), true)
           for update skip locked;
        continue when not found;

        name := s.name;
        tick_at := ticks[n];
        job_id := null;
        error := errors[n];
        if error is not null then
            answer := 'unread';
            update orch.schedules c
               set error = errors[n], planned = false, next_tick_at = clock_timestamp() + interval '1 minute'
             where c.name = s.name;
            error := nullif(error, s.error);
            return next;
            continue;
        end if;

        answer := 'planned';
        if tick_at is not null then
            begin
                select f.answer, f.job_id into answer, job_id from orch.enqueue_tick(s, tick_at) f;
            exception when others then
                -- What is the fault of this schedule; what is the server's or another transaction's is everybody's.
                if left(sqlstate, 2) not in ('OR', '22', '23', '42', '54', 'P0') then
                    raise;
                end if;
                answer := 'refused';
                error := sqlerrm;
            end;
        end if;
        if answer = 'waits' then
            -- The first that waits leads on to no other; where it is new, it is at least planned from now on.
            if not s.planned then
                update orch.schedules c set planned = true, next_tick_at = tick_at where c.name = s.name;
            end if;
            return next;
            continue;
        end if;
        if left_out[n] is not null then
            insert into orch.events (kind, detail)
            values ('ticks_missed', jsonb_build_object('schedule', s.name, 'since', left_out[n], 'goes_on_at', coalesce(tick_at, nexts[n])));
        end if;
        update orch.schedules c
           set planned = true, next_tick_at = nexts[n], error = error,
               last_tick_at = coalesce(tick_at, c.last_tick_at),
               last_answer = case when tick_at is null then c.last_answer else answer end,
               last_job_id = case when answer = 'fired' then job_id else c.last_job_id end,
               skipped = c.skipped + case when answer = 'skipped' then 1 else 0 end
         where c.name = s.name;
        error := nullif(error, s.error);
        return next;
    end loop;
end
$$;
comment on function orch.fire_ticks is 'Fires ticks that a replica has computed, each once: job and next tick in one transaction.';
