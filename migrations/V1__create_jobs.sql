-- Create orch.jobs: the queue.
--
-- Why: a job is a durable wish, and its row is the one place that says whether it waits, runs or has ended. Ownership
--   (run_id, replica_id, pid, started_at, running_gate) stands on a running row and on no other; CHECKs say so here,
--   triggers (sql/schema/triggers) repair what a plain statement gets wrong before the CHECKs see it.
-- Lock: none that matters; the table is new.
-- The binary before: there is none.
-- Undo by hand: drop table orch.jobs;
--
-- The index rule. Ending a run must be a HOT update (3.2 us a row against 7.1), and a column counts as indexed also
-- where only the predicate of an index names it. So no index of this table names status, run_id, replica_id or
-- finished_at, in no clause. What an index needs to know of the status stands in a helper column that the end of an
-- ungated, unkeyed run does not change: claimable, set_aside, running_gate, live_dedupe_key, failed_at, impossible.
--
-- What the helpers are, status by status. Statements of orch write them; where a plain statement does not, the trigger
-- jobs_zz2_derive_helpers does (claim, settle and enqueue write them right, so that it does not fire).
--
--   status     | claimable              | finished_at | failed_at | live_dedupe_key | running_gate      | awaits_replica
--   queued     | awaits_replica is null | null        | null      | dedupe_key      | null              | any
--   held       | false                  | null        | null      | dedupe_key      | null              | any
--   running    | false                  | null        | null      | dedupe_key      | the gate, or null | null
--   succeeded  | false                  | set         | null      | null            | null              | null
--   failed     | false                  | set         | set       | null            | null              | null
--   cancelled  | false                  | set         | null      | null            | null              | any
set local lock_timeout = '5s';

create table orch.jobs (
    id                  bigint generated always as identity,
    status              text        not null default 'queued',
    project             text        not null default 'default',
    agent               text        not null,
    run_id              uuid,
    pid                 integer,
    replica_id          uuid,
    started_at          timestamptz,
    priority            smallint    not null default 0,
    run_at              timestamptz not null default now(),
    attempt             integer     not null default 0,
    failures            integer     not null default 0,
    max_attempts        integer,
    lost_count          integer     not null default 0,
    transient_count     integer     not null default 0,
    interrupted_count   integer     not null default 0,
    gate                text,
    limits              text[],
    labels              jsonb       not null default '{}',
    dedupe_key          text,
    timeout             interval,
    last_run_id         uuid,
    cancel_requested_at timestamptz,
    created_at          timestamptz not null default now(),
    finished_at         timestamptz,
    failed_at           timestamptz,
    error               text,
    awaits_replica      uuid,
    claimable           boolean     not null default true,
    running_gate        text,
    live_dedupe_key     text,
    set_aside           boolean generated always as (
                            status = 'held' or (status = 'queued' and awaits_replica is not null)) stored,
    impossible          boolean generated always as (
                            case when status = 'running'
                                 then num_nulls(run_id, replica_id, started_at) > 0
                                 else num_nonnulls(run_id, pid, replica_id, started_at, running_gate) > 0 end) stored,
    payload             jsonb       not null default '{}',
    result              jsonb,

    constraint jobs_pkey primary key (id),
    constraint status_is_known check (
        status in ('queued', 'held', 'running', 'succeeded', 'failed', 'cancelled')),
    constraint queued_has_no_owner check (
        status not in ('queued', 'held') or num_nonnulls(run_id, pid, replica_id, started_at, running_gate) = 0),
    constraint running_has_an_owner check (
        status <> 'running' or num_nulls(run_id, replica_id, started_at) = 0),
    constraint finished_has_no_owner check (
        status not in ('succeeded', 'failed', 'cancelled')
        or num_nonnulls(run_id, pid, replica_id, started_at, running_gate) = 0),
    constraint finished_at_is_set_when_finished check (
        (status in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null)),
    constraint failed_at_is_set_when_failed check (
        (status = 'failed') = (failed_at is not null)),
    constraint claimable_is_queued_and_awaits_nobody check (
        claimable = (status = 'queued' and awaits_replica is null)),
    constraint running_awaits_nobody check (
        status <> 'running' or awaits_replica is null),
    constraint live_dedupe_key_is_the_live_jobs_key check (
        live_dedupe_key is not distinct from
            case when status in ('queued', 'held', 'running') then dedupe_key end),
    constraint agent_is_well_formed check (
        agent ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    constraint project_is_well_formed check (
        project ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    constraint gate_is_short check (
        gate is null or octet_length(gate) between 1 and 500),
    constraint dedupe_key_is_short check (
        dedupe_key is null or octet_length(dedupe_key) between 1 and 500),
    constraint limits_come_with_their_table check (
        limits is null),
    constraint labels_are_an_object check (
        jsonb_typeof(labels) = 'object' and pg_column_size(labels) <= 65536),
    constraint counts_are_not_negative check (
        least(attempt, failures, lost_count, transient_count, interrupted_count) >= 0),
    constraint max_attempts_is_positive check (
        max_attempts is null or max_attempts >= 1),
    constraint timeout_is_positive_and_finite check (
        timeout is null or (timeout > interval '0' and timeout <= interval '100 years')),
    constraint times_are_finite check (
        greatest(run_at, created_at, started_at, cancel_requested_at, finished_at, failed_at)
            < timestamptz '9999-01-01 00:00:00+00'
        and least(run_at, created_at, started_at, cancel_requested_at, finished_at, failed_at)
            >= timestamptz '1970-01-01 00:00:00+00'),
    constraint payload_is_bounded check (
        pg_column_size(payload) <= 16777216)
)
-- Half of each page stays free, so that the versions of a row that claim, pid stamp and settle write find room in it.
-- A claim walks every dead entry at the head of its index, so vacuum comes early here and does not nap while it works.
with (
    fillfactor = 50,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);

create index jobs_claim on orch.jobs (priority desc, run_at, id) include (project) where claimable;
create index jobs_set_aside on orch.jobs (id) where set_aside;
create index jobs_awaits_replica on orch.jobs (awaits_replica) where awaits_replica is not null;
create index jobs_failed_at on orch.jobs (failed_at) where failed_at is not null;
create index jobs_impossible on orch.jobs (id) where impossible;
create unique index jobs_running_gate on orch.jobs (running_gate) where running_gate is not null;
create unique index jobs_live_dedupe_key on orch.jobs (live_dedupe_key) where live_dedupe_key is not null;

comment on table orch.jobs is
    'The queue: a job is a durable wish to run an agent with a payload. Enqueue with orch.enqueue; change with orch.cancel, orch.retry, orch.hold, orch.release. What became of its runs stands in orch.agent_runs.';

comment on column orch.jobs.id is 'The job''s number.';
comment on column orch.jobs.status is 'queued, held, running, succeeded, failed or cancelled. Scheduled and retrying jobs are queued with a later run_at.';
comment on column orch.jobs.project is 'The tenant that the job belongs to.';
comment on column orch.jobs.agent is 'The command template in the replicas'' orch.toml that is to run.';
comment on column orch.jobs.run_id is 'Ownership: the run that is going on. Set exactly while running, and the same from claim to settle.';
comment on column orch.jobs.pid is 'Ownership, for people to read: the main process on the replica''s host, once it exists. No code decides by it. Null unless running.';
comment on column orch.jobs.replica_id is 'Ownership: the replica whose lease covers the run. Set exactly while running; changes only by adoption.';
comment on column orch.jobs.started_at is 'Ownership: when the run was claimed. Set exactly while running; agent_runs.claimed_at keeps it.';
comment on column orch.jobs.priority is 'Higher first.';
comment on column orch.jobs.run_at is 'Not before. Among jobs of one priority the earlier comes first.';
comment on column orch.jobs.attempt is 'Runs started so far, for people; it never falls. No token and no limit: failures counts towards max_attempts.';
comment on column orch.jobs.failures is 'Runs that failed or timed out since the job was enqueued or retried.';
comment on column orch.jobs.max_attempts is 'Failures at which the job is failed; null: the agent''s rule at the claim.';
comment on column orch.jobs.lost_count is 'Runs whose replica or shim died, but for those in an outage of the database; the job is failed as poisoned at max_lost.';
comment on column orch.jobs.transient_count is 'Runs that asked to be run again later; the job is held at max_transient.';
comment on column orch.jobs.interrupted_count is 'Runs that orch itself ended, in a row; the job is held at max_interrupted.';
comment on column orch.jobs.gate is 'The wish to run one at a time with the jobs of the same gate; orch.enqueue fills in project:NAME where projects.serial. Null: no gate.';
comment on column orch.jobs.limits is 'Named caps that the job needs. Null until there are limits: orch.enqueue refuses them, and so does a constraint.';
comment on column orch.jobs.labels is 'Names and values for people; an object.';
comment on column orch.jobs.dedupe_key is 'At most one live job (queued, held or running) has it.';
comment on column orch.jobs.timeout is 'After how long a run is ended as timed out; null: the agent''s rule at the claim.';
comment on column orch.jobs.last_run_id is 'The run before: set when a run ends, cleared by orch.retry so that no old result can end the new wish. A settle shows by it that it knew whose run it ended.';
comment on column orch.jobs.cancel_requested_at is 'Since when a running job is wished to be cancelled: its run then ends as cancelled, whatever its outcome but succeeded.';
comment on column orch.jobs.created_at is 'When it was enqueued.';
comment on column orch.jobs.finished_at is 'When it succeeded, failed or was cancelled. Set exactly when finished.';
comment on column orch.jobs.failed_at is 'When it failed. Set exactly when failed, so that failures have an index of their own.';
comment on column orch.jobs.error is 'What went wrong last, for people and for the next attempt (ORCH_PREVIOUS_ERROR).';
comment on column orch.jobs.awaits_replica is 'The replica that must first end the old process, after an operator or the sanitizer took the job from it. Not claimable until that replica says so, or is not live any more.';
comment on column orch.jobs.claimable is 'Helper of the index jobs_claim: queued, and awaits_replica is null.';
comment on column orch.jobs.running_gate is 'Ownership: the gate that the running job keeps; null with no gate or with serial_gate_enabled off. Unique.';
comment on column orch.jobs.live_dedupe_key is 'Helper of the unique index: dedupe_key while the job is live, else null.';
comment on column orch.jobs.set_aside is 'Generated, helper of the index jobs_set_aside: waits but cannot be claimed, because it is held or awaits a replica.';
comment on column orch.jobs.impossible is 'Generated: status and ownership disagree. The sanitizer repairs such rows, orch.violations shows them.';
comment on column orch.jobs.payload is 'What the agent gets: any JSON.';
comment on column orch.jobs.result is 'What the last run answered, if it left a result.';

comment on constraint jobs_pkey on orch.jobs is 'A job has one number.';
comment on constraint status_is_known on orch.jobs is 'A status is queued, held, running, succeeded, failed or cancelled.';
comment on constraint queued_has_no_owner on orch.jobs is 'What waits carries no run_id, pid, replica_id, started_at or running_gate: the impossible state of job 2286.';
comment on constraint running_has_an_owner on orch.jobs is 'What runs says which run it is, who owns it and since when. pid and running_gate may be null.';
comment on constraint finished_has_no_owner on orch.jobs is 'What has ended carries no run_id, pid, replica_id, started_at or running_gate; last_run_id and agent_runs tell the history.';
comment on constraint finished_at_is_set_when_finished on orch.jobs is 'finished_at is set exactly when the job succeeded, failed or was cancelled.';
comment on constraint failed_at_is_set_when_failed on orch.jobs is 'failed_at is set exactly when the job failed.';
comment on constraint claimable_is_queued_and_awaits_nobody on orch.jobs is 'claimable says what a claim may take: a queued job whose former process is gone.';
comment on constraint running_awaits_nobody on orch.jobs is 'No claim takes a job while the former owner has not ended its process.';
comment on constraint live_dedupe_key_is_the_live_jobs_key on orch.jobs is 'live_dedupe_key is dedupe_key while the job is live, and null after.';
comment on constraint agent_is_well_formed on orch.jobs is '1 to 100 letters, digits, dots, underscores and hyphens, a letter or digit first.';
comment on constraint project_is_well_formed on orch.jobs is '1 to 100 letters, digits, dots, underscores and hyphens, a letter or digit first.';
comment on constraint gate_is_short on orch.jobs is '1 to 500 bytes, so that it fits into an index.';
comment on constraint dedupe_key_is_short on orch.jobs is '1 to 500 bytes, so that it fits into an index.';
comment on constraint limits_come_with_their_table on orch.jobs is 'A limit that nobody enforces would be a lie; the migration that brings the limits drops this.';
comment on constraint labels_are_an_object on orch.jobs is 'A JSON object of at most 64 KiB.';
comment on constraint counts_are_not_negative on orch.jobs is 'Counts start at 0.';
comment on constraint max_attempts_is_positive on orch.jobs is 'At least one attempt.';
comment on constraint timeout_is_positive_and_finite on orch.jobs is 'More than nothing and at most 100 years: Postgres 17 knows infinite intervals, a replica''s clock does not.';
comment on constraint times_are_finite on orch.jobs is 'From 1970 to 9998: what every reader can take. An infinite run_at is a job that waits for ever unsaid: hold it instead.';
comment on constraint payload_is_bounded on orch.jobs is '16 MiB, a ceiling for what bypasses payload_max: a claim carries the payloads of all jobs it takes, and one row must not exhaust a replica.';

comment on index orch.jobs_claim is 'What a claim walks, in its order; with the project, so that GET /queue counts without reading the table.';
comment on index orch.jobs_set_aside is 'Counts of what waits but cannot be claimed, without a walk over what has finished.';
comment on index orch.jobs_awaits_replica is 'What a renewal tells its replica to end, and what the tick lets go on.';
comment on index orch.jobs_failed_at is 'Lists of failures, the latest first.';
comment on index orch.jobs_impossible is 'What the sanitizer repairs; empty in a healthy database.';
comment on index orch.jobs_running_gate is 'Of the jobs with one gate at most one runs: the last word.';
comment on index orch.jobs_live_dedupe_key is 'At most one live job has a dedupe key.';
