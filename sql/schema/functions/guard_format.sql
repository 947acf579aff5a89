-- Guard 4: what a job is enqueued with is well formed. As CHECKs say it, under a name and with SQLSTATE 23514, but where
-- one of these columns is written and nowhere else: Postgres reads the text of a table's CHECKs anew for each statement,
-- and claim, stamp and settle write none of them (docs/adr/0017). Sets the lane, which stands on them. No search_path of its
-- own, which takes longer than the look: what it calls is named in full.
create or replace function orch.guard_format() returns trigger
language plpgsql
as $$
begin
    new.lane := orch.lane_of(new.priority, new.agent, new.gate, new.limits, new.require);
    -- What most jobs are, in one expression. A null is not as it should be.
    if pg_catalog.length(new.agent) <= 100 and pg_catalog.length(new.project) <= 100
       and (new.agent || '/' || new.project) ~ '^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$'
       and new.labels = '{}' and pg_catalog.pg_column_size(new.payload) <= 16777216
       and pg_catalog.num_nonnulls(new.gate, new.dedupe_key, new.limits, new.require, new.max_attempts, new.timeout,
                                   new.waits_for) = 0 then
        return new;
    end if;
    perform orch.refuse_malformed(new);
    return new;
end
$$;
comment on function orch.guard_format() is 'Refuses a job whose names, sizes or numbers are not well formed (SQLSTATE 23514), and sets its lane.';

-- The look at each of them.
create or replace function orch.refuse_malformed(job orch.jobs) returns void
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    -- A bounded repetition, {0,99}, would cost ten times as much as the length by itself.
    a_name constant text := '^[A-Za-z0-9][A-Za-z0-9._-]*$';
    broken text;
begin
    broken := case
        when length(job.agent) > 100 or job.agent !~ a_name then 'agent_is_well_formed'
        when length(job.project) > 100 or job.project !~ a_name then 'project_is_well_formed'
        when octet_length(job.gate) not between 1 and 500 then 'gate_is_short'
        when octet_length(job.dedupe_key) not between 1 and 500 then 'dedupe_key_is_short'
        when job.limits is not null and (
                cardinality(job.limits) > 16 or length(job.limits::text) > 1617
                or job.limits::text !~ '^\{[A-Za-z0-9][A-Za-z0-9._:/-]*(,[A-Za-z0-9][A-Za-z0-9._:/-]*)*\}$'
                or job.limits::text ~ '[{,](all[,}]|NULL[,}]|project:|agent:)') then 'limits_are_well_formed'
        when jsonb_typeof(job.labels) <> 'object' or pg_column_size(job.labels) > 65536 then 'labels_are_an_object'
        when jsonb_typeof(job.require) <> 'object' or pg_column_size(job.require) > 8192 then 'require_is_an_object'
        when job.max_attempts < 1 then 'max_attempts_is_positive'
        -- Postgres 17 knows infinite intervals, a replica's clock does not.
        when job.timeout <= interval '0' or job.timeout > interval '100 years' then 'timeout_is_positive_and_finite'
        when pg_column_size(job.payload) > 16777216 then 'payload_is_bounded'
        when job.waits_for is not null and (
                cardinality(job.waits_for) not between 1 and 1000 or array_ndims(job.waits_for) <> 1
                or array_position(job.waits_for, null) is not null
                or not job.id > all (job.waits_for)) then 'waits_for_jobs_before_it_runs'
    end;
    if broken is null then
        return;
    end if;
    raise exception 'new row for relation "jobs" violates "%"', broken
        using errcode = 'check_violation', schema = 'orch', table = 'jobs', constraint = broken,
              hint = case broken
                  when 'agent_is_well_formed' then 'agent: 1 to 100 letters, digits, dots, underscores and hyphens, a letter or digit first'
                  when 'project_is_well_formed' then 'project: 1 to 100 letters, digits, dots, underscores and hyphens, a letter or digit first'
                  when 'gate_is_short' then 'gate: 1 to 500 bytes, so that it fits into an index'
                  when 'dedupe_key_is_short' then 'dedupe_key: 1 to 500 bytes, so that it fits into an index'
                  when 'limits_are_well_formed' then 'limits: 1 to 16 names of letters, digits, dots, underscores, colons, slashes and hyphens, a letter or digit first, 1617 characters in all; never all, project:NAME or agent:NAME, which every job needs unsaid'
                  when 'labels_are_an_object' then 'labels: a JSON object of at most 64 KiB'
                  when 'require_is_an_object' then 'require: a JSON object of at most 8 KiB'
                  when 'max_attempts_is_positive' then 'max_attempts: at least 1'
                  when 'timeout_is_positive_and_finite' then 'timeout: more than nothing and at most 100 years'
                  when 'payload_is_bounded' then 'payload: at most 16 MiB; store more elsewhere and pass its address'
                  when 'waits_for_jobs_before_it_runs' then 'waits_for: 1 to 1000 jobs, each with a smaller number than this one'
              end;
end
$$;
comment on function orch.refuse_malformed(orch.jobs) is 'Refuses a job that is not well formed, and says what is not, for guard_format.';
