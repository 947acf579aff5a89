-- Create orch.agent_runs: the history of runs, and the index by which running jobs are found.
--
-- Why: a job's row says only what is true now; each try leaves its row here, from the claim on.
-- Lock: none that matters; the table is new.
-- The binary before: there is none.
-- Undo by hand: drop table orch.agent_runs;
--
-- There is no foreign key to jobs or replicas: the claim writes job and run in one statement, the check would lock the
-- job's row once more for each, and what a foreign key would refuse (a run without its job) the sanitizer closes.
set local lock_timeout = '5s';

create table orch.agent_runs (
    run_id              uuid        not null,
    job_id              bigint      not null,
    attempt             integer     not null,
    replica_id          uuid        not null,
    host                text,
    boot_id             text,
    pid                 integer,
    pid_started         bigint,
    claimed_at          timestamptz not null default clock_timestamp(),
    spawned_at          timestamptz,
    ended_at            timestamptz,
    rules               jsonb       not null default '{}',
    outcome             text,
    exit_code           integer,
    signal              integer,
    error               text,
    result              jsonb,
    user_cpu_seconds    double precision,
    system_cpu_seconds  double precision,
    peak_memory_bytes   bigint,
    log_bytes_kept      bigint,
    log_bytes_dropped   bigint,
    processes_killed    integer,
    containment         text,
    closed_by           text,

    constraint agent_runs_pkey primary key (run_id),
    constraint run_is_ended_whole check (
        num_nulls(ended_at, outcome, closed_by) in (0, 3)),
    constraint run_outcome_is_known check (
        outcome in ('succeeded', 'failed', 'transient', 'timed_out', 'cancelled', 'interrupted', 'lost', 'spawn_failed')),
    constraint run_closed_by_is_known check (
        closed_by in ('owner', 'successor', 'reap', 'operator', 'sanitize')),
    constraint run_containment_is_known check (
        containment in ('cgroup', 'pidns', 'sweep')),
    constraint run_attempt_is_positive check (
        attempt >= 1),
    constraint run_rules_are_an_object check (
        jsonb_typeof(rules) = 'object')
)
-- A run is written three times: claim, stamp (HOT, if its page has room), end (never HOT: it leaves the open ones).
with (
    fillfactor = 70,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);

create unique index agent_runs_one_open_a_job on orch.agent_runs (job_id) where ended_at is null;
create index agent_runs_open on orch.agent_runs (replica_id) where ended_at is null;
create index agent_runs_job on orch.agent_runs (job_id);
create index agent_runs_ended on orch.agent_runs (ended_at) where ended_at is not null;

comment on table orch.agent_runs is
    'Runs: one row a try of a job, from its claim on. Open while ended_at is null; a job has at most one open run.';

comment on column orch.agent_runs.run_id is 'The run''s name, a UUIDv7 that the claimant made before it sent the claim: also its directory, its cgroup, ORCH_RUN_ID.';
comment on column orch.agent_runs.job_id is 'The job that it tries.';
comment on column orch.agent_runs.attempt is 'Which try of the job, from 1.';
comment on column orch.agent_runs.replica_id is 'The replica that claimed or adopted it.';
comment on column orch.agent_runs.host is 'The host that it was started on.';
comment on column orch.agent_runs.boot_id is 'The boot of that host; pids mean nothing in another.';
comment on column orch.agent_runs.pid is 'The main process, for people to read.';
comment on column orch.agent_runs.pid_started is 'When that process started, in clock ticks since the host''s boot.';
comment on column orch.agent_runs.claimed_at is 'When it was claimed.';
comment on column orch.agent_runs.spawned_at is 'When its program was started; null if it never was.';
comment on column orch.agent_runs.ended_at is 'When its end was written; null while it is open.';
comment on column orch.agent_runs.rules is 'The retry rules at the claim, durations in seconds, so that any replica can settle a dead one''s run.';
comment on column orch.agent_runs.outcome is 'succeeded, failed, transient, timed_out, cancelled, interrupted, lost or spawn_failed.';
comment on column orch.agent_runs.exit_code is 'The exit status of the main process, if it exited.';
comment on column orch.agent_runs.signal is 'The signal that ended the main process, if one did.';
comment on column orch.agent_runs.error is 'What went wrong, for people.';
comment on column orch.agent_runs.result is 'What the run left in ORCH_RESULT_FILE.';
comment on column orch.agent_runs.user_cpu_seconds is 'CPU time of its processes in user mode.';
comment on column orch.agent_runs.system_cpu_seconds is 'CPU time of its processes in the kernel.';
comment on column orch.agent_runs.peak_memory_bytes is 'The most memory that was resident.';
comment on column orch.agent_runs.log_bytes_kept is 'Bytes of output that were kept.';
comment on column orch.agent_runs.log_bytes_dropped is 'Bytes of output that did not fit between head and tail.';
comment on column orch.agent_runs.processes_killed is 'Processes of its tree that had to be killed after the main process ended.';
comment on column orch.agent_runs.containment is 'What held the process tree together: cgroup, pidns or sweep.';
comment on column orch.agent_runs.closed_by is 'Who wrote the end: owner, successor, reap, operator or sanitize.';

comment on constraint agent_runs_pkey on orch.agent_runs is 'No run_id is used twice.';
comment on constraint run_is_ended_whole on orch.agent_runs is 'An ended run says when, how and by whom; an open one says none of these.';
comment on constraint run_outcome_is_known on orch.agent_runs is 'An outcome is one of the eight.';
comment on constraint run_closed_by_is_known on orch.agent_runs is 'A run is closed by owner, successor, reap, operator or sanitize.';
comment on constraint run_containment_is_known on orch.agent_runs is 'A containment is cgroup, pidns or sweep.';
comment on constraint run_attempt_is_positive on orch.agent_runs is 'The first run of a job is attempt 1.';
comment on constraint run_rules_are_an_object on orch.agent_runs is 'Rules are a JSON object; an empty one leaves every rule at its default.';

comment on index orch.agent_runs_one_open_a_job is 'A job is never alive twice: it has at most one open run.';
comment on index orch.agent_runs_open is 'The running jobs of a replica; jobs itself has no index that knows.';
comment on index orch.agent_runs_job is 'The history of a job.';
comment on index orch.agent_runs_ended is 'What ended lately.';
