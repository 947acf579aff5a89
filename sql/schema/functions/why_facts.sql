-- The facts behind a reason, as JSON: what orch.why shows as its detail, and makes its sentences of.

-- A run, and where it is.
create or replace function orch.facts_of_holder(run_id uuid) returns jsonb
language sql stable
set search_path = pg_catalog, orch
as $$
    select jsonb_build_object('job_id', r.job_id, 'run_id', r.run_id, 'agent', j.agent, 'project', j.project, 'pid', r.pid,
                              'host', coalesce(r.host, p.host), 'replica', p.name, 'replica_id', r.replica_id,
                              'since', r.claimed_at)
      from orch.agent_runs r
      left join orch.jobs j on j.id = r.job_id
      left join orch.replicas p on p.replica_id = r.replica_id
     where r.run_id = facts_of_holder.run_id
$$;
comment on function orch.facts_of_holder is 'A run and where it is, as JSON.';

-- A limit, and who holds it: the longest first, at most twenty.
create or replace function orch.facts_of_limit(name text) returns jsonb
language sql stable
set search_path = pg_catalog, orch
as $$
    select jsonb_build_object(
               'name', u.name, 'max_running', u.max_running, 'running', u.running, 'room', u.room, 'probing', u.probing,
               'closed_until', u.closed_until, 'reason', u.reason,
               'held_by', (select coalesce(jsonb_agg(orch.facts_of_holder(h.run_id) order by h.claimed_at, h.run_id), '[]')
                             from (select h.run_id, h.claimed_at from orch.limit_holders h where h.name = u.name
                                    order by h.claimed_at, h.run_id limit 20) h))
      from orch.limit_use u
     where u.name = facts_of_limit.name
$$;
comment on function orch.facts_of_limit is 'A limit and who holds it, as JSON.';

-- A gate, and who keeps it, or which of the jobs that wait for it is to have it next.
create or replace function orch.facts_of_gate(gate text) returns jsonb
language sql stable
set search_path = pg_catalog, orch
as $$
    select jsonb_build_object(
               'name', facts_of_gate.gate,
               'held_by', (select orch.facts_of_holder(t.run_id) from orch.taken_gates t where t.gate = facts_of_gate.gate
                            order by t.since limit 1))
$$;
comment on function orch.facts_of_gate is 'A gate and who keeps it, as JSON.';

-- The live replicas, and what keeps each from such a job; at most twenty.
create or replace function orch.facts_of_fleet(agent text, require jsonb) returns jsonb
language sql stable
set search_path = pg_catalog, orch
as $$
    select coalesce(jsonb_agg(jsonb_build_object(
               'replica', p.name, 'host', p.host, 'replica_id', p.replica_id, 'draining', p.draining,
               'serves_agent', facts_of_fleet.agent = any (p.agents),
               'has_labels', p.labels @> coalesce(facts_of_fleet.require, '{}'), 'labels', p.labels,
               'max_concurrency', p.max_concurrency,
               'running', (select count(*) from orch.agent_runs r
                            where r.replica_id = p.replica_id and r.ended_at is null)
                          + (select count(*) from orch.jobs j where j.awaits_replica = p.replica_id))
               order by facts_of_fleet.agent = any (p.agents) desc, p.name, p.replica_id), '[]')
      from (select p.* from orch.replicas p where p.state = 'live'
             order by facts_of_fleet.agent = any (p.agents) desc, p.name, p.replica_id limit 20) p
$$;
comment on function orch.facts_of_fleet is 'The live replicas, and what keeps each from a job of this agent, as JSON.';

-- The jobs that must have succeeded before, of those that have not; at most twenty. A row names also those that succeeded
-- since it was last looked at.
create or replace function orch.facts_of_predecessors(job orch.jobs) returns jsonb
language sql stable
set search_path = pg_catalog, orch
as $$
    select coalesce(jsonb_agg(jsonb_build_object('job_id', p.id, 'status', p.status, 'project', p.project, 'agent', p.agent)
                              order by p.id), '[]')
      from (select p.id, p.status, p.project, p.agent
              from jsonb_array_elements_text(to_jsonb(job) -> 'waits_for') w (id)
              join orch.jobs p on p.id = w.id::bigint and p.status <> 'succeeded'
             order by p.id limit 20) p
$$;
comment on function orch.facts_of_predecessors is 'The jobs for which a job waits, as JSON.';

-- What a waiting job waits for. because_of names the limit or the gate.
create or replace function orch.facts_of_wait(job orch.jobs, reason text, because_of text) returns jsonb
language sql stable
set search_path = pg_catalog, orch
as $$
    select case
        when reason in ('paused', 'limit_closed', 'limit_full') then
            jsonb_build_object('limit', orch.facts_of_limit(because_of))
        when reason = 'serial_gate' then jsonb_build_object('gate', orch.facts_of_gate(because_of))
        when reason in ('no_replica_serves_agent', 'no_replica_matches_labels', 'no_free_slot', 'fair_share', 'next') then
            jsonb_strip_nulls(jsonb_build_object('agent', (job).agent, 'require', (job).require))
            || jsonb_build_object('replicas', orch.facts_of_fleet((job).agent, (job).require))
        when reason = 'waits_for_jobs' then jsonb_build_object('after', orch.facts_of_predecessors(job))
        when reason = 'old_process_ending' then jsonb_build_object('old_run', orch.facts_of_holder((job).last_run_id))
        when reason = 'held' then coalesce((
            select jsonb_build_object('held_by', e.actor, 'held_at', e.at) from orch.events e
             where e.job_id = (job).id and e.kind = 'held' and (job).last_run_id is not distinct from e.run_id
             order by e.id desc limit 1), '{}')
        else '{}'
    end
    || case when (job).attempt > 0
            then jsonb_build_object('runs', orch.facts_of_runs((job).id)) else '{}' end
$$;
comment on function orch.facts_of_wait is 'What a waiting job waits for, as JSON.';

-- What was tried: the runs of a job, the latest first, at most ten.
create or replace function orch.facts_of_runs(job_id bigint) returns jsonb
language sql stable
set search_path = pg_catalog, orch
as $$
    select coalesce(jsonb_agg(jsonb_build_object(
               'attempt', r.attempt, 'run_id', r.run_id, 'host', r.host, 'replica', p.name, 'claimed_at', r.claimed_at,
               'ended_at', r.ended_at, 'outcome', r.outcome, 'exit_code', r.exit_code, 'signal', r.signal, 'error', r.error)
               order by r.attempt desc, r.claimed_at desc), '[]')
      from (select r.* from orch.agent_runs r where r.job_id = facts_of_runs.job_id
             order by r.attempt desc, r.claimed_at desc limit 10) r
      left join orch.replicas p on p.replica_id = r.replica_id
$$;
comment on function orch.facts_of_runs is 'The last runs of a job, as JSON.';

-- What a job does that runs, or how it ended.
create or replace function orch.facts_of_run(job orch.jobs) returns jsonb
language sql stable
set search_path = pg_catalog, orch
as $$
    select jsonb_build_object('attempt', (job).attempt, 'failures', (job).failures)
        || case when (job).status = 'running' then (
               select jsonb_build_object(
                          'run', orch.facts_of_holder((job).run_id), 'replica_state', p.state,
                          'lease_left_seconds', extract(epoch from p.lease_until - clock_timestamp())::double precision,
                          'started_at', r.spawned_at, 'last_output_at', o.at,
                          'cancel_requested_at', (job).cancel_requested_at)
                 from orch.agent_runs r
                 left join orch.replicas p on p.replica_id = r.replica_id
                 left join lateral (select l.at from orch.run_logs l where l.run_id = r.run_id
                                     order by l.position desc limit 1) o on true
                where r.run_id = (job).run_id)
           else jsonb_build_object('finished_at', (job).finished_at, 'error', (job).error) end
        || jsonb_build_object('runs', orch.facts_of_runs((job).id))
$$;
comment on function orch.facts_of_run is 'What a job does that runs, or how it ended, as JSON.';
