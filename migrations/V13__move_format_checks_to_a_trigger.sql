-- Move the CHECKs on what a job is enqueued with to a trigger that fires where it is written.
--
-- Why: Postgres reads the text of every CHECK of a table anew for each statement that writes a row of it, whatever the
--   statement changes: 0.15 ms of the 0.5 ms of a claim, a stamp or a settle of one job, for names and sizes that none of
--   them touches. The trigger jobs_zz0_guard_format (sql/schema/triggers/jobs.sql) checks the same, under the same names
--   and with the same SQLSTATE, where one of these columns is written. What says how status and owner go together stays
--   a CHECK. docs/adr/0017 has the figures.
-- Lock: access exclusive on jobs while the CHECK on waits_for reads it once (about half a second a million jobs).
-- The binary before: works, but must not define its functions, views and triggers again: it knows of no such trigger.
-- Undo by hand: add the CHECKs of V1, V9, V10 and V12 again.
set local lock_timeout = '5s';

alter table orch.jobs
    drop constraint agent_is_well_formed,
    drop constraint project_is_well_formed,
    drop constraint gate_is_short,
    drop constraint dedupe_key_is_short,
    drop constraint limits_are_well_formed,
    drop constraint labels_are_an_object,
    drop constraint require_is_an_object,
    drop constraint max_attempts_is_positive,
    drop constraint timeout_is_positive_and_finite,
    drop constraint payload_is_bounded,
    drop constraint waits_for_jobs_before_it_runs,
    add constraint waits_before_it_runs check (waits_for is null or status in ('queued', 'held'));

comment on constraint waits_before_it_runs on orch.jobs is 'Only a queued or held job waits for others.';
