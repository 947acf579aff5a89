-- Create orch.schedules: wishes that are enqueued again and again.
--
-- Why: a schedule is one row, so that its tick is claimed by a lock on that row, and job and next tick are written in one
--   transaction: whoever dies in between has done neither.
-- Lock: none that matters; the table is new.
-- The binary before: works on; it knows nothing of schedules, and none ticks while only such replicas live.
-- Undo by hand: drop table orch.schedules cascade; delete from orch.schema_history where version = 11;
--
-- The database knows no cron. A replica computes when a schedule ticks next, and says in the statement that fires a tick
-- which one it saw (next_tick_at) and by which definition (revision): of several that saw the same one is heard, and none
-- that read a definition which has changed since. What is due is judged by the database's clock alone.
--
-- next_tick_at is null where it never ticks again. While planned is false it is no tick, but when a replica is to compute
-- one, from base_at on: at once for what is new or changed, a minute later where it cannot be read, since a replica of
-- another version may know how.
set local lock_timeout = '5s';

create table orch.schedules (
    name         text        not null,
    cron         text,
    every        interval,
    anchor_at    timestamptz not null default date_trunc('second', clock_timestamp()),
    time_zone    text        not null default 'UTC',
    catch_up     text        not null default 'one',
    catch_up_max integer     not null default 100,
    grace        interval    not null default interval '1 minute',
    overlap      text        not null default 'skip',
    paused       boolean     not null default false,
    next_tick_at timestamptz default clock_timestamp(),
    last_tick_at timestamptz,
    last_answer  text,
    last_job_id  bigint,
    skipped      bigint      not null default 0,
    error        text,
    agent        text        not null,
    project      text        not null default 'default',
    priority     integer     not null default 0,
    gate         text,
    limits       text[],
    labels       jsonb,
    require      jsonb,
    max_attempts integer,
    timeout      interval,
    tick_key     text,
    planned      boolean     not null default false,
    base_at      timestamptz not null default clock_timestamp(),
    revision     bigint      not null default 1,
    created_at   timestamptz not null default clock_timestamp(),
    payload      jsonb       not null default '{}',

    constraint schedules_pkey primary key (name),
    constraint schedule_name_is_well_formed check (
        name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    constraint schedule_has_one_rhythm check (
        num_nonnulls(cron, every) = 1),
    constraint schedule_cron_is_short check (
        octet_length(cron) between 1 and 200),
    constraint schedule_interval_is_exact_and_at_least_a_second check (
        every is null
        or (extract(year from every) = 0 and extract(month from every) = 0
            and every between interval '1 second' and interval '3650 days')),
    constraint schedule_catch_up_is_known check (
        catch_up in ('skip', 'one', 'all')),
    constraint schedule_catch_up_max_is_bounded check (
        catch_up_max between 1 and 1000),
    constraint schedule_grace_is_bounded check (
        grace between interval '10 seconds' and interval '1 day'),
    constraint schedule_overlap_is_known check (
        overlap in ('skip', 'queue', 'replace')),
    constraint schedule_times_are_finite check (
        coalesce(anchor_at between timestamptz '1970-01-01 00:00:00+00' and timestamptz '9998-12-31 00:00:00+00', true)
        and coalesce(next_tick_at between timestamptz '1970-01-01 00:00:00+00' and timestamptz '9998-12-31 00:00:00+00', true)
        and base_at between timestamptz '1970-01-01 00:00:00+00' and timestamptz '9998-12-31 00:00:00+00'),
    constraint schedule_tick_key_goes_into_an_object check (
        tick_key is null or (octet_length(tick_key) between 1 and 200 and jsonb_typeof(payload) = 'object'))
)
-- Rows are few and change at each tick. The index on next_tick_at makes that a change of the index as well; what it
-- leaves behind is taken away before the table has grown by much.
with (
    fillfactor = 70,
    autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_scale_factor = 0.1
);

create index schedules_due on orch.schedules (next_tick_at) where not paused;

comment on table orch.schedules is
    'Wishes that are enqueued again and again. Insert, update and delete rows as you like: a replica computes the next tick within seconds, or says in error why it cannot.';

comment on column orch.schedules.name is 'What it is called; its jobs carry it as the label schedule.';
comment on column orch.schedules.cron is 'When it ticks, as clocks in time_zone show it: minute, hour, day of month, month, day of week; with a second before them and a year behind, if you like; or @hourly, @daily, @weekly, @monthly, @yearly.';
comment on column orch.schedules.every is 'Or: so long after one another, counted from anchor_at, whatever the clocks on the walls do. Days are 24 hours.';
comment on column orch.schedules.anchor_at is 'What every is counted from; no tick is before it.';
comment on column orch.schedules.time_zone is 'Whose clocks cron means: a name of the IANA database.';
comment on column orch.schedules.catch_up is 'What becomes of ticks that were missed, because no replica lived or reached the database: skip, one (the latest stands for all), all (the latest catch_up_max of them).';
comment on column orch.schedules.catch_up_max is 'How many of the missed ticks fire with catch_up = all.';
comment on column orch.schedules.grace is 'A tick that is late by more than this was missed; one that is late by less always fires.';
comment on column orch.schedules.overlap is 'What becomes of a tick while the job of the one before is live: skip, queue (its job runs after that one), replace (that one is cancelled, and its job runs once it has ended).';
comment on column orch.schedules.paused is 'It does not tick. What falls into a pause is not made up for.';
comment on column orch.schedules.next_tick_at is 'The next tick; while not planned, when a replica computes it. Null: it never ticks again.';
comment on column orch.schedules.last_tick_at is 'The latest tick that was fired, skipped or refused.';
comment on column orch.schedules.last_answer is 'What became of it: fired, skipped (its predecessor was live), refused (see error).';
comment on column orch.schedules.last_job_id is 'The job that was enqueued last, by a tick or by orch.run_schedule.';
comment on column orch.schedules.skipped is 'Ticks that were left out because of overlap.';
comment on column orch.schedules.error is 'Why it cannot be read, or why the database refused the job of the last tick; tried again at the next.';
comment on column orch.schedules.agent is 'What is to run.';
comment on column orch.schedules.project is 'For whom.';
comment on column orch.schedules.priority is 'Higher first, from -32768 to 32767.';
comment on column orch.schedules.gate is 'Of jobs with one gate only one runs at a time. Null: project:NAME where the project is serial, else schedule:NAME with overlap queue and replace.';
comment on column orch.schedules.limits is 'Named limits that its jobs need, beside those of the agent.';
comment on column orch.schedules.labels is 'For people; schedule and tick are added to them.';
comment on column orch.schedules.require is 'Labels that the replica of its jobs must have.';
comment on column orch.schedules.max_attempts is 'Counted failures after which a job of it is failed; null: the agent''s.';
comment on column orch.schedules.timeout is 'After how long a run of its jobs is ended; null: the agent''s.';
comment on column orch.schedules.tick_key is 'Under this key of the payload a job is told its tick, RFC 3339 in UTC; null: it is not told.';
comment on column orch.schedules.planned is 'Whether next_tick_at is a tick.';
comment on column orch.schedules.base_at is 'Ticks are counted from here on: when it was made, changed or resumed.';
comment on column orch.schedules.revision is 'Counts changes of what it ticks by; a replica that read an earlier one is not heard.';
comment on column orch.schedules.created_at is 'When it was made.';
comment on column orch.schedules.payload is 'With what.';

comment on constraint schedules_pkey on orch.schedules is 'A schedule is known by its name.';
comment on constraint schedule_name_is_well_formed on orch.schedules is '1 to 100 letters, digits, dots, underscores and hyphens, a letter or digit first.';
comment on constraint schedule_has_one_rhythm on orch.schedules is 'Either cron or every.';
comment on constraint schedule_cron_is_short on orch.schedules is '1 to 200 bytes.';
comment on constraint schedule_interval_is_exact_and_at_least_a_second on orch.schedules is 'From a second to ten years, in days, hours and less: months are not all of one length, which is what cron is for.';
comment on constraint schedule_catch_up_is_known on orch.schedules is 'skip, one or all.';
comment on constraint schedule_catch_up_max_is_bounded on orch.schedules is 'From 1 to 1000, so that an outage does not flood the queue.';
comment on constraint schedule_grace_is_bounded on orch.schedules is 'From ten seconds, which a replica may take to look, to a day.';
comment on constraint schedule_overlap_is_known on orch.schedules is 'skip, queue or replace.';
comment on constraint schedule_times_are_finite on orch.schedules is 'From 1970 to 9998: what every reader can take.';
comment on constraint schedule_tick_key_goes_into_an_object on orch.schedules is 'Only an object has keys; 1 to 200 bytes.';

comment on index orch.schedules_due is 'What a replica looks for every few seconds: what is due, and what will be next.';
