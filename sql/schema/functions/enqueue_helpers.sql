-- What enqueue and enqueue_many share: the words of their refusals, and the gate of a serial project.

create or replace function orch.refuse_missing_feature(parameter text, given boolean) returns void
language plpgsql immutable
set search_path = pg_catalog, orch
as $$
begin
    if given then
        raise exception 'enqueue: % comes with a later version of orch', parameter
            using errcode = 'OR003', hint = format('leave %s out', parameter);
    end if;
end
$$;
comment on function orch.refuse_missing_feature is 'Refuses a parameter whose feature is not there yet (SQLSTATE OR003).';

-- Says in words what the CHECKs of orch.jobs would refuse by name. Nulls are what a default stands for.
create or replace function orch.check_wish(
    agent text, payload jsonb, project text, run_at timestamptz, gate text, labels jsonb, dedupe_key text,
    on_conflict text, max_attempts integer, timeout interval
) returns void
language plpgsql immutable
set search_path = pg_catalog, orch
as $$
declare
    well_formed constant text := '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$';
    complaint text := case
        when agent is null then 'agent is missing'
        when agent !~ well_formed then format('agent %L is no well-formed name', left(agent, 120))
        when project !~ well_formed then format('project %L is no well-formed name', left(project, 120))
        when not isfinite(run_at) then 'run_at must be finite; to keep a job back, enqueue it and hold it'
        when length(gate) not between 1 and 200 then 'gate must have 1 to 200 characters'
        when jsonb_typeof(labels) <> 'object' then 'labels must be a JSON object'
        when length(dedupe_key) not between 1 and 500 then 'dedupe_key must have 1 to 500 characters'
        when on_conflict not in ('return', 'replace', 'refuse') then
            format('on_conflict %L is unknown: it is one of return, replace, refuse', left(on_conflict, 120))
        when on_conflict is not null and dedupe_key is null then 'on_conflict needs a dedupe_key'
        when max_attempts < 1 then 'max_attempts must be at least 1'
        when timeout <= interval '0' then 'timeout must be more than 0'
    end;
begin
    if complaint is not null then
        raise exception 'enqueue: %', complaint
            using errcode = 'OR004',
                  hint = case when complaint like '%well-formed%'
                              then 'a name has 1 to 100 letters, digits, ".", "_", "-" and begins with a letter or digit'
                              else 'nothing was enqueued' end;
    end if;
end
$$;
comment on function orch.check_wish is 'Refuses a wish that no job can be, in words (SQLSTATE OR004).';

create or replace function orch.gate_of(project text) returns text
language sql stable
set search_path = pg_catalog, orch
as $$
    select 'project:' || p.name from orch.projects p where p.name = gate_of.project and p.serial
$$;
comment on function orch.gate_of is 'The gate of a serial project''s jobs; null elsewhere.';
