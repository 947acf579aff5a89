-- Claim: take due jobs for this replica's free slots, and open their runs.
--
-- $1 uuid     replica_id of the claimant
-- $2 uuid[]   run_ids, made and remembered by the claimant before this is sent; as many as it has free slots
-- $3 text[]   agents that the claimant serves
-- $4 boolean  serial_gate_enabled: off, a job's gate is not written into running_gate
-- $5 text     host
-- $6 text     boot_id
-- $7 jsonb    the claimant's part of the rules: max_lost, max_transient, max_interrupted, lease (seconds)
-- $8 bigint[] only these jobs, or null: how a batch that failed is repeated one by one
-- rows: one a claimed job; the payload as text, since JSON that Postgres takes may be nested deeper than a reader likes
-- guard: the claimant's own row is live; the job is claimable under its lock. A job whose gate runs elsewhere is left
--        alone; of several with one gate only the first is taken; the unique index on running_gate has the last word.
-- index: jobs_claim, jobs_running_gate
with me as materialized (
    select from orch.replicas where replica_id = $1 and state = 'live' and not draining
),
locked as materialized (
    select j.id, j.gate, j.priority, j.run_at
      from orch.jobs j
     where j.claimable
       and j.run_at <= now()
       and j.agent = any ($3)
       and ($8 is null or j.id = any ($8))
       and exists (select from me)
       -- hashed once, from the index alone: as many entries as gates are taken
       and (not $4 or j.gate is null
            or j.gate not in (select o.running_gate from orch.jobs o where o.running_gate is not null))
     order by j.priority desc, j.run_at, j.id
     limit cardinality($2)
       for update skip locked
),
picked as (
    select p.id, r.run_id
      from (select l.id, row_number() over (order by l.priority desc, l.run_at, l.id) as place
              from (select l.*, row_number() over (partition by l.gate order by l.priority desc, l.run_at, l.id) as turn
                      from locked l) l
             where l.turn = 1 or l.gate is null or not $4) p
      join unnest($2) with ordinality as r (run_id, place) using (place)
),
claimed as (
    update orch.jobs j
       set status = 'running', claimable = false, run_id = p.run_id, replica_id = $1, pid = null,
           started_at = clock_timestamp(), running_gate = case when $4 then j.gate end, attempt = j.attempt + 1
      from picked p
     where j.id = p.id and j.claimable
    returning j.id, j.run_id, j.attempt, j.project, j.agent, j.payload::text as payload, j.error, j.max_attempts, j.timeout
),
ruled as (
    select c.*,
           coalesce(c.timeout, a.timeout) as timeout_by_rule,
           $7 || jsonb_build_object(
               'max_attempts', coalesce(c.max_attempts, a.max_attempts, 3),
               'on_lost', coalesce(a.on_lost, 'requeue'),
               'timeout', extract(epoch from coalesce(c.timeout, a.timeout)),
               'backoff', jsonb_build_object(
                   'base', extract(epoch from coalesce(a.backoff_base, interval '5 seconds')),
                   'factor', coalesce(a.backoff_factor, 2),
                   'max', extract(epoch from coalesce(a.backoff_max, interval '1 hour')))) as rules
      from claimed c
      left join orch.agents a on a.name = c.agent
),
opened as (
    insert into orch.agent_runs (run_id, job_id, attempt, replica_id, host, boot_id, claimed_at, rules)
    select run_id, id, attempt, $1, $5, $6, clock_timestamp(), rules from ruled
)
select id as job_id, run_id, attempt, project, agent, payload, error as previous_error,
       extract(epoch from timeout_by_rule)::double precision as timeout_seconds
  from ruled
