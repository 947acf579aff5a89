-- Enqueue one job, inside the caller's own transaction, from any language. Returns the job's number.
--
-- agent, project   well-formed names; the agent need not be served yet, since producers deploy before replicas
-- run_at           not before; gate: jobs of one gate run one at a time (null: project:NAME where projects.serial)
-- dedupe_key       at most one live job has it; on_conflict says what else: 'return' (the live one's number, the
--                  default), 'replace' (its payload, unless it runs), 'refuse' (SQLSTATE OR002)
-- limits, require, after   come with a later version: a value is refused by name (SQLSTATE OR003)
create or replace function orch.enqueue(
    agent text,
    payload jsonb default '{}',
    project text default 'default',
    priority smallint default 0,
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
set search_path = pg_catalog, orch
as $$
#variable_conflict use_variable
declare
    job_id bigint;
    live_status text;
begin
    perform orch.refuse_missing_feature('limits', limits is not null);
    perform orch.refuse_missing_feature('require', require is not null);
    perform orch.refuse_missing_feature('after', after is not null);
    perform orch.check_wish(agent, payload, project, run_at, gate, labels, dedupe_key, on_conflict, max_attempts, timeout);
    loop
        insert into orch.jobs as j
            (agent, payload, project, priority, run_at, gate, labels, dedupe_key, live_dedupe_key, max_attempts, timeout)
        values
            (agent, coalesce(payload, '{}'), coalesce(project, 'default'), coalesce(priority, 0::smallint),
             coalesce(run_at, now()), coalesce(gate, orch.gate_of(coalesce(project, 'default'))), coalesce(labels, '{}'),
             dedupe_key, dedupe_key, max_attempts, timeout)
        on conflict do nothing
        returning j.id into job_id;
        exit when job_id is not null;

        select j.id, j.status into job_id, live_status from orch.jobs j where j.live_dedupe_key = dedupe_key;
        -- The live one may have ended between the two statements: then the insert works.
        continue when job_id is null;
        if on_conflict = 'refuse' then
            raise exception 'a live job with dedupe_key % exists: job % is %', quote_literal(dedupe_key), job_id, live_status
                using errcode = 'OR002', hint = 'wait for it, cancel it, or leave on_conflict out to get its number';
        elsif on_conflict = 'replace' then
            update orch.jobs j set payload = coalesce(payload, '{}')
             where j.id = job_id and j.status in ('queued', 'held');
        end if;
        exit;
    end loop;
    return job_id;
end
$$;
comment on function orch.enqueue is 'Enqueues one job in the caller''s own transaction and returns its number.';
