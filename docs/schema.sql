-- The schema orch as it is once everything is applied, for people. A test renders it anew and compares.
-- What makes it: migrations/ (tables), sql/schema/ (functions, views, triggers). As a script: orch migrate --sql.

-- The queue: a job is a durable wish to run an agent with a payload. Enqueue with orch.enqueue; change with orch.cancel, orch.retry, orch.hold, orch.release. What became of its runs stands in orch.agent_runs.
create table orch.jobs (
    -- The job's number.
    id bigint not null generated always as identity,
    -- queued, held, running, succeeded, failed or cancelled. Scheduled and retrying jobs are queued with a later run_at.
    status text not null default 'queued'::text,
    -- The tenant that the job belongs to.
    project text not null default 'default'::text,
    -- The command template in the replicas' orch.toml that is to run.
    agent text not null,
    -- Ownership: the run that is going on. Set exactly while running, and the same from claim to settle.
    run_id uuid,
    -- Ownership, for people to read: the main process on the replica's host, once it exists. No code decides by it. Null unless running.
    pid integer,
    -- Ownership: the replica whose lease covers the run. Set exactly while running; changes only by adoption.
    replica_id uuid,
    -- Ownership: when the run was claimed. Set exactly while running; agent_runs.claimed_at keeps it.
    started_at timestamp with time zone,
    -- Higher first.
    priority smallint not null default 0,
    -- Not before. Among jobs of one priority the earlier comes first.
    run_at timestamp with time zone not null default now(),
    -- Runs started so far, for people; it never falls. No token and no limit: failures counts towards max_attempts.
    attempt integer not null default 0,
    -- Runs that failed or timed out since the job was enqueued or retried.
    failures integer not null default 0,
    -- Failures at which the job is failed; null: the agent's rule at the claim.
    max_attempts integer,
    -- Runs whose replica or shim died, but for those in an outage of the database; the job is failed as poisoned at max_lost.
    lost_count integer not null default 0,
    -- Runs that asked to be run again later; the job is held at max_transient.
    transient_count integer not null default 0,
    -- Runs that orch itself ended, in a row; the job is held at max_interrupted.
    interrupted_count integer not null default 0,
    -- The wish to run one at a time with the jobs of the same gate; orch.enqueue fills in project:NAME where projects.serial. Null: no gate.
    gate text,
    -- Named caps that the job needs, beside those of its agent; sorted by orch.enqueue.
    limits text[],
    -- Names and values for people; an object.
    labels jsonb not null default '{}'::jsonb,
    -- At most one live job (queued, held or running) has it.
    dedupe_key text,
    -- After how long a run is ended as timed out; null: the agent's rule at the claim.
    timeout interval,
    -- The run before: set when a run ends, cleared by orch.retry so that no old result can end the new wish. A settle shows by it that it knew whose run it ended.
    last_run_id uuid,
    -- Since when a running job is wished to be cancelled: its run then ends as cancelled, whatever its outcome but succeeded.
    cancel_requested_at timestamp with time zone,
    -- When it was enqueued.
    created_at timestamp with time zone not null default now(),
    -- When it succeeded, failed or was cancelled. Set exactly when finished.
    finished_at timestamp with time zone,
    -- When it failed. Set exactly when failed, so that failures have an index of their own.
    failed_at timestamp with time zone,
    -- What went wrong last, for people and for the next attempt (ORCH_PREVIOUS_ERROR).
    error text,
    -- The replica that must first end the old process, after an operator or the sanitizer took the job from it. Not claimable until that replica says so, or is not live any more.
    awaits_replica uuid,
    -- Helper of the index jobs_claim: queued, and neither awaits_replica nor waits_for is set.
    claimable boolean not null default true,
    -- Ownership: the gate that the running job keeps; null with no gate or with serial_gate_enabled off. Unique.
    running_gate text,
    -- Helper of the unique index: dedupe_key while the job is live, else null.
    live_dedupe_key text,
    -- Helper of the index jobs_set_aside: waits but cannot be claimed, because it is held or awaits a replica.
    set_aside boolean not null default false,
    -- Generated: status and ownership disagree. The sanitizer repairs such rows, orch.violations shows them.
    impossible boolean generated always as (
CASE
    WHEN (status = 'running'::text) THEN (num_nulls(run_id, replica_id, started_at) > 0)
    ELSE (num_nonnulls(run_id, pid, replica_id, started_at, running_gate) > 0)
END) stored,
    -- What the agent gets: any JSON.
    payload jsonb not null default '{}'::jsonb,
    -- What the last run answered, if it left a result.
    result jsonb,
    -- Labels that a replica must have to run it; null: any replica will do.
    require jsonb,
    -- Helper of the index jobs_claim: jobs of one project with the same lane are alike for a claim (agent, priority, gate, limits, require) and wait for the same things.
    lane bigint not null,
    -- The jobs that must succeed before this one runs, as far as it is not known that they have; null: none. Becomes null when the last one has.
    waits_for bigint[],
    -- A job has one number.
    constraint jobs_pkey PRIMARY KEY (id),
    -- claimable says what a claim may take: a queued job whose former process is gone, and whose predecessors have succeeded.
    constraint claimable_is_queued_and_waits_for_nobody CHECK ((claimable = ((status = 'queued'::text) AND (awaits_replica IS NULL) AND (waits_for IS NULL)))),
    -- What runs has run_id, replica_id and started_at; what does not run has none of these, and neither pid nor running_gate: the impossible state of job 2286.
    constraint has_an_owner_exactly_while_running CHECK ((NOT impossible)),
    -- A status is queued, held, running, succeeded, failed or cancelled.
    constraint status_is_known CHECK ((status = ANY ('{queued,held,running,succeeded,failed,cancelled}'::text[])))
)
with (fillfactor=50, autovacuum_vacuum_threshold=1000, autovacuum_vacuum_scale_factor=0.01, autovacuum_vacuum_insert_scale_factor=0.05, autovacuum_analyze_scale_factor=0.02, autovacuum_vacuum_cost_delay=0);
-- What a renewal tells its replica to end, and what the tick lets go on.
CREATE INDEX jobs_awaits_replica ON orch.jobs USING btree (awaits_replica) WHERE (awaits_replica IS NOT NULL);
-- What claims read: the head of each lane, then what follows it.
CREATE INDEX jobs_claim ON orch.jobs USING btree (project, lane, run_at, id) WHERE claimable;
-- Lists of failures, the latest first.
CREATE INDEX jobs_failed_at ON orch.jobs USING btree (failed_at) WHERE (failed_at IS NOT NULL);
-- What the sanitizer repairs; empty in a healthy database.
CREATE INDEX jobs_impossible ON orch.jobs USING btree (id) WHERE impossible;
-- At most one live job has a dedupe key.
CREATE UNIQUE INDEX jobs_live_dedupe_key ON orch.jobs USING btree (live_dedupe_key) WHERE (live_dedupe_key IS NOT NULL);
-- Of the jobs with one gate at most one runs: the last word.
CREATE UNIQUE INDEX jobs_running_gate ON orch.jobs USING btree (running_gate) WHERE (running_gate IS NOT NULL);
-- Counts of what waits but cannot be claimed, without a walk over what has finished.
CREATE INDEX jobs_set_aside ON orch.jobs USING btree (id) WHERE set_aside;
-- The jobs that wait for others: what the tick walks, and what GET /queue counts.
CREATE INDEX jobs_waits_for ON orch.jobs USING btree (id) INCLUDE (project, run_at, set_aside) WHERE (waits_for IS NOT NULL);
-- A running job is not deleted.
CREATE TRIGGER jobs_guard_delete BEFORE DELETE ON orch.jobs FOR EACH ROW WHEN ((old.status = 'running'::text)) EXECUTE FUNCTION orch.guard_delete(); -- always
-- Running jobs are not truncated away.
CREATE TRIGGER jobs_guard_truncate BEFORE TRUNCATE ON orch.jobs FOR EACH STATEMENT EXECUTE FUNCTION orch.guard_truncate(); -- always
-- What a job is enqueued with is well formed, and says its lane.
CREATE TRIGGER jobs_zz0_guard_format BEFORE INSERT OR UPDATE OF agent, project, gate, dedupe_key, limits, labels, require, max_attempts, timeout, payload, waits_for, priority, lane ON orch.jobs FOR EACH ROW EXECUTE FUNCTION orch.guard_format(); -- always
-- Refuses illegal transitions; a row that does not run has no owner; sets what follows from the status.
CREATE TRIGGER jobs_zz1_guard_job BEFORE INSERT OR UPDATE ON orch.jobs FOR EACH ROW EXECUTE FUNCTION orch.guard_job(); -- always

-- Runs: one row a try of a job, from its claim on. Open while ended_at is null; a job has at most one open run.
create table orch.agent_runs (
    -- The run's name, a UUIDv7 that the claimant made before it sent the claim: also its directory, its cgroup, ORCH_RUN_ID.
    run_id uuid not null,
    -- The job that it tries.
    job_id bigint not null,
    -- Which try of the job, from 1.
    attempt integer not null,
    -- The replica that claimed or adopted it.
    replica_id uuid not null,
    -- The host that it was started on.
    host text,
    -- The boot of that host; pids mean nothing in another.
    boot_id text,
    -- The main process, for people to read.
    pid integer,
    -- When that process started, in clock ticks since the host's boot.
    pid_started bigint,
    -- When it was claimed.
    claimed_at timestamp with time zone not null default clock_timestamp(),
    -- When its program was started; null if it never was.
    spawned_at timestamp with time zone,
    -- When its end was written; null while it is open.
    ended_at timestamp with time zone,
    -- The retry rules at the claim, durations in seconds, so that any replica can settle a dead one's run.
    rules jsonb not null default '{}'::jsonb,
    -- succeeded, failed, transient, timed_out, cancelled, interrupted, lost or spawn_failed.
    outcome text,
    -- The exit status of the main process, if it exited.
    exit_code integer,
    -- The signal that ended the main process, if one did.
    signal integer,
    -- What went wrong, for people.
    error text,
    -- What the run left in ORCH_RESULT_FILE.
    result jsonb,
    -- CPU time of its processes in user mode.
    user_cpu_seconds double precision,
    -- CPU time of its processes in the kernel.
    system_cpu_seconds double precision,
    -- The most memory that was resident.
    peak_memory_bytes bigint,
    -- Bytes of output that were kept.
    log_bytes_kept bigint,
    -- Bytes of output that did not fit between head and tail.
    log_bytes_dropped bigint,
    -- Processes of its tree that had to be killed after the main process ended.
    processes_killed integer,
    -- What held the process tree together: cgroup, pidns or sweep.
    containment text,
    -- Who wrote the end: owner, successor, reap, operator or sanitize.
    closed_by text,
    -- Of a lost run: whether the loss counts towards max_lost; not so soon after an outage of the database. Null for any other.
    lost_counted boolean,
    -- The project of its job.
    project text,
    -- The agent that it runs.
    agent text,
    -- The limits that it holds while it is open: those of its job and of its agent, at the claim.
    limits text[],
    -- No run_id is used twice.
    constraint agent_runs_pkey PRIMARY KEY (run_id),
    -- An ended run says when, how and by whom; an open one says none of these.
    constraint run_is_ended_whole CHECK ((num_nulls(ended_at, outcome, closed_by) = ANY ('{0,3}'::integer[])))
)
with (fillfactor=70, autovacuum_vacuum_threshold=1000, autovacuum_vacuum_scale_factor=0.02, autovacuum_vacuum_insert_scale_factor=0.05, autovacuum_analyze_scale_factor=0.02, autovacuum_vacuum_cost_delay=0);
-- What ended lately.
CREATE INDEX agent_runs_ended ON orch.agent_runs USING btree (ended_at) WHERE (ended_at IS NOT NULL);
-- The history of a job.
CREATE INDEX agent_runs_job ON orch.agent_runs USING btree (job_id);
-- A job is never alive twice: it has at most one open run.
CREATE UNIQUE INDEX agent_runs_one_open_a_job ON orch.agent_runs USING btree (job_id) WHERE (ended_at IS NULL);
-- The running jobs of a replica; jobs itself has no index that knows.
CREATE INDEX agent_runs_open ON orch.agent_runs USING btree (replica_id) WHERE (ended_at IS NULL);
-- The running jobs that hold a limit.
CREATE INDEX agent_runs_open_limits ON orch.agent_runs USING btree (claimed_at) WHERE ((ended_at IS NULL) AND (limits IS NOT NULL));
-- How many jobs of a project, or of its agents, are running.
CREATE INDEX agent_runs_open_project ON orch.agent_runs USING btree (project, agent) WHERE (ended_at IS NULL);
-- What a run says of itself is known.
CREATE TRIGGER agent_runs_guard_run AFTER INSERT OR UPDATE OF attempt, rules, outcome, closed_by, containment ON orch.agent_runs FOR EACH ROW EXECUTE FUNCTION orch.guard_run(); -- always

-- Replicas: one row a boot of an orch process, never used again once dead or left.
create table orch.replicas (
    -- The replica's name, a UUIDv7 made at its boot.
    replica_id uuid not null,
    -- For people: the setting name, else the host's name.
    name text not null,
    -- The host that it runs on.
    host text not null,
    -- The boot of that host.
    boot_id text,
    -- Which state directory it holds: a UUID in the directory, pid namespace, device and inode of the lock file.
    state_dir_id text,
    -- The version of its binary.
    version text,
    -- live; dead: its lease ran out, or its successor said so; left: it went, owning nothing.
    state text not null default 'live'::text,
    -- It claims nothing more. No state: a draining replica that dies is reaped like any other.
    draining boolean not null default false,
    -- The agents that it serves.
    agents text[] not null default '{}'::text[],
    -- Names and values for people and for routing; an object.
    labels jsonb not null default '{}'::jsonb,
    -- Its slots.
    max_concurrency integer not null default 1,
    -- When it registered.
    started_at timestamp with time zone not null default clock_timestamp(),
    -- Until when its runs are its own, by this database's clock alone.
    lease_until timestamp with time zone not null,
    -- No replica_id is used twice.
    constraint replicas_pkey PRIMARY KEY (replica_id),
    -- Labels are a JSON object.
    constraint replica_labels_are_an_object CHECK ((jsonb_typeof(labels) = 'object'::text)),
    -- Slots are counted from 0.
    constraint replica_max_concurrency_is_not_negative CHECK ((max_concurrency >= 0)),
    -- A state is live, dead or left.
    constraint replica_state_is_known CHECK ((state = ANY (ARRAY['live'::text, 'dead'::text, 'left'::text])))
)
with (fillfactor=50, autovacuum_vacuum_threshold=200, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_cost_delay=0);
-- A live replica is not deleted.
CREATE TRIGGER replicas_guard_delete BEFORE DELETE ON orch.replicas FOR EACH ROW WHEN ((old.state = 'live'::text)) EXECUTE FUNCTION orch.guard_replica(); -- always
-- Dead and left are for ever, and who leaves owns nothing.
CREATE TRIGGER replicas_guard_state BEFORE UPDATE ON orch.replicas FOR EACH ROW WHEN ((((old.state <> 'live'::text) AND (new.state <> old.state)) OR ((old.state = 'live'::text) AND (new.state = 'left'::text)) OR (new.replica_id <> old.replica_id))) EXECUTE FUNCTION orch.guard_replica(); -- always
-- Live replicas are not truncated away.
CREATE TRIGGER replicas_guard_truncate BEFORE TRUNCATE ON orch.replicas FOR EACH STATEMENT EXECUTE FUNCTION orch.guard_truncate(); -- always

-- Agents: the rules of each, as the replica that registered it last says. What an agent executes stands in orch.toml alone.
create table orch.agents (
    -- As jobs ask for it.
    name text not null,
    -- Failures at which a job is failed, unless the job says.
    max_attempts integer not null default 3,
    -- After how long a run is ended as timed out, unless the job says; null: never.
    timeout interval,
    -- After how long without output a run is ended as timed out; null: never.
    silence_timeout interval,
    -- The wait after the first failure.
    backoff_base interval not null default '00:00:05'::interval,
    -- What each further wait is multiplied by.
    backoff_factor double precision not null default 2,
    -- The longest wait, before jitter.
    backoff_max interval not null default '01:00:00'::interval,
    -- What becomes of a job whose run was lost: requeue, hold or fail.
    on_lost text not null default 'requeue'::text,
    -- Named caps that every job of this agent needs.
    limits text[],
    -- When these rules last changed.
    updated_at timestamp with time zone not null default clock_timestamp(),
    -- An agent has one set of rules.
    constraint agents_pkey PRIMARY KEY (name),
    -- Waits are more than nothing, do not shrink, and end within 100 years.
    constraint agent_backoff_is_positive_and_finite CHECK (((backoff_base > '00:00:00'::interval) AND (backoff_max >= backoff_base) AND (backoff_max <= '100 years'::interval) AND ((backoff_factor >= (1)::double precision) AND (backoff_factor <= (1000)::double precision)))),
    -- At least one attempt.
    constraint agent_max_attempts_is_positive CHECK ((max_attempts >= 1)),
    -- 1 to 100 letters, digits, dots, underscores and hyphens, a letter or digit first.
    constraint agent_name_is_well_formed CHECK ((name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'::text)),
    -- A lost run has its job requeued, held or failed.
    constraint agent_on_lost_is_known CHECK ((on_lost = ANY (ARRAY['requeue'::text, 'hold'::text, 'fail'::text]))),
    -- More than nothing and at most 100 years.
    constraint agent_silence_timeout_is_positive_and_finite CHECK (((silence_timeout IS NULL) OR ((silence_timeout > '00:00:00'::interval) AND (silence_timeout <= '100 years'::interval)))),
    -- More than nothing and at most 100 years.
    constraint agent_timeout_is_positive_and_finite CHECK (((timeout IS NULL) OR ((timeout > '00:00:00'::interval) AND (timeout <= '100 years'::interval))))
);

-- Projects with rules of their own; one that is not here has the defaults.
create table orch.projects (
    -- As jobs name it.
    name text not null,
    -- One job at a time: jobs enqueued without a gate get the gate project:NAME.
    serial boolean not null default false,
    -- Its share of the slots, against the weights of the other projects.
    weight integer not null default 1,
    -- A project has one set of rules.
    constraint projects_pkey PRIMARY KEY (name),
    -- 1 to 100 letters, digits, dots, underscores and hyphens, a letter or digit first.
    constraint project_name_is_well_formed CHECK ((name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'::text)),
    -- From 1 to a million.
    constraint project_weight_is_positive CHECK (((weight >= 1) AND (weight <= 1000000)))
);

-- One row: which database this is, and the marks of the reaper.
create table orch.meta (
    -- Always true: there is one row.
    only_row boolean not null default true,
    -- The identity of the database cluster; null until the first replica fills it. Another one than the server's: this is a copy.
    system_identifier bigint,
    -- The identity of the database in its cluster; null until the first replica fills it.
    database_oid oid,
    -- The server's timeline at the last tick, as in the names of its WAL files: a change is a failover.
    timeline text,
    -- When some replica's reaper last ticked.
    last_tick_at timestamp with time zone,
    -- Until when nobody is declared dead, because leases look expired after an outage or a failover.
    wait_until timestamp with time zone,
    -- When wait_until was last set: runs lost soon after are not counted against their jobs.
    wait_until_set_at timestamp with time zone,
    -- Which functions, views and triggers were applied last: a hash of their definitions.
    schema_hash text,
    -- There is one row.
    constraint meta_pkey PRIMARY KEY (only_row),
    -- There is one row.
    constraint meta_has_one_row CHECK (only_row)
)
with (fillfactor=10, autovacuum_vacuum_threshold=200, autovacuum_vacuum_scale_factor=0);

-- Totals since the schema was made. In the order of locks they come last.
create table orch.counters (
    -- impossible_queued_total: the sweep's repairs; guard_repairs_total: the trigger's; reaped_total: runs of dead replicas settled as lost.
    name text not null,
    -- How many so far.
    value bigint not null default 0,
    -- A counter has one total.
    constraint counters_pkey PRIMARY KEY (name),
    -- Totals only grow.
    constraint counter_is_not_negative CHECK ((value >= 0))
)
with (fillfactor=10, autovacuum_vacuum_threshold=200, autovacuum_vacuum_scale_factor=0);

-- What operators did and what guards repaired. Ordinary runs have their history in orch.agent_runs: a row a transition would cost a third of the throughput.
create table orch.events (
    -- In the order of arrival.
    id bigint not null generated always as identity,
    -- When.
    at timestamp with time zone not null default clock_timestamp(),
    -- What: cancelled, cancel_requested, retried, held, released, taken (a running job, by a plain UPDATE), guard_repair, impossible_queued and others.
    kind text not null,
    -- The job that it is about, if it is about one.
    job_id bigint,
    -- The run that it is about, if it is about one.
    run_id uuid,
    -- The database user who logged in.
    actor text not null default SESSION_USER,
    -- What was found or changed.
    detail jsonb,
    -- An event has one number.
    constraint events_pkey PRIMARY KEY (id)
);
-- What happened to a job.
CREATE INDEX events_job ON orch.events USING btree (job_id) WHERE (job_id IS NOT NULL);
-- Adds the repairs of a transaction to guard_repairs_total.
CREATE CONSTRAINT TRIGGER events_count_guard_repairs AFTER INSERT ON orch.events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ((new.kind = 'guard_repair'::text)) EXECUTE FUNCTION orch.count_guard_repairs(); -- always

-- Which job was enqueued after which. Kept as long as the job itself; what it still waits for stands in jobs.waits_for.
create table orch.job_dependencies (
    -- The job that waits, or waited.
    job_id bigint not null,
    -- The job that must succeed before. Its row may be gone: finished jobs are removed after keep_finished.
    after_id bigint not null,
    -- A job waits for another once.
    constraint job_dependencies_pkey PRIMARY KEY (job_id, after_id),
    -- A job waits for jobs with smaller numbers alone, so that none waits for itself, by no detour.
    constraint job_waits_for_earlier_ones CHECK ((after_id < job_id))
);
-- Who waits for a job that ended: one probe a settle where nobody does.
CREATE INDEX job_dependencies_after ON orch.job_dependencies USING btree (after_id, job_id);

-- Named caps on running jobs. What is used is counted from the open runs (orch.limit_use); a limit that is not here is open and has no bound.
create table orch.limits (
    -- As jobs and agents name it. Every job needs all, project:NAME and agent:NAME unsaid.
    name text not null,
    -- How many jobs that need it run at the same time; null: any number.
    max_running integer,
    -- Until when no job that needs it starts; infinity: until it is opened. Null: open.
    closed_until timestamp with time zone,
    -- Why it is closed, for people.
    reason text,
    -- Once closed_until has passed, one job tries first, and the others follow when it has ended without closing the limit again. False for a pause: all at once.
    probe boolean not null default true,
    -- When it last changed.
    updated_at timestamp with time zone not null default clock_timestamp(),
    -- A limit has one bound.
    constraint limits_pkey PRIMARY KEY (name),
    -- At least one; to let nothing run, close the limit.
    constraint limit_max_running_is_positive CHECK (((max_running IS NULL) OR (max_running >= 1))),
    -- 1 to 120 letters, digits, dots, underscores, colons, slashes and hyphens, a letter or digit first.
    constraint limit_name_is_well_formed CHECK ((name ~ '^[A-Za-z0-9][A-Za-z0-9._:/-]{0,119}$'::text)),
    -- A reason says why a limit is closed.
    constraint limit_reason_comes_with_closed_until CHECK (((reason IS NULL) OR (closed_until IS NOT NULL)))
)
with (fillfactor=50, autovacuum_vacuum_threshold=200, autovacuum_vacuum_scale_factor=0);

-- The output of runs in chunks, head and tail of each: what lies between the end of one chunk and the position of the next was dropped (log_cap).
create table orch.run_logs (
    -- The run that wrote it.
    run_id uuid not null,
    -- Where the chunk begins in the whole output of the run, in bytes from 0.
    position bigint not null,
    -- When it was stored here.
    at timestamp with time zone not null default clock_timestamp(),
    -- Standard output and standard error as they came, in no encoding, cut anywhere; empty where the end of the output was dropped.
    bytes bytea not null,
    -- Each part of an output is stored once; its chunks are read in this order.
    constraint run_logs_pkey PRIMARY KEY (run_id, "position"),
    -- At most 256 KiB, so that whoever reads or ships a log does it in bounded memory.
    constraint log_chunk_is_bounded CHECK ((octet_length(bytes) <= 262144)),
    -- An output begins at 0.
    constraint log_position_is_not_negative CHECK (("position" >= 0))
)
with (fillfactor=100, autovacuum_vacuum_threshold=1000, autovacuum_vacuum_scale_factor=0.05, autovacuum_vacuum_insert_scale_factor=0.1, autovacuum_analyze_scale_factor=0.1);

-- Wishes that are enqueued again and again. Insert, update and delete rows as you like: a replica computes the next tick within seconds, or says in error why it cannot.
create table orch.schedules (
    -- What it is called; its jobs carry it as the label schedule.
    name text not null,
    -- When it ticks, as clocks in time_zone show it: minute, hour, day of month, month, day of week; with a second before them and a year behind, if you like; or @hourly, @daily, @weekly, @monthly, @yearly.
    cron text,
    -- Or: so long after one another, counted from anchor_at, whatever the clocks on the walls do. Days are 24 hours.
    every interval,
    -- What every is counted from; no tick is before it.
    anchor_at timestamp with time zone not null default date_trunc('second'::text, clock_timestamp()),
    -- Whose clocks cron means: a name of the IANA database.
    time_zone text not null default 'UTC'::text,
    -- What becomes of ticks that were missed, because no replica lived or reached the database: skip, one (the latest stands for all), all (the latest catch_up_max of them).
    catch_up text not null default 'one'::text,
    -- How many of the missed ticks fire with catch_up = all.
    catch_up_max integer not null default 100,
    -- A tick that is late by more than this was missed; one that is late by less always fires.
    grace interval not null default '00:01:00'::interval,
    -- What becomes of a tick while the job of the one before is live: skip, queue (its job runs after that one), replace (that one is cancelled, and its job runs once it has ended).
    overlap text not null default 'skip'::text,
    -- It does not tick. What falls into a pause is not made up for.
    paused boolean not null default false,
    -- The next tick; while not planned, when a replica computes it. Null: it never ticks again.
    next_tick_at timestamp with time zone default clock_timestamp(),
    -- The latest tick that was fired, skipped or refused.
    last_tick_at timestamp with time zone,
    -- What became of it: fired, skipped (its predecessor was live), refused (see error).
    last_answer text,
    -- The job that was enqueued last, by a tick or by orch.run_schedule.
    last_job_id bigint,
    -- Ticks that were left out because of overlap.
    skipped bigint not null default 0,
    -- Why it cannot be read, or why the database refused the job of the last tick; tried again at the next.
    error text,
    -- What is to run.
    agent text not null,
    -- For whom.
    project text not null default 'default'::text,
    -- Higher first, from -32768 to 32767.
    priority integer not null default 0,
    -- Of jobs with one gate only one runs at a time. Null: project:NAME where the project is serial, else schedule:NAME with overlap queue and replace.
    gate text,
    -- Named limits that its jobs need, beside those of the agent.
    limits text[],
    -- For people; schedule and tick are added to them.
    labels jsonb,
    -- Labels that the replica of its jobs must have.
    require jsonb,
    -- Counted failures after which a job of it is failed; null: the agent's.
    max_attempts integer,
    -- After how long a run of its jobs is ended; null: the agent's.
    timeout interval,
    -- Under this key of the payload a job is told its tick, RFC 3339 in UTC; null: it is not told.
    tick_key text,
    -- Whether next_tick_at is a tick.
    planned boolean not null default false,
    -- Ticks are counted from here on: when it was made, changed or resumed.
    base_at timestamp with time zone not null default clock_timestamp(),
    -- Counts changes of what it ticks by; a replica that read an earlier one is not heard.
    revision bigint not null default 1,
    -- When it was made.
    created_at timestamp with time zone not null default clock_timestamp(),
    -- With what.
    payload jsonb not null default '{}'::jsonb,
    -- A schedule is known by its name.
    constraint schedules_pkey PRIMARY KEY (name),
    -- skip, one or all.
    constraint schedule_catch_up_is_known CHECK ((catch_up = ANY (ARRAY['skip'::text, 'one'::text, 'all'::text]))),
    -- From 1 to 1000, so that an outage does not flood the queue.
    constraint schedule_catch_up_max_is_bounded CHECK (((catch_up_max >= 1) AND (catch_up_max <= 1000))),
    -- 1 to 200 bytes.
    constraint schedule_cron_is_short CHECK (((octet_length(cron) >= 1) AND (octet_length(cron) <= 200))),
    -- From ten seconds, which a replica may take to look, to a day.
    constraint schedule_grace_is_bounded CHECK (((grace >= '00:00:10'::interval) AND (grace <= '1 day'::interval))),
    -- Either cron or every.
    constraint schedule_has_one_rhythm CHECK ((num_nonnulls(cron, every) = 1)),
    -- From a second to ten years, in days, hours and less: months are not all of one length, which is what cron is for.
    constraint schedule_interval_is_exact_and_at_least_a_second CHECK (((every IS NULL) OR ((EXTRACT(year FROM every) = (0)::numeric) AND (EXTRACT(month FROM every) = (0)::numeric) AND ((every >= '00:00:01'::interval) AND (every <= '3650 days'::interval))))),
    -- 1 to 100 letters, digits, dots, underscores and hyphens, a letter or digit first.
    constraint schedule_name_is_well_formed CHECK ((name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'::text)),
    -- skip, queue or replace.
    constraint schedule_overlap_is_known CHECK ((overlap = ANY (ARRAY['skip'::text, 'queue'::text, 'replace'::text]))),
    -- Only an object has keys; 1 to 200 bytes.
    constraint schedule_tick_key_goes_into_an_object CHECK (((tick_key IS NULL) OR (((octet_length(tick_key) >= 1) AND (octet_length(tick_key) <= 200)) AND (jsonb_typeof(payload) = 'object'::text)))),
    -- From 1970 to 9998: what every reader can take.
    constraint schedule_times_are_finite CHECK ((COALESCE(((anchor_at >= '1970-01-01 00:00:00+00'::timestamp with time zone) AND (anchor_at <= '9998-12-31 00:00:00+00'::timestamp with time zone)), true) AND COALESCE(((next_tick_at >= '1970-01-01 00:00:00+00'::timestamp with time zone) AND (next_tick_at <= '9998-12-31 00:00:00+00'::timestamp with time zone)), true) AND ((base_at >= '1970-01-01 00:00:00+00'::timestamp with time zone) AND (base_at <= '9998-12-31 00:00:00+00'::timestamp with time zone))))
)
with (fillfactor=70, autovacuum_vacuum_threshold=500, autovacuum_vacuum_scale_factor=0.1);
-- What a replica looks for every few seconds: what is due, and what will be next.
CREATE INDEX schedules_due ON orch.schedules USING btree (next_tick_at) WHERE (NOT paused);
-- What is no schedule is refused in words.
CREATE TRIGGER schedules_guard_insert BEFORE INSERT ON orch.schedules FOR EACH ROW EXECUTE FUNCTION orch.guard_schedule(); -- always
-- What is no schedule any more is refused, and the next tick is computed anew where it may have changed.
CREATE TRIGGER schedules_guard_update BEFORE UPDATE ON orch.schedules FOR EACH ROW WHEN ((((((((((((((((((((((old.name IS DISTINCT FROM new.name) OR (old.cron IS DISTINCT FROM new.cron)) OR (old.every IS DISTINCT FROM new.every)) OR (old.anchor_at IS DISTINCT FROM new.anchor_at)) OR (old.time_zone IS DISTINCT FROM new.time_zone)) OR (old.catch_up IS DISTINCT FROM new.catch_up)) OR (old.catch_up_max IS DISTINCT FROM new.catch_up_max)) OR (old.grace IS DISTINCT FROM new.grace)) OR (old.overlap IS DISTINCT FROM new.overlap)) OR (old.paused IS DISTINCT FROM new.paused)) OR (old.agent IS DISTINCT FROM new.agent)) OR (old.payload IS DISTINCT FROM new.payload)) OR (old.project IS DISTINCT FROM new.project)) OR (old.priority IS DISTINCT FROM new.priority)) OR (old.gate IS DISTINCT FROM new.gate)) OR (old.limits IS DISTINCT FROM new.limits)) OR (old.labels IS DISTINCT FROM new.labels)) OR (old.require IS DISTINCT FROM new.require)) OR (old.max_attempts IS DISTINCT FROM new.max_attempts)) OR (old.timeout IS DISTINCT FROM new.timeout)) OR (old.tick_key IS DISTINCT FROM new.tick_key))) EXECUTE FUNCTION orch.guard_schedule(); -- always

-- The migrations that were applied, written by orch migrate.
create table orch.schema_history (
    -- Its number.
    version integer not null,
    -- What it does.
    name character varying(255),
    -- When it was applied, RFC 3339.
    applied_on character varying(255),
    -- Of its text, so that a changed one is noticed.
    checksum character varying(255),
    -- A migration is applied once.
    constraint schema_history_pkey PRIMARY KEY (version)
);

-- The replicas that claim, and how many slots each has free.
view orch.free_slots (
    -- The row.
    replica orch.replicas,
    -- The replica.
    replica_id uuid,
    -- Its name.
    name text,
    -- Where it runs.
    host text,
    -- The agents that it serves.
    agents text[],
    -- Its labels.
    labels jsonb,
    -- Its slots.
    max_concurrency integer,
    -- Its open runs.
    running bigint,
    -- How many more it takes: its slots, less its open runs and the old processes of jobs that were taken from it. Below 0 where these are more.
    free bigint
);

-- Rows that carry an owner although they do not run; empty while the guards hold.
view orch.impossible_queued (
    -- The job's number.
    job_id bigint,
    -- What it says of itself.
    status text,
    -- The run that it carries.
    run_id uuid,
    -- The pid that it carries; whoever has it now has nothing to do with the job.
    pid integer,
    -- The owner that it carries.
    replica_id uuid,
    -- Since when, by what it carries.
    started_at timestamp with time zone,
    -- The gate that it keeps from others.
    running_gate text
);

-- The lanes of the queue: a row for jobs of one project that wait for the same things.
view orch.lanes (
    -- Their project.
    project text,
    -- The lane, as in orch.jobs.
    lane bigint,
    -- The first of them.
    head bigint,
    -- When that is, or was, due.
    run_at timestamp with time zone,
    -- What they run.
    agent text,
    -- Their priority.
    priority smallint,
    -- The gate that each needs.
    gate text,
    -- The limits that each needs, beside those of the agent.
    limits text[],
    -- Labels that their replica must have.
    require jsonb,
    -- How many of them are due.
    due bigint,
    -- How many are not.
    not_due bigint
);

-- Who holds which limit: one row a limit and a run.
view orch.limit_holders (
    -- The limit.
    name text,
    -- The run that holds it.
    run_id uuid,
    -- Its job.
    job_id bigint,
    -- The replica that has it.
    replica_id uuid,
    -- Where it runs.
    host text,
    -- Since when.
    claimed_at timestamp with time zone
);

-- Each limit, what is used of it, and how much room is left.
view orch.limit_use (
    -- The limit.
    name text,
    -- How many jobs that need it run at the same time; null: any number.
    max_running integer,
    -- How many runs hold it.
    running integer,
    -- Until when it is, or was, closed; null: it is open.
    closed_until timestamp with time zone,
    -- Why it was closed.
    reason text,
    -- closed_until has passed, and one job tries whether it may be opened.
    probing boolean,
    -- How many more jobs may start; null: any number.
    room integer
);

-- Counts by project, agent and status.
view orch.queue (
    -- The project.
    project text,
    -- The agent.
    agent text,
    -- The status.
    status text,
    -- How many jobs of this project and agent have it.
    jobs bigint,
    -- How many of them are queued, past their run_at, and wait for no other job.
    due bigint,
    -- When the first of the queued ones is, or was, due.
    next_run_at timestamp with time zone
);

-- Every running job: run, pid, host, replica, age, lease left, output age.
view orch.running (
    -- The job's number.
    job_id bigint,
    -- Its project.
    project text,
    -- What it runs.
    agent text,
    -- The run that is going on.
    run_id uuid,
    -- Which try it is.
    attempt integer,
    -- The main process on that host; null until it exists.
    pid integer,
    -- What holds the process tree together.
    containment text,
    -- Where it runs.
    host text,
    -- The name of the replica that owns it.
    replica text,
    -- The replica that owns it.
    replica_id uuid,
    -- Whether that replica is live, dead or has left.
    replica_state text,
    -- Since its claim.
    age interval,
    -- For how long the replica may still call it its own, unless it renews; negative once the lease has run out.
    lease_left interval,
    -- Since when somebody wants it cancelled.
    cancel_requested_at timestamp with time zone,
    -- Since its last output arrived here, or, where there was none yet, since its program was started; null until then. A long one is no proof of anything: silence_timeout of the agent ends what is silent for too long.
    output_age interval
);

-- The gates that are taken, and by which run.
view orch.taken_gates (
    -- The gate.
    gate text,
    -- The job that keeps it.
    job_id bigint,
    -- Its run; of a job that was taken from its replica, the one whose process is being ended.
    run_id uuid,
    -- The replica that has the process.
    replica_id uuid,
    -- When that run was claimed.
    since timestamp with time zone
);

-- Every invariant as a query; empty while all hold.
view orch.violations (
    -- Which one is broken.
    invariant text,
    -- By what: the number of a job, the run_id of a run, or the key that is there twice.
    what text
);

-- Every job that waits, and why. One job, with all that is to be known: select * from orch.why(job_id).
view orch.waiting (
    -- The job's number.
    job_id bigint,
    -- Its project.
    project text,
    -- What it is to run.
    agent text,
    -- What it waits for: the first of held, old_process_ending, waits_for_jobs, not_due, paused, no_replica_serves_agent, no_replica_matches_labels, serial_gate, limit_closed, limit_full, no_free_slot, fair_share; or next.
    reason text,
    -- Since when it waits.
    since timestamp with time zone,
    -- Until when, where that is known; infinity: until somebody ends it.
    until timestamp with time zone,
    -- The limit, the gate, the labels, the jobs or the old process that it waits for, who held it or what its last run said, or how many are ahead of it.
    detail text
);

-- What keeps the due jobs of each lane from running, if anything does.
view orch.waiting_lanes (
    -- As in orch.lanes.
    project text,
    -- As in orch.lanes.
    lane bigint,
    -- As in orch.lanes.
    head bigint,
    -- As in orch.lanes.
    run_at timestamp with time zone,
    -- As in orch.lanes.
    agent text,
    -- As in orch.lanes.
    priority smallint,
    -- As in orch.lanes.
    gate text,
    -- As in orch.lanes.
    limits text[],
    -- As in orch.lanes.
    require jsonb,
    -- As in orch.lanes.
    due bigint,
    -- As in orch.lanes.
    not_due bigint,
    -- The limits that each of its jobs needs.
    needs text[],
    -- One of them that is paused, closed or full.
    shut_limit text,
    -- Until when that one is closed.
    closed_until timestamp with time zone,
    -- What keeps its due jobs from running; null: nothing does.
    reason text,
    -- The same where serial_gate_enabled is off.
    reason_without_gates text,
    -- Where nothing does: what those of them wait for that orch.claim_order does not name. With a gate, serial_gate.
    rest text,
    -- The limit of which they find no room left.
    rest_limit text
);

-- What a step of priority is worth: an hour of waiting. So nothing waits for ever behind higher priorities.
function orch.ageing()
    returns interval;

-- Begins or ends a replica's wait for a wake-up, in its listening session.
function orch.await_wake(replica_id uuid, waits boolean)
    returns boolean;

-- Cancels a waiting job, or asks its replica to end a running one. Returns the status: cancelled, or still running.
function orch.cancel(job_id bigint)
    returns text;

-- Cancels the jobs that wait for a cancelled one, as far as nobody else has them in hands.
function orch.cancel_dependents(job_id bigint)
    returns void;

-- The jobs near the head of the queue that nothing keeps from running, in what relation to the claims that take them.
function orch.claim_order(serial_gate boolean DEFAULT true, deep boolean DEFAULT true)
    returns TABLE(job_id bigint, project text, lane bigint, reason text, ahead_of_it bigint, because_of text, replicas uuid[]);

-- What orch.claim_order says, of at most so many lanes and of one's own, and whether more may be ahead.
function orch.claim_places(serial_gate boolean, deep boolean, most integer, own_project text, own_lane bigint)
    returns TABLE(job_id bigint, project text, lane bigint, reason text, ahead_of_it bigint, at_least boolean, because_of text, replicas uuid[], class bigint, classes bigint[], ranks bigint[], aheads bigint[]);

-- Lets no job start that needs the limit, until a time (infinity: until it is opened); then one job probes whether it may be opened.
function orch.close_limit(name text, until timestamp with time zone DEFAULT 'infinity'::timestamp with time zone, reason text DEFAULT NULL::text)
    returns boolean;

-- What orch.close_limit and orch.pause have in common.
function orch.close_until(name text, until timestamp with time zone, reason text, probe boolean)
    returns boolean;

-- Adds the repairs of a transaction to guard_repairs_total, at its end.
function orch.count_guard_repairs()
    returns trigger;

-- The numbers that an item of a cron expression names; null where it is not made of numbers.
function orch.cron_numbers(field text, low integer, high integer)
    returns integer[];

-- Sets what follows from a job's status, where a statement did not.
function orch.derive_helpers(new orch.jobs)
    returns orch.jobs;

-- How many letters lie between two words.
function orch.distance(a text, b text)
    returns integer;

-- Removes a limit that no agent names and no job waits or runs with.
function orch.drop_limit(name text)
    returns boolean;

-- Enqueues one job in the caller's own transaction and returns its number.
function orch.enqueue(agent text, payload jsonb DEFAULT '{}'::jsonb, project text DEFAULT 'default'::text, priority integer DEFAULT 0, run_at timestamp with time zone DEFAULT now(), gate text DEFAULT NULL::text, limits text[] DEFAULT NULL::text[], labels jsonb DEFAULT NULL::jsonb, require jsonb DEFAULT NULL::jsonb, dedupe_key text DEFAULT NULL::text, on_conflict text DEFAULT NULL::text, after bigint[] DEFAULT NULL::bigint[], max_attempts integer DEFAULT NULL::integer, timeout interval DEFAULT NULL::interval)
    returns bigint;

-- Enqueues a job that wishes for more than most, for orch.enqueue.
function orch.enqueue_at_length(agent text, payload jsonb, project text, priority integer, run_at timestamp with time zone, gate text, limits text[], labels jsonb, require jsonb, dedupe_key text, on_conflict text, after bigint[], max_attempts integer, timeout interval)
    returns bigint;

-- Enqueues an array of jobs, all or nothing; returns their numbers in order.
function orch.enqueue_many(wishes jsonb)
    returns SETOF bigint;

-- Enqueues a piece of a bulk, or says which element is the first bad one, why, and which other one has its key.
function orch.enqueue_piece(wishes text, OUT ids bigint[], OUT place bigint, OUT code text, OUT complaint text, OUT twin bigint, OUT twin_job bigint)
    returns record;

-- Enqueues the job of a tick, as the schedule's overlap policy wants it; waits for no lock.
function orch.enqueue_tick(s orch.schedules, tick_at timestamp with time zone, OUT answer text, OUT job_id bigint)
    returns record;

-- Enqueues an array of jobs, or says which element is the first bad one and why.
function orch.enqueue_wishes(wishes jsonb, OUT ids bigint[], OUT place bigint, OUT code text, OUT complaint text)
    returns record;

-- The live replicas, and what keeps each from a job of this agent, as JSON.
function orch.facts_of_fleet(agent text, require jsonb)
    returns jsonb;

-- A gate and who keeps it, as JSON.
function orch.facts_of_gate(gate text)
    returns jsonb;

-- A run and where it is, as JSON.
function orch.facts_of_holder(run_id uuid)
    returns jsonb;

-- A limit and who holds it, as JSON.
function orch.facts_of_limit(name text)
    returns jsonb;

-- Where a job stands among those that nothing keeps from running, and which come first, as JSON.
function orch.facts_of_place(job orch.jobs, serial_gate boolean, seen integer, OUT reason text, OUT because_of text, OUT facts jsonb)
    returns record;

-- The jobs for which a job waits, as JSON.
function orch.facts_of_predecessors(job orch.jobs)
    returns jsonb;

-- What a job does that runs, or how it ended, as JSON.
function orch.facts_of_run(job orch.jobs)
    returns jsonb;

-- The last runs of a job, as JSON.
function orch.facts_of_runs(job_id bigint)
    returns jsonb;

-- Who keeps the slots of the replicas that may take a job of this agent, as JSON.
function orch.facts_of_slots(agent text, require jsonb)
    returns jsonb;

-- What a waiting job waits for, as JSON.
function orch.facts_of_wait(job orch.jobs, reason text, because_of text)
    returns jsonb;

-- Says in words why a job cannot be enqueued after these; nulls where it can.
function orch.fault_of_after(after bigint[], OUT code text, OUT complaint text)
    returns record;

-- Says in words why a text is no cron expression, or never ticks; null where it is one that does, or null.
function orch.fault_of_cron(cron text, shown timestamp without time zone)
    returns text;

-- Says in words why a wish is refused whose dedupe_key a live job has; nulls where it is not.
function orch.fault_of_key(dedupe_key text, on_conflict text, after bigint[], job_id bigint, job_status text, OUT code text, OUT complaint text)
    returns record;

-- The first element of enqueue_many's array that is refused because of its dedupe_key; nulls where none is.
function orch.fault_of_keys(wishes jsonb, OUT place bigint, OUT code text, OUT complaint text)
    returns record;

-- Says in words why a name cannot be a limit's; null where it can.
function orch.fault_of_limit_name(name text)
    returns text;

-- Says in words what is wrong with the limits that a job is to need; null where nothing is.
function orch.fault_of_limits(limits text[])
    returns text;

-- Says in words which element of enqueue_many's array cannot be enqueued, the first of them; nulls where all can.
function orch.fault_of_many(wishes jsonb, OUT place bigint, OUT code text, OUT complaint text)
    returns record;

-- Says in words why something is no schedule, as far as the database can; null where it may be one.
function orch.fault_of_rhythm(name text, cron text, every interval, time_zone text, catch_up text, catch_up_max integer, grace interval, overlap text)
    returns text;

-- The first element of enqueue_many's array that has not the shape of a wish.
function orch.fault_of_shape(wishes jsonb)
    returns TABLE(place bigint, complaint text);

-- Says in words why a wish is no job; null where it is one.
function orch.fault_of_wish(agent text, payload jsonb, project text, priority integer, run_at timestamp with time zone, gate text, limits text[], labels jsonb, require jsonb, dedupe_key text, on_conflict text, after bigint[], max_attempts integer, timeout interval, OUT code text, OUT complaint text)
    returns record;

-- Says in words which element of enqueue_many's array is the first bad one; nulls where none is.
function orch.fault_of_wishes(wishes jsonb, OUT place bigint, OUT code text, OUT complaint text)
    returns record;

-- Says in words why there is no such time zone; null where there is.
function orch.fault_of_zone(time_zone text)
    returns text;

-- Fires ticks that a replica has computed, each once: job and next tick in one transaction.
function orch.fire_ticks(names text[], revisions bigint[], seen timestamp with time zone[], ticks timestamp with time zone[], nexts timestamp with time zone[], left_out timestamp with time zone[], errors text[])
    returns TABLE(name text, tick_at timestamp with time zone, answer text, job_id bigint, error text);

-- The first element of enqueue_many's array that is no job, where all can be read.
function orch.first_fault(wishes jsonb)
    returns TABLE(place bigint, code text, complaint text);

-- The gate of a serial project's jobs; null elsewhere.
function orch.gate_of(project text)
    returns text;

-- Refuses a job with times or counts out of bounds (SQLSTATE 23514).
function orch.guard_bounds(new orch.jobs)
    returns void;

-- A running job is not deleted (SQLSTATE OR001).
function orch.guard_delete()
    returns trigger;

-- Refuses a job whose names, sizes or numbers are not well formed (SQLSTATE 23514), and sets its lane.
function orch.guard_format()
    returns trigger;

-- Refuses illegal transitions of a job, nulls the owner of one that does not run, and sets what follows from its status.
function orch.guard_job()
    returns trigger;

-- Nulls the owner of a row that does not run, and counts it as a repair.
function orch.guard_owner(new orch.jobs)
    returns orch.jobs;

-- Dead is for ever, a live replica is not deleted, and one that leaves owns nothing (SQLSTATE OR006).
function orch.guard_replica()
    returns trigger;

-- Refuses a run whose attempt, rules, outcome, closed_by or containment are not known (SQLSTATE 23514).
function orch.guard_run()
    returns trigger;

-- Refuses what is no schedule, in words (SQLSTATE OR004), and has the next tick computed anew where it may have changed.
function orch.guard_schedule()
    returns trigger;

-- Refuses illegal transitions (SQLSTATE OR001); takes a running job from its owner where an operator sets it to queued or held.
function orch.guard_transition(old orch.jobs, new orch.jobs)
    returns orch.jobs;

-- What runs is not truncated away (SQLSTATE OR001, OR006).
function orch.guard_truncate()
    returns trigger;

-- Whether an element of enqueue_many's array has the keys and JSON types of a wish.
function orch.has_shape(wish jsonb)
    returns boolean;

-- Listens on a replica's channel, in its listening session.
function orch.hear(replica_id uuid)
    returns void;

-- Keeps a queued job back until it is released.
function orch.hold(job_id bigint)
    returns text;

-- Locks those of these gates that no other claim has locked, and says which of them are free.
function orch.hold_gates(gates text[])
    returns SETOF text;

-- Locks those of these limits that have room, and says how much; what another claim has locked has none.
function orch.hold_limits(names text[])
    returns TABLE(name text, room integer, busy boolean);

-- Who held a job and when, unless a rule holds it.
function orch.hold_of(job orch.jobs)
    returns TABLE(held_at timestamp with time zone, held_by text);

-- Whether every job, or every job of a project or an agent, needs this limit unsaid.
function orch.is_unsaid_limit(name text)
    returns boolean;

-- Whether a replica has said, in its listening session, that it waits for a wake-up.
function orch.is_waiting(replica_id text)
    returns boolean;

-- Whether this is the name of a place with a time zone, to the letter.
function orch.is_zone(name text)
    returns boolean;

-- What keeps the due jobs of lanes from running, if anything does: of all lanes, or of some and one's own.
function orch.judged_lanes(most integer DEFAULT NULL::integer, own_project text DEFAULT NULL::text, own_lane bigint DEFAULT NULL::bigint)
    returns TABLE(project text, lane bigint, head bigint, run_at timestamp with time zone, agent text, priority smallint, gate text, limits text[], require jsonb, needs text[], shut_limit text, closed_until timestamp with time zone, reason text, reason_without_gates text, rest text, rest_limit text);

-- Keeps these limits from being dropped until the transaction ends.
function orch.keep_limits(names text[])
    returns void;

-- The lane of a job: what is alike for a claim has the same one, the higher priority the smaller.
function orch.lane_of(priority smallint, agent text, gate text, limits text[], require jsonb)
    returns bigint;

-- What a result that comes after its run was reaped makes of the job; null: nothing.
function orch.late_rule(was text, on_lost text, key_taken boolean, next text)
    returns text;

-- The first of these jobs that was enqueued, by whatever detour, after the target.
function orch.leads_to(after bigint[], target bigint)
    returns bigint;

-- Locks a schedule and returns it (SQLSTATE OR005 if there is none).
function orch.locked_schedule(name text)
    returns orch.schedules;

-- Locks a job and returns its status (SQLSTATE OR005 if there is none).
function orch.locked_status(job_id bigint)
    returns text;

-- The limits that a job needs: all, project:NAME, agent:NAME, its own and those of its agent.
function orch.needs(project text, agent text, limits text[], agent_limits text[])
    returns text[];

-- Opens a closed limit at once, without a probe.
function orch.open_limit(name text)
    returns boolean;

-- What orch.open_limit and orch.resume have in common.
function orch.open_now(name text, kind text)
    returns boolean;

-- What keeps a job by itself from running: held, old_process_ending, waits_for_jobs or not_due.
function orch.own_wait(job orch.jobs)
    returns text;

-- Starts nothing more of all, project:NAME or agent:NAME, until a time (infinity: until orch.resume); what runs goes on.
function orch.pause(what text, until timestamp with time zone DEFAULT 'infinity'::timestamp with time zone, reason text DEFAULT NULL::text)
    returns boolean;

-- Keeps a schedule from ticking until it is resumed; what falls into the pause is not made up for.
function orch.pause_schedule(name text)
    returns boolean;

-- Where a job stands among those of its project: the earlier first, then the smaller id.
function orch.place_of(priority smallint, run_at timestamp with time zone)
    returns timestamp with time zone;

-- Refuses a job that is not well formed, and says what is not, for guard_format.
function orch.refuse_malformed(job orch.jobs)
    returns void;

-- Lets a held job go; it is due at its run_at. What led to the hold is counted anew.
function orch.release(job_id bigint)
    returns text;

-- Lets jobs go whose predecessors have succeeded, and cancels those of which one has not; repeating it is harmless.
function orch.resolve_waits(ended bigint[], waiting bigint[], most integer, OUT released bigint, OUT cancelled bigint[], OUT shortened bigint[], OUT more boolean)
    returns record;

-- Lets what orch.pause stopped start again, at once.
function orch.resume(what text)
    returns boolean;

-- Lets a schedule tick again, from now on.
function orch.resume_schedule(name text)
    returns boolean;

-- Queues a finished job again; counts, error and result are reset, attempt goes on.
function orch.retry(job_id bigint)
    returns text;

-- Enqueues a job of a schedule now and returns its number; its ticks stay as they are.
function orch.run_schedule(name text)
    returns bigint;

-- Whether a replica takes jobs of this agent that require these labels: it is live, not draining, serves the agent and has the labels.
function orch.serves(replica orch.replicas, agent text, require jsonb)
    returns boolean;

-- Makes a limit, or changes how many jobs that need it run at the same time (null: any number).
function orch.set_limit(name text, max_running integer DEFAULT NULL::integer)
    returns boolean;

-- Gives a project a weight, or has its jobs run one at a time; null leaves a rule as it is. Of what waits already nothing changes its gate.
function orch.set_project(name text, weight integer DEFAULT NULL::integer, serial boolean DEFAULT NULL::boolean)
    returns boolean;

-- What follows for a job from how its run ended: the table of settling, as one function of facts.
function orch.settle_rule(outcome text, cancel_pending boolean, failures integer, lost_count integer, transient_count integer, interrupted_count integer, rules jsonb, lasted double precision, retry_at timestamp with time zone, jitter double precision, after_outage boolean)
    returns TABLE(next_status text, next_run_at timestamp with time zone, next_failures integer, next_lost_count integer, next_transient_count integer, next_interrupted_count integer, verdict text);

-- A span in its largest two units.
function orch.short(span interval)
    returns text;

-- A time, for people.
function orch.short_instant(at timestamp with time zone)
    returns text;

-- Until when, for people.
function orch.short_time(at timestamp with time zone)
    returns text;

-- Limits as a job's row has them: sorted, each once, null for none.
function orch.sorted_limits(limits text[])
    returns text[];

-- What orch.pause_schedule and orch.resume_schedule have in common.
function orch.turn_schedule(name text, pause boolean)
    returns boolean;

-- Those of these jobs that have not succeeded; null where all have.
function orch.unfinished(after bigint[])
    returns bigint[];

-- The complaint about a limit without a row, with the nearest name.
function orch.unknown_limit(name text)
    returns text;

-- Why a text is nothing that jsonb can hold; null where it is.
function orch.unreadable(document text)
    returns text;

-- What a job waits for that waits by itself, in a word or two.
function orch.waits_detail(job orch.jobs, reason text)
    returns text;

-- Since when a job waits: since it was held, its last run ended, or it was enqueued.
function orch.waits_since(job orch.jobs)
    returns timestamp with time zone;

-- Until when a job waits by itself, where that is known; infinity: until somebody releases it.
function orch.waits_until(job orch.jobs, reason text)
    returns timestamp with time zone;

-- Wakes replicas that wait for a job, as orch.enqueue does by itself. For whoever inserts into orch.jobs by hand.
function orch.wake(agent text DEFAULT NULL::text, require jsonb DEFAULT NULL::jsonb, replicas integer DEFAULT 1)
    returns integer;

-- The heads of lanes, in the order in which a claim looks at them; at most so many, and so many of one project.
function orch.walk_lanes(most integer DEFAULT NULL::integer, of_one_project integer DEFAULT NULL::integer, start text DEFAULT ''::text)
    returns TABLE(project text, lane bigint, head bigint, run_at timestamp with time zone, agent text, priority smallint, gate text, limits text[], require jsonb);

-- Why a job waits, runs or has ended: the reason, a sentence, what would unblock it, and the facts.
function orch.why(INOUT job_id bigint, serial_gate boolean DEFAULT true, OUT status text, OUT reason text, OUT since timestamp with time zone, OUT until timestamp with time zone, OUT sentence text, OUT unblock text, OUT detail jsonb)
    returns record;

-- The elements of enqueue_many's array before one of them.
function orch.wishes_before(wishes jsonb, place bigint)
    returns jsonb;

-- The elements of enqueue_many's array as the parameters of orch.enqueue.
function orch.wishes_of(wishes jsonb)
    returns TABLE(place bigint, agent text, payload jsonb, project text, priority integer, run_at timestamp with time zone, gate text, limits text[], labels jsonb, require jsonb, dedupe_key text, on_conflict text, after bigint[], max_attempts integer, timeout interval);

-- What would have the first of these runs let go of what it keeps, in words.
function orch.words_of_end(holders jsonb)
    returns text;

-- Replicas and their slots, in words.
function orch.words_of_fleet(fleet jsonb, serving boolean)
    returns text;

-- A run and where it is, in words.
function orch.words_of_holder(holder jsonb)
    returns text;

-- Runs and where they are, in words.
function orch.words_of_holders(holders jsonb)
    returns text;

-- Jobs and what they wait for, in words.
function orch.words_of_jobs(jobs jsonb)
    returns text;

-- How many jobs are ahead of one, in words.
function orch.words_of_queue(ahead bigint)
    returns text;

-- What a running job does, or how one ended, in words.
function orch.words_of_run(job orch.jobs, facts jsonb, OUT sentence text, OUT unblock text)
    returns record;

-- What a waiting job waits for and what would let it run, in words.
function orch.words_of_wait(job orch.jobs, reason text, until timestamp with time zone, facts jsonb, OUT sentence text, OUT unblock text)
    returns record;
