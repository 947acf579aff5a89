-- Enqueue one job, inside the caller's own transaction, from any language. Returns the job's number.
--
-- agent, project   well-formed names; the agent need not be served yet, since producers deploy before replicas
-- priority         higher first; a smallint, taken as an integer so that a plain number finds this function
-- run_at           not before; gate: jobs of one gate run one at a time (null: project:NAME where projects.serial)
-- dedupe_key       at most one live job has it; on_conflict says what else: 'return' (the live one's number, the
--                  default), 'replace' (the payload of the live one, while it does not run), 'refuse' (SQLSTATE OR002)
-- limits           named caps that the job needs, each made by orch.set_limit before; require: labels that a replica must have
-- after            numbers of jobs that must have succeeded before; if one of them fails or is cancelled, so is this one
create or replace function orch.enqueue(
    agent text,
    payload jsonb default '{}',
    project text default 'default',
    priority integer default 0,
    run_at timestamptz default now(),
    gate text default null,
    limits text[] default null,
    labels jsonb default null,
    require jsonb default null,
    dedupe_key text default null,
    on_conflict text default null,
    after bigint[] default null,
    max_attempts integer default null,
    timeout interval default null
) returns bigint
language plpgsql
as $$
#variable_conflict use_variable
declare
    job_id bigint;
    woken integer;
begin
    -- Most wishes are no more than this. What is not, or looks as if it were no job, goes the long way, which has the words. No
    -- search_path of its own up to there: setting one takes as long as the rest, and what is called is named in full.
    if pg_catalog.num_nonnulls(gate, limits, labels, require, dedupe_key, on_conflict, after, max_attempts, timeout) = 0
       and priority between -32768 and 32767
       and run_at between timestamptz '1970-01-01 00:00:00+00' and timestamptz '9998-12-31 00:00:00+00'
       and pg_catalog.pg_column_size(payload) <= 16777216
       and pg_catalog.length(agent) <= 100 and pg_catalog.length(project) <= 100
       and (agent || '/' || project) ~ '^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$' then
        -- No project is serial where none has a row, and then the table's file is empty, which costs less to ask than a look for
        -- this one. Whoever adds the first row makes the file grow before anybody can see that row.
        insert into orch.jobs as j (agent, payload, project, priority, run_at, gate)
        values (agent, payload, project, priority, run_at,
                case when pg_catalog.pg_relation_size('orch.projects'::pg_catalog.regclass) > 0 then orch.gate_of(project) end)
        returning j.id into job_id;
        if run_at <= pg_catalog.now() then
            woken := orch.wake(agent);
        end if;
        return job_id;
    end if;
    return orch.enqueue_at_length(agent, payload, project, priority, run_at, gate, limits, labels, require, dedupe_key,
                                  on_conflict, after, max_attempts, timeout);
end
$$;
comment on function orch.enqueue is 'Enqueues one job in the caller''s own transaction and returns its number.';

-- The same for any wish, with a word for each that cannot be had. Called by orch.enqueue alone.
create or replace function orch.enqueue_at_length(
    agent text,
    payload jsonb,
    project text,
    priority integer,
    run_at timestamptz,
    gate text,
    limits text[],
    labels jsonb,
    require jsonb,
    dedupe_key text,
    on_conflict text,
    after bigint[],
    max_attempts integer,
    timeout interval
) returns bigint
language plpgsql
set search_path = pg_catalog, orch
as $$
#variable_conflict use_variable
declare
    job_id bigint;
    live_status text;
    fault record;
    waits bigint[];
    woken integer;
begin
    if limits <> '{}' then
        perform orch.keep_limits(limits);
    end if;
    fault := orch.fault_of_wish(agent, payload, project, priority, run_at, gate, limits, labels, require, dedupe_key,
                                on_conflict, after, max_attempts, timeout);
    if fault.code is not null then
        raise exception 'enqueue: %', fault.complaint using errcode = fault.code, hint = 'nothing was enqueued';
    end if;
    project := coalesce(project, 'default');
    if after <> '{}' then
        waits := orch.unfinished(after);
    end if;
    loop
        insert into orch.jobs as j
            (agent, payload, project, priority, run_at, gate, limits, require, labels, dedupe_key, live_dedupe_key,
             max_attempts, timeout, waits_for, claimable)
        values
            (agent, coalesce(payload, '{}'), project, coalesce(priority, 0), coalesce(run_at, now()),
             coalesce(gate, orch.gate_of(project)),
             case when limits is not null then orch.sorted_limits(limits) end, nullif(require, '{}'),
             coalesce(labels, '{}'), dedupe_key, dedupe_key, max_attempts, timeout, waits, waits is null)
        on conflict (live_dedupe_key) where live_dedupe_key is not null do nothing
        returning j.id into job_id;
        if job_id is not null then
            if after <> '{}' then
                insert into orch.job_dependencies (job_id, after_id) select job_id, a.id from unnest(after) a (id);
            end if;
            if waits is null and (run_at is null or run_at <= now()) then
                woken := orch.wake(agent, require);
            end if;
            exit;
        end if;

        -- A live job has the key. It may end between the two statements: then the insert works the next time.
        if on_conflict = 'replace' then
            select j.id, j.status into job_id, live_status
              from orch.jobs j where j.live_dedupe_key = dedupe_key for update;
        else
            select j.id, j.status into job_id, live_status from orch.jobs j where j.live_dedupe_key = dedupe_key;
        end if;
        continue when job_id is null;

        fault := orch.fault_of_key(dedupe_key, on_conflict, after, job_id, live_status);
        if fault.code is not null then
            raise exception 'enqueue: %', fault.complaint
                using errcode = fault.code,
                      hint = case when fault.code <> 'OR002' then 'nothing was enqueued'
                                  when on_conflict = 'replace'
                                  then 'the payload of a running job is not replaced: wait for its end, or cancel it'
                                  else 'wait for it, cancel it, or leave on_conflict out to get its number' end;
        elsif on_conflict = 'replace' then
            update orch.jobs j set payload = coalesce(enqueue_at_length.payload, '{}') where j.id = job_id;
        end if;
        exit;
    end loop;
    return job_id;
end
$$;
comment on function orch.enqueue_at_length is 'Enqueues a job that wishes for more than most, for orch.enqueue.';
