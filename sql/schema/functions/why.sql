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
    place jsonb := '{}';
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
    until := orch.waits_until(job, reason);
    if reason is null then
        select w.reason, case when w.reason = 'serial_gate' then w.gate else w.shut_limit end,
               case when w.reason in ('paused', 'limit_closed') then w.closed_until end
          into reason, cause, until
          from (select case when serial_gate then w.reason else w.reason_without_gates end as reason, w.gate, w.shut_limit,
                       w.closed_until
                  from orch.judged_lanes(0, job.project, job.lane) w) w;
    end if;
    if reason is null then
        select p.reason, p.because_of, p.facts into reason, cause, place from orch.facts_of_place(job, serial_gate, seen) p;
    end if;
    detail := orch.facts_of_wait(job, reason, cause) || place;
    select w.sentence, w.unblock into sentence, unblock from orch.words_of_wait(job, reason, until, detail) w;
end
$$;
comment on function orch.why is 'Why a job waits, runs or has ended: the reason, a sentence, what would unblock it, and the facts.';

-- Since when a job that is held, or not due, waits: since it was held, its last run ended, or it was enqueued.
create or replace function orch.waits_since(job orch.jobs) returns timestamptz
language sql stable
as $$
    select coalesce(case when (job).status = 'held' then (select h.held_at from orch.hold_of(job) h) end,
                    (select r.ended_at from orch.agent_runs r where r.run_id = (job).last_run_id), (job).created_at)
$$;
comment on function orch.waits_since is 'Since when a job waits: since it was held, its last run ended, or it was enqueued.';

-- Who held a job, and when: by orch.hold, or by a plain UPDATE while it ran. No row where its last run was its last word: then
-- a rule holds it, and its error says which.
create or replace function orch.hold_of(job orch.jobs) returns table (held_at timestamptz, held_by text)
language sql stable
as $$
    select e.at, e.actor
      from (select e.* from orch.events e
             where e.job_id = (job).id and e.kind in ('held', 'taken', 'released', 'retried')
             order by e.id desc
             limit 1) e
      left join orch.agent_runs r on r.run_id = (job).last_run_id
     where case e.kind when 'held' then e.at >= coalesce(r.ended_at, e.at)
                       when 'taken' then e.run_id = (job).last_run_id and e.detail ->> 'to' = 'held'
                       else false end
$$;
comment on function orch.hold_of is 'Who held a job and when, unless a rule holds it.';

-- Until when a job waits that waits by itself, as orch.own_wait has it: infinity where nothing but somebody's word ends it.
create or replace function orch.waits_until(job orch.jobs, reason text) returns timestamptz
language sql stable
as $$
    select case reason when 'held' then 'infinity' when 'not_due' then (job).run_at end
$$;
comment on function orch.waits_until is 'Until when a job waits by itself, where that is known; infinity: until somebody releases it.';

-- What is to be known of a job that waits by itself in a word or two, from at most five rows, but for who holds it (orch.hold_of):
-- orch.why has it in full.
create or replace function orch.waits_detail(job orch.jobs, reason text) returns text
language sql stable
as $$
    select case reason
        when 'held' then left((job).error, 300)
        when 'old_process_ending' then (
            select format('pid %s on %s', coalesce(r.pid::text, 'not known'), coalesce(r.host, p.host))
              from orch.replicas p
              left join orch.agent_runs r on r.run_id = (job).last_run_id
             where p.replica_id = (job).awaits_replica)
        -- the last of them is the one with whose end it is looked at again
        when 'waits_for_jobs' then (
            select 'jobs ' || string_agg(p.id::text, ', ' order by p.id)
                   || case when cardinality((job).waits_for) > 5 then ' and earlier ones' else '' end
              from unnest((job).waits_for[cardinality((job).waits_for) - 4:]) a (id)
              join orch.jobs p on p.id = a.id
             where p.status <> 'succeeded')
        when 'not_due' then left((job).error, 300)
    end
$$;
comment on function orch.waits_detail is 'What a job waits for that waits by itself, in a word or two.';
