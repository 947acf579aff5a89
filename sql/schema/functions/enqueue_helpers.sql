-- What enqueue and enqueue_many share: the words of their refusals, and the gate of a serial project.

-- Says in words what the CHECKs of orch.jobs would refuse by name, and what none of them knows; null where the wish is a
-- job. Null parameters stand for a default. `code` is OR004 (bad argument) or OR005 (a job that is not there).
create or replace function orch.fault_of_wish(
    agent text, payload jsonb, project text, priority integer, run_at timestamptz, gate text, limits text[], labels jsonb,
    require jsonb, dedupe_key text, on_conflict text, after bigint[], max_attempts integer, timeout interval,
    out code text, out complaint text
)
language plpgsql stable
set search_path = pg_catalog, orch
as $$
declare
    -- A bounded repetition would cost ten times as much as the length by itself.
    well_formed constant text := '^[A-Za-z0-9][A-Za-z0-9._-]*$';
    a_name constant text := ': a name has 1 to 100 letters, digits, ".", "_" and "-", and begins with a letter or digit';
begin
    -- What is quoted is quoted as JSON, which shows control characters instead of sending them to a terminal.
    complaint := case
        when agent is null then 'agent is missing'
        when length(agent) > 100 or agent !~ well_formed then format('agent %s is no well-formed name%s', to_jsonb(left(agent, 120)), a_name)
        when length(project) > 100 or project !~ well_formed then
            format('project %s is no well-formed name%s', to_jsonb(left(project, 120)), a_name)
        when pg_column_size(payload) > 16777216 then 'payload has more than 16 MiB: store it elsewhere and pass its address'
        when priority not between -32768 and 32767 then format('priority %s is not between -32768 and 32767', priority)
        when not isfinite(run_at) then 'run_at must be finite: to keep a job back, enqueue it and hold it'
        when run_at not between timestamptz '1970-01-01 00:00:00+00' and timestamptz '9998-12-31 00:00:00+00' then
            format('run_at %s is not between 1970 and 9998', run_at)
        when octet_length(gate) not between 1 and 500 then 'gate must have 1 to 500 bytes'
        when jsonb_typeof(labels) <> 'object' then format('labels must be a JSON object, not %s', jsonb_typeof(labels))
        when pg_column_size(labels) > 65536 then 'labels must have at most 64 KiB'
        when jsonb_typeof(require) <> 'object' then format('require must be a JSON object, not %s', jsonb_typeof(require))
        when pg_column_size(require) > 8192 then 'require must have at most 8 KiB'
        when octet_length(dedupe_key) not between 1 and 500 then 'dedupe_key must have 1 to 500 bytes'
        when on_conflict not in ('return', 'replace', 'refuse') then
            format('on_conflict %s is unknown: it is one of return, replace, refuse', to_jsonb(left(on_conflict, 120)))
        when on_conflict is not null and dedupe_key is null then 'on_conflict needs a dedupe_key'
        when max_attempts < 1 then format('max_attempts %s is not at least 1', max_attempts)
        when timeout <= interval '0' then format('timeout %s is not more than 0', timeout)
        when timeout > interval '100 years' then 'timeout must be at most 100 years: leave it out for none'
    end;
    if complaint is null and limits <> '{}' then
        complaint := orch.fault_of_limits(limits);
    end if;
    if complaint is not null then
        code := 'OR004';
    elsif after <> '{}' then
        select f.code, f.complaint into code, complaint from orch.fault_of_after(after) f;
    end if;
end
$$;
comment on function orch.fault_of_wish is 'Says in words why a wish is no job; null where it is one.';

-- Says why a wish whose dedupe_key a live job has is refused; nulls where its on_conflict is done.
create or replace function orch.fault_of_key(
    dedupe_key text, on_conflict text, after bigint[], job_id bigint, job_status text, out code text, out complaint text
)
language plpgsql stable
set search_path = pg_catalog, orch
as $$
#variable_conflict use_variable
declare
    closes bigint;
begin
    if after <> '{}' then
        closes := orch.leads_to(after, job_id);
    end if;
    if closes is not null then
        code := 'OR004';
        complaint := format('after is circular: job %s is live with dedupe_key %s, and job %s %s', job_id,
                            to_jsonb(dedupe_key), closes,
                            case when closes = job_id then 'cannot wait for itself' else format('waits for job %s', job_id) end);
    elsif on_conflict = 'refuse' or (on_conflict = 'replace' and job_status = 'running') then
        code := 'OR002';
        complaint := format('dedupe_key %s is taken: already live as job %s, which is %s', to_jsonb(dedupe_key), job_id,
                            job_status);
    end if;
end
$$;
comment on function orch.fault_of_key is 'Says in words why a wish is refused whose dedupe_key a live job has; nulls where it is not.';

-- In PL/pgSQL, which plans it once a session and not once a call.
create or replace function orch.gate_of(project text) returns text
language plpgsql stable
set search_path = pg_catalog, orch
as $$
begin
    return (select 'project:' || p.name from orch.projects p where p.name = gate_of.project and p.serial);
end
$$;
comment on function orch.gate_of is 'The gate of a serial project''s jobs; null elsewhere.';
