-- Create orch.meta, orch.counters and orch.events: what orch knows of the database, has counted, and was told.
--
-- Why: totals and the reaper's marks live in the database, so that every replica says the same.
-- Lock: none that matters; the tables are new.
-- The binary before: there is none.
-- Undo by hand: drop table orch.meta, orch.counters, orch.events;
set local lock_timeout = '5s';

create table orch.meta (
    only_row          boolean not null default true,
    system_identifier bigint,
    database_oid      oid,
    timeline          text,
    last_tick_at      timestamptz,
    wait_until        timestamptz,
    wait_until_set_at timestamptz,
    schema_hash       text,

    constraint meta_pkey primary key (only_row),
    constraint meta_has_one_row check (only_row)
)
-- One row, written by every tick of every replica.
with (fillfactor = 10, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

insert into orch.meta default values;

comment on table orch.meta is
    'One row: which database this is, and the marks of the reaper.';

comment on column orch.meta.only_row is 'Always true: there is one row.';
comment on column orch.meta.system_identifier is 'The identity of the database cluster; null until the first replica fills it. Another one than the server''s: this is a copy.';
comment on column orch.meta.database_oid is 'The identity of the database in its cluster; null until the first replica fills it.';
comment on column orch.meta.timeline is 'The server''s timeline at the last tick, as in the names of its WAL files: a change is a failover.';
comment on column orch.meta.last_tick_at is 'When some replica''s reaper last ticked.';
comment on column orch.meta.wait_until is 'Until when nobody is declared dead, because leases look expired after an outage or a failover.';
comment on column orch.meta.wait_until_set_at is 'When wait_until was last set: runs lost soon after are not counted against their jobs.';
comment on column orch.meta.schema_hash is 'Which functions, views and triggers were applied last: a hash of their definitions.';

comment on constraint meta_pkey on orch.meta is 'There is one row.';
comment on constraint meta_has_one_row on orch.meta is 'There is one row.';

create table orch.counters (
    name  text   not null,
    value bigint not null default 0,

    constraint counters_pkey primary key (name),
    constraint counter_is_not_negative check (value >= 0)
)
with (fillfactor = 10, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

insert into orch.counters (name) values ('guard_repairs_total'), ('impossible_queued_total'), ('reaped_total');

comment on table orch.counters is
    'Totals since the schema was made. In the order of locks they come last.';

comment on column orch.counters.name is 'impossible_queued_total: the sweep''s repairs; guard_repairs_total: the trigger''s; reaped_total: runs of dead replicas settled as lost.';
comment on column orch.counters.value is 'How many so far.';

comment on constraint counters_pkey on orch.counters is 'A counter has one total.';
comment on constraint counter_is_not_negative on orch.counters is 'Totals only grow.';

create table orch.events (
    id     bigint generated always as identity,
    at     timestamptz not null default clock_timestamp(),
    kind   text        not null,
    job_id bigint,
    run_id uuid,
    actor  text        not null default session_user,
    detail jsonb,

    constraint events_pkey primary key (id)
);

create index events_job on orch.events (job_id) where job_id is not null;

comment on table orch.events is
    'What operators did and what guards repaired. Ordinary runs have their history in orch.agent_runs: a row a transition would cost a third of the throughput.';

comment on column orch.events.id is 'In the order of arrival.';
comment on column orch.events.at is 'When.';
comment on column orch.events.kind is 'What: cancelled, cancel_requested, retried, held, released, taken (a running job, by a plain UPDATE), guard_repair, impossible_queued and others.';
comment on column orch.events.job_id is 'The job that it is about, if it is about one.';
comment on column orch.events.run_id is 'The run that it is about, if it is about one.';
comment on column orch.events.actor is 'The database user who logged in.';
comment on column orch.events.detail is 'What was found or changed.';

comment on constraint events_pkey on orch.events is 'An event has one number.';
comment on index orch.events_job is 'What happened to a job.';
