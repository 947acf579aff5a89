-- What keeps a job by itself from running, whatever else goes on; null where nothing does, or it does not wait.
create or replace function orch.own_wait(job orch.jobs) returns text
language sql stable
as $$
    select case when (job).status = 'held' then 'held'
                when (job).status <> 'queued' then null
                when (job).awaits_replica is not null then 'old_process_ending'
                when not (job).claimable then 'waits_for_jobs'
                when (job).run_at > now() then 'not_due' end
$$;
comment on function orch.own_wait is 'What keeps a job by itself from running: held, old_process_ending, waits_for_jobs or not_due.';
