-- Why a job stands where it stands: the reason, in words what it is and what would change it, and the facts behind them.
--
-- A waiting job has one reason, the first that holds; orch.waiting says the same of all jobs. serial_gate is the setting
-- serial_gate_enabled of the replicas. Of other lanes at most 2,048 are looked at, and 512 of one project: with more, how many
-- are ahead of a job is the least that it may be, and it may be called next where orch.waiting sees others before it.
create or replace function orch.why(
    inout job_id bigint, serial_gate boolean default true,
    out status text, out reason text, out since timestamptz, out until timestamptz,
    out sentence text, out unblock text, out detail jsonb
)
language plpgsql stable
set search_path = pg_catalog, orch
as $$
#variable_conflict use_column
declare
    job orch.jobs;
    cause text;
    ahead bigint;
    first bigint;
    takers uuid[];
    seen constant integer := 2048;
begin
    select * into job from orch.jobs j where j.id = why.job_id;
    if not found then
        raise exception 'there is no job %', coalesce(why.job_id::text, 'null')
            using errcode = 'OR005', hint = 'select id, status from orch.jobs order by id desc limit 20';
    end if;
    status := job.status;
    if job.status not in ('queued', 'held') then
        reason := job.status;
        since := coalesce(job.started_at, job.finished_at);
        detail := orch.facts_of_run(job);
        select w.sentence, w.unblock into sentence, unblock from orch.words_of_run(job, detail) w;
        return;
    end if;

    reason := orch.own_wait(job);
    since := case when reason is null then job.run_at else orch.waits_since(job) end;
    until := case when reason is null or reason = 'not_due' then nullif(greatest(job.run_at, now()), now()) end;
    if reason is null then
        select w.reason, case when w.reason = 'serial_gate' then w.gate else w.shut_limit end,
               case when w.reason in ('paused', 'limit_closed') then w.closed_until end
          into reason, cause, until
          from (select case when serial_gate then w.reason else w.reason_without_gates end as reason, w.gate, w.shut_limit,
                       w.closed_until
                  from orch.judged_lanes(0, job.project, job.lane) w) w;
    end if;
    if reason is null then
        select o.reason, o.because_of, o.ahead_of_it, o.replicas into reason, cause, ahead, takers
          from orch.claim_order_of(serial_gate, true, seen, job.project, job.lane) o where o.job_id = job.id;
        if not found then
            select case when serial_gate and w.gate is not null then 'serial_gate' else w.rest end,
                   case when serial_gate and w.gate is not null then w.gate else w.rest_limit end
              into reason, cause
              from orch.judged_lanes(0, job.project, job.lane) w;
        end if;
        if reason = 'serial_gate' then
            select o.job_id into first
              from orch.claim_order_of(serial_gate, false, seen, job.project, job.lane) o
              join orch.jobs j on j.id = o.job_id and j.gate = cause
             where o.reason <> 'serial_gate'
             limit 1;
        end if;
    end if;
    detail := orch.facts_of_wait(job, reason, cause)
              || jsonb_strip_nulls(jsonb_build_object('ahead_of_it', ahead, 'first', first, 'taken_by', takers));
    if ahead > 0 and exists (select from orch.walk_lanes(seen / 4 + 1) offset seen / 4) then
        detail := detail || '{"ahead_at_least": true}';
    end if;
    select w.sentence, w.unblock into sentence, unblock from orch.words_of_wait(job, reason, until, detail) w;
end
$$;
comment on function orch.why is 'Why a job waits, runs or has ended: the reason, a sentence, what would unblock it, and the facts.';

-- Since when a job that is held, or not due, waits: since it was held, its last run ended, or it was enqueued.
create or replace function orch.waits_since(job orch.jobs) returns timestamptz
language sql stable
as $$
    select coalesce(case when (job).status = 'held'
                         then (select max(e.at) from orch.events e where e.job_id = (job).id and e.kind = 'held') end,
                    (select r.ended_at from orch.agent_runs r where r.run_id = (job).last_run_id), (job).created_at)
$$;
comment on function orch.waits_since is 'Since when a job waits: since it was held, its last run ended, or it was enqueued.';
