-- What a run says of itself is known: as CHECKs say it, under a name and with SQLSTATE 23514. Runs are written one at a time
-- in a queue with little to do, and Postgres reads the text of each CHECK anew for each statement (docs/adr/0020); this is
-- compiled once a session. That a run is ended whole or not at all stays a CHECK. No search_path of its own, as guard_job.
create or replace function orch.guard_run() returns trigger
language plpgsql
as $$
declare
    broken text;
begin
    if new.attempt >= 1 and jsonb_typeof(new.rules) = 'object'
       and (new.outcome is null or new.outcome in ('succeeded', 'failed', 'transient', 'timed_out', 'cancelled', 'interrupted', 'lost', 'spawn_failed'))
       and (new.closed_by is null or new.closed_by in ('owner', 'successor', 'reap', 'operator', 'sanitize'))
       and (new.containment is null or new.containment in ('cgroup', 'pidns', 'sweep')) then
        return new;
    end if;
    broken := case
        when new.attempt < 1 then 'run_attempt_is_positive'
        when jsonb_typeof(new.rules) <> 'object' then 'run_rules_are_an_object'
        when new.outcome not in ('succeeded', 'failed', 'transient', 'timed_out', 'cancelled', 'interrupted', 'lost', 'spawn_failed') then 'run_outcome_is_known'
        when new.closed_by not in ('owner', 'successor', 'reap', 'operator', 'sanitize') then 'run_closed_by_is_known'
        when new.containment not in ('cgroup', 'pidns', 'sweep') then 'run_containment_is_known'
    end;
    -- A null is for its column to refuse.
    if broken is null then
        return new;
    end if;
    raise exception 'new row for relation "agent_runs" violates "%"', broken
        using errcode = 'check_violation', schema = 'orch', table = 'agent_runs', constraint = broken,
              hint = case broken
                  when 'run_attempt_is_positive' then 'attempt: from 1'
                  when 'run_rules_are_an_object' then 'rules: a JSON object; an empty one leaves every rule at its default'
                  when 'run_outcome_is_known' then 'outcome: succeeded, failed, transient, timed_out, cancelled, interrupted, lost or spawn_failed'
                  when 'run_closed_by_is_known' then 'closed_by: owner, successor, reap, operator or sanitize'
                  when 'run_containment_is_known' then 'containment: cgroup, pidns or sweep'
              end;
end
$$;
comment on function orch.guard_run() is 'Refuses a run whose attempt, rules, outcome, closed_by or containment are not known (SQLSTATE 23514).';
