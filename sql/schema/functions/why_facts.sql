-- The facts behind a reason, as JSON: what orch.why shows as its detail, and makes its sentences of.

-- A run, and where it is. `ending`: it was taken from its replica, and its process is being ended.
create or replace function orch.facts_of_holder(run_id uuid) returns jsonb
language sql stable
set search_path = pg_catalog, orch
as $$
    select jsonb_build_object('job_id', r.job_id, 'run_id', r.run_id, 'agent', j.agent, 'project', j.project, 'pid', r.pid,
                              'host', coalesce(r.host, p.host), 'replica', p.name, 'replica_id', r.replica_id,
                              'since', r.claimed_at)
           || case when r.ended_at is null then '{}'::jsonb else '{"ending": true}' end
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

-- Who keeps the slots of the replicas that may take such a job: the longest first, at most twenty.
create or replace function orch.facts_of_slots(agent text, require jsonb) returns jsonb
language sql stable
set search_path = pg_catalog, orch
as $$
    select coalesce(jsonb_agg(orch.facts_of_holder(h.run_id) order by h.claimed_at, h.run_id), '[]')
      from (select k.run_id, k.claimed_at
              from orch.free_slots f
             cross join lateral (
                select r.run_id, r.claimed_at from orch.agent_runs r where r.replica_id = f.replica_id and r.ended_at is null
                union all
                select r.run_id, r.claimed_at
                  from orch.jobs j join orch.agent_runs r on r.run_id = j.last_run_id
                 where j.awaits_replica = f.replica_id) k
             where orch.serves(f.replica, facts_of_slots.agent, facts_of_slots.require)
             order by k.claimed_at, k.run_id
             limit 20) h
$$;
comment on function orch.facts_of_slots is 'Who keeps the slots of the replicas that may take a job of this agent, as JSON.';

-- Where a job stands among those that nothing keeps from running, and which of them come first: at most ten, in the order in
-- which they start. Of a limit with room these are the jobs that take it, of a gate that is free the one that has it. Where it has
-- a place at replicas that are full, and at others a limit or its gate goes to other jobs first, `others_first` says to which.
create or replace function orch.facts_of_place(
    job orch.jobs, serial_gate boolean, seen integer, out reason text, out because_of text, out facts jsonb)
language plpgsql stable
set search_path = pg_catalog, orch
as $$
#variable_conflict use_column
begin
    with places as materialized (
        select o.* from orch.claim_places(serial_gate, true, seen, job.project, job.lane) o
    ),
    own as materialized (
        select p.reason, p.because_of, p.ahead_of_it, p.at_least, p.replicas, p.class,
               p.ranks[array_position(p.classes, p.class)] as rank,
               -- of other replicas, where a limit goes to others first
               case when p.reason = 'no_free_slot' then p.classes[array_position(p.aheads, null)] end as other_class,
               p.ranks[array_position(p.aheads, null)] as other_rank
          from places p where p.job_id = job.id
        union all
        -- behind the last of its lane that was ranked
        select case when serial_gate and w.gate is not null then 'serial_gate' else w.rest end,
               case when serial_gate and w.gate is not null then w.gate else w.rest_limit end,
               case when w.rest_limit is null and (not serial_gate or w.gate is null) then l.ahead_of_it + 1 end,
               true, null, l.class, null, null, null
          from orch.judged_lanes(0, job.project, job.lane) w
          left join (select p.ahead_of_it, p.class from places p where p.project = job.project and p.lane = job.lane
                      order by p.ahead_of_it desc nulls last limit 1) l on true
         where job.id not in (select p.job_id from places p)
         -- there is but one; said, or the server would expect many and think the rest worth compiling
         limit 1
    ),
    -- Those that the same replicas might take first.
    peers as materialized (
        select p.job_id, p.reason, p.ranks[array_position(p.classes, o.class)] as rank,
               p.aheads[array_position(p.classes, o.class)] as ahead
          from own o join places p on o.class = any (p.classes)
         where p.job_id <> job.id
    ),
    before as (
        (select p.job_id, p.reason, p.rank
           from own o
           join peers p on p.ahead < o.ahead_of_it
          where o.reason in ('fair_share', 'no_free_slot')
          order by p.rank
          limit 10)
        union all
        -- also those that another limit keeps: nobody is let past them
        (select p.job_id, p.reason, p.rank
           from own o
           join peers p on p.rank < coalesce(o.rank, p.rank + 1)
           join orch.jobs j on j.id = p.job_id
           left join orch.agents a on a.name = j.agent
          where o.reason = 'limit_full' and o.because_of = any (orch.needs(j.project, j.agent, j.limits, a.limits))
          order by p.rank
          limit 10)
    ),
    elsewhere as (
        select p.job_id, p.reason, p.ranks[array_position(p.classes, o.other_class)] as rank
          from own o
          join places p on o.other_class = any (p.classes)
                           and p.ranks[array_position(p.classes, o.other_class)] < o.other_rank
          join orch.jobs j on j.id = p.job_id
          left join orch.agents a on a.name = j.agent
         where orch.needs(j.project, j.agent, j.limits, a.limits)
               && (select array_agg(u.name)
                     from orch.limit_use u
                    where u.room > 0
                      and u.name = any (orch.needs(job.project, job.agent, job.limits,
                                                   (select g.limits from orch.agents g where g.name = job.agent))))
        union
        select p.job_id, p.reason, 0
          from places p
          join orch.jobs j on j.id = p.job_id and j.gate = job.gate
         where serial_gate and (select o.reason = 'no_free_slot' from own o) and p.job_id <> job.id and p.reason <> 'serial_gate'
         order by 3
         limit 10
    )
    select o.reason, o.because_of,
           jsonb_strip_nulls(jsonb_build_object(
               'ahead_of_it', o.ahead_of_it,
               'ahead_at_least', case when o.ahead_of_it > 0
                   and (o.at_least or exists (select from orch.walk_lanes(seen / 4 + 1) offset seen / 4)) then true end,
               'taken_by', o.replicas,
               'first', case when o.reason = 'serial_gate' then (
                   select p.job_id from places p join orch.jobs j on j.id = p.job_id and j.gate = o.because_of
                    where p.reason <> 'serial_gate' order by p.ahead_of_it, p.job_id limit 1) end,
               'before_it', (select jsonb_agg(jsonb_build_object(
                                 'job_id', b.job_id, 'project', j.project, 'agent', j.agent, 'reason', b.reason,
                                 'due', j.run_at) order by b.rank)
                               from before b join orch.jobs j on j.id = b.job_id),
               'others_first', (select jsonb_agg(jsonb_build_object(
                                     'job_id', e.job_id, 'project', j.project, 'agent', j.agent, 'reason', e.reason,
                                     'due', j.run_at) order by e.rank)
                                   from elsewhere e join orch.jobs j on j.id = e.job_id)))
      into reason, because_of, facts
      from own o;
end
$$;
comment on function orch.facts_of_place is 'Where a job stands among those that nothing keeps from running, and which come first, as JSON.';

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
            || case when reason = 'no_free_slot'
                    then jsonb_build_object('kept_by', orch.facts_of_slots((job).agent, (job).require)) else '{}' end
        when reason = 'waits_for_jobs' then jsonb_build_object('after', orch.facts_of_predecessors(job))
        when reason = 'old_process_ending' then jsonb_build_object('old_run', orch.facts_of_holder((job).last_run_id))
        when reason = 'held' then coalesce((
            select jsonb_build_object('held_by', h.held_by, 'held_at', h.held_at) from orch.hold_of(job) h), '{}')
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
