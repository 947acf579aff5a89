-- Create the schema: jobs, their runs, the replicas that run them, and what the queue remembers about itself.
--
-- Why: the first version.
-- Locks: none that anybody waits for; everything here is new.
-- The binary before it: there is none.
-- To undo by hand: drop schema orch cascade.
set local lock_timeout = '5s';

create schema if not exists orch;
comment on schema orch is
    'Orch: a job is a row, a run of it is a process. For people: the views queue, running, violations and the functions '
    'enqueue, cancel, retry, hold, release.';

-- jobs ----------------------------------------------------------------------------------------------------------------
--
-- Completing a job must be a HOT update, and a column counts as indexed also when only an index predicate names it. So
-- no index here names status, run_id, replica_id or finished_at; the helper columns exist for the indexes.
create table orch.jobs (
    id bigint generated always as identity,
    status text not null default 'queued',
    project text not null default 'default',
    agent text not null,
    run_id uuid,
    pid integer,
    replica_id uuid,
    started_at timestamptz,
    priority smallint not null default 0,
    run_at timestamptz not null default now(),
    attempt integer not null default 0,
    failures integer not null default 0,
    max_attempts integer,
    lost_count integer not null default 0,
    transient_count integer not null default 0,
    interrupted_count integer not null default 0,
    gate text,
    limits text[],
    labels jsonb not null default '{}',
    dedupe_key text,
    timeout interval,
    last_run_id uuid,
    cancel_requested_at timestamptz,
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    failed_at timestamptz,
    claimable boolean not null default true,
    awaits_replica uuid,
    running_gate text,
    live_dedupe_key text,
    impossible boolean not null generated always as (
        case when status = 'running' then num_nulls(run_id, replica_id, started_at) > 0
             else num_nonnulls(run_id, replica_id, pid, started_at, running_gate) > 0
        end) stored,
    error text,
    payload jsonb not null default '{}',
    result jsonb,
    constraint jobs_pkey primary key (id),
    constraint status_is_known check (status in ('queued', 'held', 'running', 'succeeded', 'failed', 'cancelled')),
    -- A CHECK that yields NULL passes, so these count nulls instead of comparing.
    constraint running_has_owner check (status <> 'running' or num_nulls(run_id, replica_id, started_at) = 0),
    constraint queued_has_no_owner check (
        status = 'running' or num_nonnulls(run_id, replica_id, pid, started_at, running_gate) = 0),
    constraint finished_at_iff_finished check ((status in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null)),
    constraint failed_at_iff_failed check ((status = 'failed') = (failed_at is not null)),
    constraint claimable_iff_queued_and_free check (claimable = (status = 'queued' and awaits_replica is null)),
    constraint awaits_replica_only_when_waiting check (awaits_replica is null or status in ('queued', 'held', 'cancelled')),
    constraint live_dedupe_key_iff_live check (
        live_dedupe_key is not distinct from
        case when status in ('queued', 'held', 'running') then dedupe_key end),
    constraint running_gate_is_gate check (running_gate is null or running_gate is not distinct from gate),
    constraint agent_is_well_formed check (agent ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    constraint project_is_well_formed check (project ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    constraint run_at_is_finite check (isfinite(run_at)),
    constraint attempt_is_not_negative check (attempt >= 0),
    constraint counts_are_not_negative check (least(failures, lost_count, transient_count, interrupted_count) >= 0),
    constraint max_attempts_is_positive check (max_attempts >= 1),
    constraint timeout_is_positive check (timeout > interval '0'),
    constraint gate_is_short check (length(gate) between 1 and 200),
    constraint dedupe_key_is_short check (length(dedupe_key) between 1 and 500),
    constraint labels_is_object check (jsonb_typeof(labels) = 'object'),
    -- The surfaces enforce payload_max; this stops a plain INSERT from storing what no replica could hand to a process.
    constraint payload_is_bounded check (pg_column_size(payload) <= 64 * 1024 * 1024)
) with (
    -- Room for the HOT updates of a job's life: claim, stamp, settle.
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05
);

create index jobs_claim on orch.jobs (priority desc, run_at, id) where claimable;
create unique index jobs_running_gate on orch.jobs (running_gate) where running_gate is not null;
create unique index jobs_live_dedupe_key on orch.jobs (live_dedupe_key) where live_dedupe_key is not null;
create index jobs_impossible on orch.jobs (id) where impossible;
create index jobs_awaits_replica on orch.jobs (awaits_replica) where awaits_replica is not null;
create index jobs_failed on orch.jobs (failed_at desc, id desc) where failed_at is not null;

comment on table orch.jobs is
    'A job is a durable wish: run this agent with this payload. The history of its runs is in agent_runs. A row that does '
    'not run has no owner: a trigger nulls ownership, a CHECK refuses what the trigger could miss, a sweep repairs the rest.';
comment on column orch.jobs.id is 'The job''s number.';
comment on column orch.jobs.status is
    'queued (waits, from run_at on), held (waits for an operator), running, succeeded, failed, cancelled.';
comment on column orch.jobs.project is 'The tenant of the shared queue.';
comment on column orch.jobs.agent is 'The named command template, in the orch.toml of the replicas that serve it.';
comment on column orch.jobs.run_id is 'The open run, while running: a row of agent_runs.';
comment on column orch.jobs.pid is 'For people: the main process, once it exists. Nothing is ever decided by it.';
comment on column orch.jobs.replica_id is 'The owner, while running: a row of replicas.';
comment on column orch.jobs.started_at is 'When the open run was claimed, while running.';
comment on column orch.jobs.priority is 'Higher first.';
comment on column orch.jobs.run_at is 'Not claimed before this. A later time means scheduled, or waiting for a retry.';
comment on column orch.jobs.attempt is 'Runs started so far; never falls.';
comment on column orch.jobs.failures is 'Counted failures: failed and timed out. At max_attempts the job is failed.';
comment on column orch.jobs.max_attempts is 'Counted failures allowed; null: the agent''s.';
comment on column orch.jobs.lost_count is 'Runs lost with their replica or shim; at max_lost the job is failed as poisoned.';
comment on column orch.jobs.transient_count is 'Runs that asked to be tried again later; at max_transient the job is held.';
comment on column orch.jobs.interrupted_count is
    'Short runs that orch ended in a row; at max_interrupted the job is held. A run longer than a lease resets it.';
comment on column orch.jobs.gate is 'Jobs of one gate run one at a time. By itself project:NAME where projects.serial.';
comment on column orch.jobs.limits is 'The named caps that the job counts against, once limits are there; null until then.';
comment on column orch.jobs.labels is 'For people and filters.';
comment on column orch.jobs.dedupe_key is 'At most one live job (queued, held, running) has this key.';
comment on column orch.jobs.timeout is 'How long a run may take; null: the agent''s.';
comment on column orch.jobs.last_run_id is 'The run that ended last; shown by the settle as the token of its transition.';
comment on column orch.jobs.cancel_requested_at is 'Since when an operator wants the running job to be cancelled.';
comment on column orch.jobs.created_at is 'When it was enqueued.';
comment on column orch.jobs.finished_at is 'When it ended; exactly in succeeded, failed and cancelled.';
comment on column orch.jobs.failed_at is 'finished_at of failed jobs, for their sparse index.';
comment on column orch.jobs.claimable is 'Helper for the claim index: queued, and awaits_replica is null.';
comment on column orch.jobs.awaits_replica is
    'Not claimed until this replica has ended the job''s old process (or is not live any more): the job was taken from it '
    'by a plain UPDATE or the sanitizer.';
comment on column orch.jobs.running_gate is 'Helper for the gate index: the gate, while running and gates are enforced.';
comment on column orch.jobs.live_dedupe_key is 'Helper for the dedupe index: the dedupe_key, while live.';
comment on column orch.jobs.impossible is
    'Helper for the sanitizer: status and ownership disagree, which the guards should have made impossible.';
comment on column orch.jobs.error is 'How the last run ended, if not well; the next run gets it as ORCH_PREVIOUS_ERROR.';
comment on column orch.jobs.payload is 'What the agent is to work on.';
comment on column orch.jobs.result is 'What the last run that wrote a result file said.';
comment on constraint jobs_pkey on orch.jobs is 'A job''s number is its name; lists walk it.';
comment on constraint status_is_known on orch.jobs is 'Six statuses; scheduled and retrying are queued with a later run_at.';
comment on constraint running_has_owner on orch.jobs is 'A running row has run_id, replica_id and started_at.';
comment on constraint queued_has_no_owner on orch.jobs is
    'A row that does not run carries no run_id, replica_id, pid, started_at or running_gate (job 2286).';
comment on constraint finished_at_iff_finished on orch.jobs is 'finished_at exactly in succeeded, failed and cancelled.';
comment on constraint failed_at_iff_failed on orch.jobs is 'failed_at exactly in failed.';
comment on constraint claimable_iff_queued_and_free on orch.jobs is 'claimable exactly when queued and awaiting no replica.';
comment on constraint awaits_replica_only_when_waiting on orch.jobs is 'Only a job that could otherwise run, or was cancelled meanwhile, awaits a replica.';
comment on constraint live_dedupe_key_iff_live on orch.jobs is 'live_dedupe_key is dedupe_key while live, else null.';
comment on constraint running_gate_is_gate on orch.jobs is 'running_gate is the job''s own gate or null.';
comment on constraint agent_is_well_formed on orch.jobs is 'Letters, digits, ".", "_", "-"; at most 100; begins with a letter or digit.';
comment on constraint project_is_well_formed on orch.jobs is 'Letters, digits, ".", "_", "-"; at most 100; begins with a letter or digit.';
comment on constraint run_at_is_finite on orch.jobs is 'infinity is no time to run at: hold the job instead.';
comment on constraint attempt_is_not_negative on orch.jobs is 'Runs are counted from 0.';
comment on constraint counts_are_not_negative on orch.jobs is 'Ends are counted from 0.';
comment on constraint max_attempts_is_positive on orch.jobs is 'A job may be tried at least once.';
comment on constraint timeout_is_positive on orch.jobs is 'No time at all is no timeout.';
comment on constraint gate_is_short on orch.jobs is '1 to 200 characters.';
comment on constraint dedupe_key_is_short on orch.jobs is '1 to 500 characters.';
comment on constraint labels_is_object on orch.jobs is 'Labels are a JSON object.';
comment on constraint payload_is_bounded on orch.jobs is 'At most 64 MiB as stored; the surfaces enforce payload_max, 1 MiB by default.';
comment on index orch.jobs_claim is 'The claim: due jobs by priority, run_at, id.';
comment on index orch.jobs_running_gate is 'The last word on gates: one running job a gate.';
comment on index orch.jobs_live_dedupe_key is 'One live job a dedupe key.';
comment on index orch.jobs_impossible is 'What the sanitizer looks for; empty while the guards hold.';
comment on index orch.jobs_awaits_replica is 'Jobs whose old process must go first; nearly empty.';
comment on index orch.jobs_failed is 'The list of failures; sparse.';

-- replicas ------------------------------------------------------------------------------------------------------------

create table orch.replicas (
    replica_id uuid not null,
    name text not null,
    host text not null,
    boot_id text not null,
    state_dir_id text not null,
    version text not null,
    state text not null default 'live',
    draining boolean not null default false,
    agents text[] not null default '{}',
    labels jsonb not null default '{}',
    max_concurrency integer not null,
    started_at timestamptz not null default now(),
    lease_until timestamptz not null,
    constraint replicas_pkey primary key (replica_id),
    constraint state_is_known check (state in ('live', 'dead', 'left')),
    constraint max_concurrency_is_positive check (max_concurrency >= 1)
) with (fillfactor = 50);
comment on table orch.replicas is
    'A replica is one boot of an orch process. It owns its running jobs while it is live; its lease, judged by this '
    'database''s clock, says until when that is certain.';
comment on column orch.replicas.replica_id is 'A UUID a boot, never reused.';
comment on column orch.replicas.name is 'For people.';
comment on column orch.replicas.host is 'The machine''s name.';
comment on column orch.replicas.boot_id is 'The boot of the machine.';
comment on column orch.replicas.state_dir_id is 'Which state directory it holds, as the kernel sees it: UUID/device/inode, pid namespace.';
comment on column orch.replicas.version is 'The version of its binary.';
comment on column orch.replicas.state is 'live, dead (declared so; final) or left (said goodbye owning nothing; final).';
comment on column orch.replicas.draining is 'Claims nothing more. No state: a draining replica that dies is reaped like any other.';
comment on column orch.replicas.agents is 'The agents that it serves.';
comment on column orch.replicas.labels is 'For routing.';
comment on column orch.replicas.max_concurrency is 'Its slots.';
comment on column orch.replicas.started_at is 'When it registered.';
comment on column orch.replicas.lease_until is 'Until when its runs are certainly its own.';
comment on constraint replicas_pkey on orch.replicas is 'A boot''s name is used once.';
comment on constraint state_is_known on orch.replicas is 'live, dead or left.';
comment on constraint max_concurrency_is_positive on orch.replicas is 'A replica has at least one slot.';

-- agent_runs ----------------------------------------------------------------------------------------------------------

create table orch.agent_runs (
    run_id uuid not null,
    job_id bigint not null,
    attempt integer not null,
    replica_id uuid not null,
    host text not null,
    boot_id text not null,
    pid integer,
    pid_started bigint,
    claimed_at timestamptz not null,
    spawned_at timestamptz,
    ended_at timestamptz,
    rules jsonb not null,
    outcome text,
    exit_code integer,
    signal integer,
    error text,
    result jsonb,
    user_cpu_seconds double precision,
    system_cpu_seconds double precision,
    peak_memory_bytes bigint,
    log_bytes_kept bigint,
    log_bytes_dropped bigint,
    processes_killed integer,
    containment text,
    closed_by text,
    constraint agent_runs_pkey primary key (run_id),
    constraint outcome_is_known check (outcome in
        ('succeeded', 'failed', 'transient', 'timed_out', 'cancelled', 'interrupted', 'lost', 'spawn_failed')),
    constraint containment_is_known check (containment in ('cgroup', 'pidns', 'sweep')),
    constraint closed_by_is_known check (closed_by in ('owner', 'successor', 'reap', 'operator', 'sanitize')),
    constraint ended_has_outcome check (num_nonnulls(ended_at, outcome, closed_by) in (0, 3))
) with (fillfactor = 70);
create unique index agent_runs_one_open on orch.agent_runs (job_id) where ended_at is null;
create index agent_runs_open on orch.agent_runs (replica_id) where ended_at is null;
create index agent_runs_job on orch.agent_runs (job_id, attempt);
create index agent_runs_ended on orch.agent_runs using brin (ended_at) with (pages_per_range = 32, autosummarize = on);
comment on table orch.agent_runs is
    'A run is one try of a job: a row from the claim on, a process, a directory. The history of a job; never deleted with it '
    'being requeued.';
comment on column orch.agent_runs.run_id is 'A UUIDv7, made by the claimant before the claim.';
comment on column orch.agent_runs.job_id is 'The job.';
comment on column orch.agent_runs.attempt is 'Which run of the job this is, from 1 on. For people, no token.';
comment on column orch.agent_runs.replica_id is 'The owner; the last one, if it was adopted.';
comment on column orch.agent_runs.host is 'The machine it was claimed for.';
comment on column orch.agent_runs.boot_id is 'The boot of that machine.';
comment on column orch.agent_runs.pid is 'Its main process. For people; nothing is decided by it.';
comment on column orch.agent_runs.pid_started is 'When that began, in clock ticks since boot.';
comment on column orch.agent_runs.claimed_at is 'When it was claimed.';
comment on column orch.agent_runs.spawned_at is 'When its process was known to exist.';
comment on column orch.agent_runs.ended_at is 'When its end was written; null: open.';
comment on column orch.agent_runs.rules is 'The retry rules at the claim (durations in seconds), so that any replica can settle it.';
comment on column orch.agent_runs.outcome is
    'succeeded, failed, transient, timed_out, cancelled, interrupted, lost or spawn_failed.';
comment on column orch.agent_runs.exit_code is 'The exit status, if the command exited.';
comment on column orch.agent_runs.signal is 'The signal that ended it, if one did.';
comment on column orch.agent_runs.error is 'In words.';
comment on column orch.agent_runs.result is 'The result file, as JSON.';
comment on column orch.agent_runs.user_cpu_seconds is 'CPU time in user mode of the whole tree, seconds.';
comment on column orch.agent_runs.system_cpu_seconds is 'CPU time in the kernel of the whole tree, seconds.';
comment on column orch.agent_runs.peak_memory_bytes is 'Peak memory, bytes.';
comment on column orch.agent_runs.log_bytes_kept is 'Bytes of output kept.';
comment on column orch.agent_runs.log_bytes_dropped is 'Bytes of output dropped between head and tail.';
comment on column orch.agent_runs.processes_killed is 'Processes that were ended after the main process had.';
comment on column orch.agent_runs.containment is 'What held its tree: cgroup, pidns or sweep.';
comment on column orch.agent_runs.closed_by is 'Who wrote the end: owner, successor, reap, operator or sanitize.';
comment on constraint agent_runs_pkey on orch.agent_runs is 'A run''s name is used once.';
comment on constraint outcome_is_known on orch.agent_runs is 'Eight outcomes.';
comment on constraint containment_is_known on orch.agent_runs is 'Three containments.';
comment on constraint closed_by_is_known on orch.agent_runs is 'Five writers of an end.';
comment on constraint ended_has_outcome on orch.agent_runs is 'ended_at, outcome and closed_by come together.';
comment on index orch.agent_runs_one_open is 'One open run a job.';
comment on index orch.agent_runs_open is 'What a replica owns: reconcile, reap, GET /queue.';
comment on index orch.agent_runs_job is 'The history of a job.';
comment on index orch.agent_runs_ended is 'Counts of the last 24 hours; rows end nearly in order.';

-- agents, projects ----------------------------------------------------------------------------------------------------

create table orch.agents (
    name text not null,
    max_attempts integer not null default 3,
    timeout interval,
    backoff_base interval not null default interval '5 seconds',
    backoff_factor double precision not null default 2,
    backoff_max interval not null default interval '1 hour',
    on_lost text not null default 'requeue',
    updated_at timestamptz not null default now(),
    constraint agents_pkey primary key (name),
    constraint name_is_well_formed check (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    constraint max_attempts_is_positive check (max_attempts >= 1),
    constraint timeout_is_positive check (timeout > interval '0'),
    constraint backoff_grows check (backoff_base >= interval '0' and backoff_factor >= 1 and backoff_factor <= 1e6
                                    and backoff_max >= backoff_base),
    constraint on_lost_is_known check (on_lost in ('requeue', 'hold', 'fail'))
);
comment on table orch.agents is
    'What the database must know of the agents that replicas serve. What they execute stands in the replicas'' files alone.';
comment on column orch.agents.name is 'As jobs ask for it.';
comment on column orch.agents.max_attempts is 'Counted failures after which a job is failed.';
comment on column orch.agents.timeout is 'How long a run may take; null: for ever.';
comment on column orch.agents.backoff_base is 'The first wait before a retry.';
comment on column orch.agents.backoff_factor is 'What each further wait is multiplied by.';
comment on column orch.agents.backoff_max is 'The longest wait, before a jitter of 0.5 to 1.5.';
comment on column orch.agents.on_lost is 'What a lost run does to its job: requeue, hold or fail.';
comment on column orch.agents.updated_at is 'When a replica last changed this.';
comment on constraint agents_pkey on orch.agents is 'One row an agent; the replica that registered last wins.';
comment on constraint name_is_well_formed on orch.agents is 'Letters, digits, ".", "_", "-"; at most 100.';
comment on constraint max_attempts_is_positive on orch.agents is 'At least one try.';
comment on constraint timeout_is_positive on orch.agents is 'No time at all is no timeout.';
comment on constraint backoff_grows on orch.agents is 'Waits never shrink: factor 1 to 1e6, max at least base.';
comment on constraint on_lost_is_known on orch.agents is 'requeue, hold or fail.';

create table orch.projects (
    name text not null,
    serial boolean not null default false,
    weight integer not null default 1,
    constraint projects_pkey primary key (name),
    constraint name_is_well_formed check (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    constraint weight_is_positive check (weight >= 1)
);
comment on table orch.projects is 'A tenant of the shared queue. A project without a row has the defaults.';
comment on column orch.projects.name is 'As jobs name it.';
comment on column orch.projects.serial is 'Whether its jobs run one at a time: enqueue gives them the gate project:NAME.';
comment on column orch.projects.weight is 'Its share of the running runs, once fair share is there.';
comment on constraint projects_pkey on orch.projects is 'One row a project.';
comment on constraint name_is_well_formed on orch.projects is 'Letters, digits, ".", "_", "-"; at most 100.';
comment on constraint weight_is_positive on orch.projects is 'A share is at least 1.';

-- meta, counters, events ----------------------------------------------------------------------------------------------

create table orch.meta (
    singleton boolean not null default true,
    system_identifier bigint,
    database_oid oid,
    timeline text,
    last_tick_at timestamptz,
    wait_until timestamptz,
    wait_until_set_at timestamptz,
    schema_hash text,
    constraint meta_pkey primary key (singleton),
    constraint meta_has_one_row check (singleton),
    constraint identity_comes_whole check (num_nonnulls(system_identifier, database_oid) in (0, 2))
) with (fillfactor = 50);
insert into orch.meta default values;
comment on table orch.meta is 'What the queue remembers about itself; one row.';
comment on column orch.meta.singleton is 'Always true.';
comment on column orch.meta.system_identifier is 'Which cluster this is; null until the first replica fills it.';
comment on column orch.meta.database_oid is 'Which database of it; null until the first replica fills it.';
comment on column orch.meta.timeline is 'The server''s timeline at the last tick; a change is a failover.';
comment on column orch.meta.last_tick_at is 'When a reaper last ticked.';
comment on column orch.meta.wait_until is 'Nobody is declared dead before this: leases look expired after an outage.';
comment on column orch.meta.wait_until_set_at is 'When wait_until was last set: a loss soon after is nobody''s fault.';
comment on column orch.meta.schema_hash is 'Hash of the functions, views and triggers as last applied.';
comment on constraint meta_pkey on orch.meta is 'One row.';
comment on constraint meta_has_one_row on orch.meta is 'One row.';
comment on constraint identity_comes_whole on orch.meta is 'Both or neither.';

create table orch.counters (
    name text not null,
    value bigint not null default 0,
    constraint counters_pkey primary key (name)
) with (fillfactor = 50);
insert into orch.counters (name) values ('impossible_queued_total'), ('guard_repairs_total'), ('reaped_total');
comment on table orch.counters is 'Totals that live here, so that every replica says the same.';
comment on column orch.counters.name is
    'impossible_queued_total (the sweep''s repairs), guard_repairs_total (the trigger''s), reaped_total.';
comment on column orch.counters.value is 'Since the schema was made.';
comment on constraint counters_pkey on orch.counters is 'One row a counter.';

create table orch.events (
    id bigint generated always as identity,
    at timestamptz not null default clock_timestamp(),
    kind text not null,
    job_id bigint,
    run_id uuid,
    actor text not null default session_user,
    detail jsonb not null default '{}',
    constraint events_pkey primary key (id)
);
create index events_job on orch.events (job_id) where job_id is not null;
comment on table orch.events is
    'Acts of operators and repairs of the guards. Ordinary runs have their history in agent_runs.';
comment on column orch.events.id is 'In order of writing.';
comment on column orch.events.at is 'When.';
comment on column orch.events.kind is
    'cancelled, cancel_requested, retried, held, released, taken, guard_repair, impossible_queued, idle_run_closed, '
    'ownerless_requeued, claim_refused.';
comment on column orch.events.job_id is 'The job it happened to.';
comment on column orch.events.run_id is 'The run it happened to.';
comment on column orch.events.actor is 'The database user who did it.';
comment on column orch.events.detail is 'What it was like before, and why.';
comment on constraint events_pkey on orch.events is 'In order of writing.';
comment on index orch.events_job is 'What happened to a job.';
