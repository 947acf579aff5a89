-- Add orch.job_dependencies, and jobs.waits_for: jobs that run only once others have succeeded.
--
-- Why: a job that is enqueued `after` others waits until each of them has succeeded, and is cancelled when one of them
--   fails or is cancelled. What it still waits for stands on its own row, so that a claim needs to look nowhere else; who
--   waits for a job that ended is found through the table, which keeps what was asked for as long as the job is there.
-- Lock: access exclusive on jobs while two CHECKs read it once (about a second a million rows); the column rewrites
--   nothing, and its index begins empty.
-- The binary before: works, as long as nobody enqueues with `after`. It lets nobody go who waits.
-- Undo by hand: drop table orch.job_dependencies; update orch.jobs set waits_for = null where waits_for is not null;
--   alter table orch.jobs drop constraint claimable_is_queued_and_waits_for_nobody, drop column waits_for,
--   add constraint claimable_is_queued_and_awaits_nobody check (claimable = (status = 'queued' and awaits_replica is null));
set local lock_timeout = '5s';

create table orch.job_dependencies (
    job_id   bigint not null,
    after_id bigint not null,

    constraint job_dependencies_pkey primary key (job_id, after_id),
    -- A job must be there to be named, so its number is the smaller one: no circle can be written, by no statement.
    constraint job_waits_for_earlier_ones check (after_id < job_id)
);
create index job_dependencies_after on orch.job_dependencies (after_id, job_id);

comment on table orch.job_dependencies is
    'Which job was enqueued after which. Kept as long as the job itself; what it still waits for stands in jobs.waits_for.';
comment on column orch.job_dependencies.job_id is 'The job that waits, or waited.';
comment on column orch.job_dependencies.after_id is 'The job that must succeed before. Its row may be gone: finished jobs are removed after keep_finished.';
comment on constraint job_dependencies_pkey on orch.job_dependencies is 'A job waits for another once.';
comment on constraint job_waits_for_earlier_ones on orch.job_dependencies is 'A job waits for jobs with smaller numbers alone, so that none waits for itself, by no detour.';
comment on index orch.job_dependencies_after is 'Who waits for a job that ended: one probe a settle where nobody does.';

alter table orch.jobs
    drop constraint claimable_is_queued_and_awaits_nobody,
    add column waits_for bigint[],
    add constraint claimable_is_queued_and_waits_for_nobody check (
        claimable = (status = 'queued' and awaits_replica is null and waits_for is null)),
    add constraint waits_for_jobs_before_it_runs check (
        waits_for is null
        or (status in ('queued', 'held') and cardinality(waits_for) between 1 and 1000 and array_ndims(waits_for) = 1
            and array_position(waits_for, null) is null and id > all (waits_for)));

-- With what GET /queue counts. It names neither status nor anything else that the end of a run changes.
create index jobs_waits_for on orch.jobs (id) include (project, run_at, set_aside) where waits_for is not null;

comment on column orch.jobs.claimable is 'Helper of the index jobs_claim: queued, and neither awaits_replica nor waits_for is set.';
comment on column orch.jobs.waits_for is 'The jobs that must succeed before this one runs, as far as it is not known that they have; null: none. Becomes null when the last one has.';
comment on constraint claimable_is_queued_and_waits_for_nobody on orch.jobs is 'claimable says what a claim may take: a queued job whose former process is gone, and whose predecessors have succeeded.';
comment on constraint waits_for_jobs_before_it_runs on orch.jobs is 'Only a queued or held job waits for others, for 1 to 1000 of them, and for earlier ones alone.';
comment on index orch.jobs_waits_for is 'The jobs that wait for others: what the tick walks, and what GET /queue counts.';
