-- Create orch.replicas: who is there, and until when its runs are its own.
--
-- Why: liveness is a lease that the database's clock judges, never a pid.
-- Lock: none that matters; the table is new.
-- The binary before: there is none.
-- Undo by hand: drop table orch.replicas;
set local lock_timeout = '5s';

create table orch.replicas (
    replica_id      uuid        not null,
    name            text        not null,
    host            text        not null,
    boot_id         text,
    state_dir_id    text,
    version         text,
    state           text        not null default 'live',
    draining        boolean     not null default false,
    agents          text[]      not null default '{}',
    labels          jsonb       not null default '{}',
    max_concurrency integer     not null default 1,
    started_at      timestamptz not null default clock_timestamp(),
    lease_until     timestamptz not null,

    constraint replicas_pkey primary key (replica_id),
    constraint replica_state_is_known check (state in ('live', 'dead', 'left')),
    constraint replica_labels_are_an_object check (jsonb_typeof(labels) = 'object'),
    constraint replica_max_concurrency_is_not_negative check (max_concurrency >= 0)
)
-- Every row is renewed every few seconds: room for HOT, and vacuum after a few hundred renewals.
with (
    fillfactor = 50,
    autovacuum_vacuum_threshold = 200,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_cost_delay = 0
);

comment on table orch.replicas is
    'Replicas: one row a boot of an orch process, never used again once dead or left.';

comment on column orch.replicas.replica_id is 'The replica''s name, a UUIDv7 made at its boot.';
comment on column orch.replicas.name is 'For people: the setting name, else the host''s name.';
comment on column orch.replicas.host is 'The host that it runs on.';
comment on column orch.replicas.boot_id is 'The boot of that host.';
comment on column orch.replicas.state_dir_id is 'Which state directory it holds: a UUID in the directory, pid namespace, device and inode of the lock file.';
comment on column orch.replicas.version is 'The version of its binary.';
comment on column orch.replicas.state is 'live; dead: its lease ran out, or its successor said so; left: it went, owning nothing.';
comment on column orch.replicas.draining is 'It claims nothing more. No state: a draining replica that dies is reaped like any other.';
comment on column orch.replicas.agents is 'The agents that it serves.';
comment on column orch.replicas.labels is 'Names and values for people and for routing; an object.';
comment on column orch.replicas.max_concurrency is 'Its slots.';
comment on column orch.replicas.started_at is 'When it registered.';
comment on column orch.replicas.lease_until is 'Until when its runs are its own, by this database''s clock alone.';

comment on constraint replicas_pkey on orch.replicas is 'No replica_id is used twice.';
comment on constraint replica_state_is_known on orch.replicas is 'A state is live, dead or left.';
comment on constraint replica_labels_are_an_object on orch.replicas is 'Labels are a JSON object.';
comment on constraint replica_max_concurrency_is_not_negative on orch.replicas is 'Slots are counted from 0.';
