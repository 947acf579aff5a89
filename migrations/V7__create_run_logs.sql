-- Create orch.run_logs: the output of runs, where every machine can read it.
--
-- Why: a run's shim spools its output to a file of its own host; who asks for it may be anywhere, and the host may be gone.
-- Lock: none that matters; the table is new.
-- The binary before: works on; it knows nothing of this table, and shows only the output that is on its own machine.
-- Undo by hand: drop table orch.run_logs cascade; delete from orch.schema_history where version = 7; the cascade takes the
--   view orch.running along, which the binary before makes again with `orch migrate`.
--
-- A chunk is written once and never changed: a live run appends one every few hundred milliseconds while it writes, and
-- once it has more than its bound (log_cap) keeps, the oldest chunks behind the head go again. What was dropped, by the
-- spool or here, needs no column: it is the gap between the end of one chunk and the position of the next, and an empty
-- chunk marks the end where the last of the output was dropped.
--
-- There is no foreign key to agent_runs: its check would write a lock into the run's row for each chunk. The statement
-- that ships looks the run up instead, and what prunes a run takes its chunks along.
set local lock_timeout = '5s';

create table orch.run_logs (
    run_id   uuid        not null,
    position bigint      not null,
    at       timestamptz not null default clock_timestamp(),
    bytes    bytea       not null,

    constraint run_logs_pkey primary key (run_id, position),
    constraint log_position_is_not_negative check (
        position >= 0),
    constraint log_chunk_is_bounded check (
        octet_length(bytes) <= 262144)
)
-- Rows come and go and are not updated, so pages are filled. The bulk stands in the TOAST table, which has settings of
-- its own: what is deleted of a flood or of old runs is to be used again before the table grows, and the visibility map
-- follows the inserts, so that later vacuums pass over what has not changed.
with (
    fillfactor = 100,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_analyze_scale_factor = 0.1,
    toast.autovacuum_vacuum_threshold = 5000,
    toast.autovacuum_vacuum_scale_factor = 0.05,
    toast.autovacuum_vacuum_insert_scale_factor = 0.2
);

-- Compressed, then out of line: output is text as a rule and shrinks to a fraction, which saves disk, WAL and the
-- standby's network; what it costs the server is bounded, because a replica ships so many bytes a second at the most. A
-- chunk is always read whole, so nothing is gained by EXTERNAL. The server's default_toast_compression says with what.
alter table orch.run_logs alter column bytes set storage extended;

comment on table orch.run_logs is
    'The output of runs in chunks, head and tail of each: what lies between the end of one chunk and the position of the next was dropped (log_cap).';

comment on column orch.run_logs.run_id is 'The run that wrote it.';
comment on column orch.run_logs.position is 'Where the chunk begins in the whole output of the run, in bytes from 0.';
comment on column orch.run_logs.at is 'When it was stored here.';
comment on column orch.run_logs.bytes is 'Standard output and standard error as they came, in no encoding, cut anywhere; empty where the end of the output was dropped.';

comment on constraint run_logs_pkey on orch.run_logs is 'Each part of an output is stored once; its chunks are read in this order.';
comment on constraint log_position_is_not_negative on orch.run_logs is 'An output begins at 0.';
comment on constraint log_chunk_is_bounded on orch.run_logs is 'At most 256 KiB, so that whoever reads or ships a log does it in bounded memory.';
