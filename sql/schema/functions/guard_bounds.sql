-- Guard 5: times are such as every reader can take, and counts start at 0. As a CHECK says it, under a name and with SQLSTATE
-- 23514. Called by guard_job, only where a row is not as it usually is.
create or replace function orch.guard_bounds(new orch.jobs) returns void
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    broken constant text := case
        when least(new.attempt, new.failures, new.lost_count, new.transient_count, new.interrupted_count) < 0
            then 'counts_are_not_negative'
        when greatest(new.run_at, new.created_at, new.started_at, new.cancel_requested_at, new.finished_at, new.failed_at)
                 >= timestamptz '9999-01-01 00:00:00+00'
          or least(new.run_at, new.created_at, new.started_at, new.cancel_requested_at, new.finished_at, new.failed_at)
                 < timestamptz '1970-01-01 00:00:00+00'
            then 'times_are_finite'
    end;
begin
    if broken is not null then
        raise exception 'new row for relation "jobs" violates "%"', broken
            using errcode = 'check_violation', schema = 'orch', table = 'jobs', constraint = broken,
                  hint = case broken
                      when 'counts_are_not_negative' then 'attempt, failures, lost_count, transient_count, interrupted_count: from 0'
                      else 'times are from 1970 to 9998; to keep a job back for good, hold it'
                  end;
    end if;
end
$$;
comment on function orch.guard_bounds(orch.jobs) is 'Refuses a job with times or counts out of bounds (SQLSTATE 23514).';
