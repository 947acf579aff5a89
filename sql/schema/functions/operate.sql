-- What operators do to one job: cancel, retry, hold, release. Each locks the row, says in words why it cannot, and returns
-- the status that the job has afterwards. Each act is told in events.

create or replace function orch.locked_status(job_id bigint) returns text
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    status text;
begin
    select j.status into status from orch.jobs j where j.id = locked_status.job_id for update;
    if status is null then
        raise exception 'there is no job %', coalesce(job_id::text, 'null')
            using errcode = 'OR005', hint = 'select id, status from orch.jobs order by id desc limit 20';
    end if;
    return status;
end
$$;
comment on function orch.locked_status is 'Locks a job and returns its status (SQLSTATE OR005 if there is none).';

-- Cancels a waiting job at once; asks for the cancel of a running one, which its replica does within a poll.
create or replace function orch.cancel(job_id bigint) returns text
language plpgsql
set search_path = pg_catalog, orch
as $$
#variable_conflict use_column
declare
    was text := orch.locked_status(cancel.job_id);
begin
    if was in ('queued', 'held') then
        update orch.jobs j
           set status = 'cancelled', claimable = false, waits_for = null, finished_at = clock_timestamp(),
               live_dedupe_key = null
         where j.id = cancel.job_id;
        insert into orch.events (kind, job_id, detail)
        values ('cancelled', cancel.job_id, jsonb_build_object('was', was));
        perform orch.cancel_dependents(cancel.job_id);
        return 'cancelled';
    elsif was = 'running' then
        update orch.jobs j set cancel_requested_at = coalesce(j.cancel_requested_at, clock_timestamp())
         where j.id = cancel.job_id;
        insert into orch.events (kind, job_id, run_id)
        select 'cancel_requested', j.id, j.run_id from orch.jobs j where j.id = cancel.job_id;
        return 'running';
    end if;
    raise exception 'job % is % already', cancel.job_id, was using errcode = 'OR001', hint = 'there is nothing to cancel';
end
$$;
comment on function orch.cancel is
    'Cancels a waiting job, or asks its replica to end a running one. Returns the status: cancelled, or still running.';

-- Queues a finished job again, as new but for attempt, which counts on.
create or replace function orch.retry(job_id bigint) returns text
language plpgsql
set search_path = pg_catalog, orch
as $$
#variable_conflict use_column
declare
    was text := orch.locked_status(retry.job_id);
    live bigint;
    waits bigint[];
    bad bigint;
    bad_status text;
begin
    if was not in ('succeeded', 'failed', 'cancelled') then
        raise exception 'job % is %, not finished', retry.job_id, was
            using errcode = 'OR001',
                  hint = case was when 'held' then 'use orch.release(job_id)' else 'wait for its end, or cancel it' end;
    end if;
    -- It waits again for what has not succeeded. Jobs that were removed meanwhile are not waited for: they had ended.
    select array_agg(p.id order by p.id) filter (where p.status in ('queued', 'held', 'running')),
           min(p.id) filter (where p.status in ('failed', 'cancelled'))
      into waits, bad
      from orch.job_dependencies d
      join orch.jobs p on p.id = d.after_id and p.status <> 'succeeded'
     where d.job_id = retry.job_id;
    if bad is not null then
        select p.status into bad_status from orch.jobs p where p.id = bad;
        raise exception 'job % runs after job %, which is %', retry.job_id, bad, bad_status
            using errcode = 'OR001', hint = format('retry that one first: orch.retry(%s)', bad);
    end if;
    begin
        update orch.jobs j
           set status = 'queued', claimable = j.awaits_replica is null and waits is null, waits_for = waits, run_at = clock_timestamp(), finished_at = null,
               failed_at = null, failures = 0, lost_count = 0, transient_count = 0, interrupted_count = 0,
               -- Kept while a replica is to end the process of that run: it is told by its name.
               last_run_id = case when j.awaits_replica is not null then j.last_run_id end,
               cancel_requested_at = null, error = null, result = null, live_dedupe_key = j.dedupe_key
         where j.id = retry.job_id;
    exception when unique_violation then
        select j.id into live from orch.jobs j
         where j.live_dedupe_key = (select own.dedupe_key from orch.jobs own where own.id = retry.job_id);
        if live is null then
            raise exception 'job %: another job with its dedupe key was live until now', retry.job_id
                using errcode = 'OR002', hint = 'say it again';
        end if;
        raise exception 'job % is already live as job %, with the same dedupe key', retry.job_id, live
            using errcode = 'OR002', hint = 'wait for that one, or cancel it';
    end;
    insert into orch.events (kind, job_id, detail) values ('retried', retry.job_id, jsonb_build_object('was', was));
    perform orch.wake(j.agent, j.require) from orch.jobs j where j.id = retry.job_id and j.claimable;
    return 'queued';
end
$$;
comment on function orch.retry is 'Queues a finished job again; counts, error and result are reset, attempt goes on.';

-- Keeps a queued job back until it is released.
create or replace function orch.hold(job_id bigint) returns text
language plpgsql
set search_path = pg_catalog, orch
as $$
#variable_conflict use_column
declare
    was text := orch.locked_status(hold.job_id);
begin
    if was <> 'queued' then
        raise exception 'job % is %; only a queued job is held', hold.job_id, was
            using errcode = 'OR001',
                  hint = case was when 'running' then 'to take it from its replica: update orch.jobs set status = ''held'' where id = …'
                                  when 'held' then 'there is nothing to do'
                                  else 'use orch.retry(job_id) to have it run again' end;
    end if;
    update orch.jobs j set status = 'held', claimable = false where j.id = hold.job_id;
    insert into orch.events (kind, job_id) values ('held', hold.job_id);
    return 'held';
end
$$;
comment on function orch.hold is 'Keeps a queued job back until it is released.';

-- Lets a held job go.
create or replace function orch.release(job_id bigint) returns text
language plpgsql
set search_path = pg_catalog, orch
as $$
#variable_conflict use_column
declare
    was text := orch.locked_status(release.job_id);
begin
    if was <> 'held' then
        raise exception 'job % is %; only a held job is released', release.job_id, was
            using errcode = 'OR001',
                  hint = case when was in ('succeeded', 'failed', 'cancelled') then 'use orch.retry(job_id)'
                              else 'there is nothing to do' end;
    end if;
    update orch.jobs j
       set status = 'queued', claimable = j.awaits_replica is null and j.waits_for is null, transient_count = 0, interrupted_count = 0
     where j.id = release.job_id;
    insert into orch.events (kind, job_id) values ('released', release.job_id);
    perform orch.wake(j.agent, j.require) from orch.jobs j where j.id = release.job_id and j.claimable and j.run_at <= now();
    return 'queued';
end
$$;
comment on function orch.release is 'Lets a held job go; it is due at its run_at. What led to the hold is counted anew.';
