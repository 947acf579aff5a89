-- Guard 3: refuses illegal transitions, and takes a running job from its owner where an operator says so.
--
-- Called by guard_job, only for what is not a legal transition of orch's own statements, which show their token: a
-- settle sets last_run_id to the run that it ends. What is left here: an operator's plain UPDATE of a running row to
-- queued or held, a late result, a retry (legal in one shape), and everything illegal.
create or replace function orch.guard_transition(old orch.jobs, new orch.jobs) returns orch.jobs
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    finished constant text[] := array['succeeded', 'failed', 'cancelled'];
begin
    if new.attempt < old.attempt then
        raise exception 'job %: attempt must not fall from % to %', old.id, old.attempt, new.attempt
            using errcode = 'OR001', hint = 'attempt counts the runs that were started';
    end if;

    if old.status = 'running' and new.status = 'running' then
        raise exception 'job %: run_id must not change while it runs', old.id
            using errcode = 'OR001', hint = 'use orch.cancel(job_id), or set status = ''queued'' to have it run again';
    end if;

    if old.status = 'running' and new.status in ('queued', 'held') then
        -- A cancel that was asked for is not lost: the run ends without success, so the job ends as cancelled. Who wants
        -- it queued all the same sets cancel_requested_at to null as well.
        if new.cancel_requested_at is not null then
            new.status := 'cancelled';
        end if;
        update orch.agent_runs r
           set ended_at = clock_timestamp(), outcome = 'interrupted', closed_by = 'operator',
               error = format('taken from its replica: the job was set to %s by %s', new.status, session_user)
         where r.job_id = old.id and r.ended_at is null;
        insert into orch.events (kind, job_id, run_id, detail)
        values ('taken', old.id, old.run_id,
                jsonb_build_object('to', new.status, 'replica_id', old.replica_id, 'pid', old.pid));
        new.last_run_id := coalesce(old.run_id, old.last_run_id);
        -- The owner is known to be told: its renewal lists the job, it ends the old process and clears awaits_replica.
        -- Until then no claim takes the job. One that is not live has no process any more.
        new.awaits_replica := (select p.replica_id from orch.replicas p
                                where p.replica_id = old.replica_id and p.state = 'live');
        new.run_id := null;
        new.replica_id := null;
        new.pid := null;
        new.started_at := null;
        new.running_gate := null;
        return new;
    end if;

    if old.status = 'running' then
        raise exception 'job %: a running job is not set to % by hand', old.id, new.status
            using errcode = 'OR001', hint = 'use orch.cancel(job_id), or set status = ''queued'' to have it run again';
    end if;

    if new.status = 'running' then
        raise exception 'job %: it is %, and only a claim starts a job', old.id, old.status
            using errcode = 'OR001',
                  hint = 'a claim takes a queued job that awaits no replica, leaves pid null and raises attempt by one';
    end if;

    if old.status = any (finished) and new.status = 'queued'
       and num_nonnulls(new.cancel_requested_at, new.error, new.result) = 0
       -- While the former process is being ended its run is named on; it was closed by an operator, so no result of it counts.
       and (new.last_run_id is null or new.awaits_replica is not null)
       and greatest(new.failures, new.lost_count, new.transient_count, new.interrupted_count) = 0 then
        return new;
    end if;

    -- A late result: a reap closed the run as lost, its owner knows better, and no newer run began. The statement that
    -- brings it has locked the run, which a plain UPDATE has not, and changes it too, before or after this: so the run is
    -- as the reap left it, under this transaction's lock, or of this transaction.
    if old.status in ('queued', 'held', 'failed') and new.last_run_id = old.last_run_id
       and exists (select from orch.agent_runs r
                    where r.run_id = old.last_run_id and r.job_id = old.id
                      and ((r.outcome = 'lost' and r.closed_by = 'reap' and r.xmax = pg_current_xact_id()::xid)
                           or (r.ended_at is not null and r.xmin = pg_current_xact_id()::xid))) then
        return new;
    end if;

    if old.status = any (finished) and new.status = 'queued' then
        raise exception 'job %: a finished job is not queued again by hand', old.id
            using errcode = 'OR001', hint = 'use orch.retry(job_id), which resets what counts';
    end if;

    raise exception 'job %: no way leads from % to %', old.id, old.status, new.status
        using errcode = 'OR001',
              hint = case
                  when old.status = any (finished) then 'use orch.retry(job_id) to run it again'
                  when new.status in ('succeeded', 'failed') then 'only a run succeeds or fails; use orch.cancel(job_id) to end the job without one'
                  else 'the statuses are queued, held, running, succeeded, failed and cancelled'
              end;
end
$$;
comment on function orch.guard_transition(orch.jobs, orch.jobs) is
    'Refuses illegal transitions (SQLSTATE OR001); takes a running job from its owner where an operator sets it to queued or held.';
