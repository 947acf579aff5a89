-- Make the CHECKs of jobs and agent_runs few, and compute in a claim or a settle nothing that only an enqueue decides.
--
-- Why: Postgres reads the text of every CHECK and of every generated column of a table anew for each statement that writes a
--   row, as a tree of nodes and not as it was typed. Of the 1.42 million instructions of an orch.enqueue 0.56 were the twelve
--   CHECKs of jobs and 0.27 its three generated columns; a claim, a stamp and a settle paid as much, and 0.22 for the CHECKs
--   of agent_runs. What must hold whoever writes stays a CHECK; what the triggers jobs_zz1_guard_job and agent_runs_guard_run
--   set or refuse anyway does not. docs/adr/0020 has the figures.
-- The lane stands on what a job is enqueued with, so jobs_zz0_guard_format computes it where that is written; set_aside is a
--   helper as claimable is. Both keep the values that they have. A trigger of this migration sets them until the
--   definitions, which follow in a transaction of their own, bring the triggers that do.
-- Lock: access exclusive on jobs and agent_runs while the new CHECKs read each once (about half a second a million rows).
-- The binary before: works, but must not define its functions, views and triggers again: its triggers set neither column.
-- Undo by hand: add the CHECKs of V1, V2, V10 and V13 again. A column becomes a generated one only by making it anew.
set local lock_timeout = '5s';

create function orch.set_lane_and_set_aside() returns trigger
language plpgsql
set search_path = pg_catalog, orch
as $$
begin
    new.lane := ((- new.priority::bigint) << 47)
        | (hashtextextended(new.agent, coalesce(hashtextextended(new.gate, 1), 0)
                                       # coalesce(hash_array_extended(new.limits, 2), 0)
                                       # coalesce(jsonb_hash_extended(new.require, 3), 0)) & 140737488355327);
    new.set_aside := new.status = 'held' or (new.status = 'queued' and new.awaits_replica is not null);
    return new;
end
$$;

alter table orch.jobs
    drop constraint counts_are_not_negative,
    drop constraint failed_at_is_set_when_failed,
    drop constraint finished_at_is_set_when_finished,
    drop constraint finished_has_no_owner,
    drop constraint live_dedupe_key_is_the_live_jobs_key,
    drop constraint queued_has_no_owner,
    drop constraint running_awaits_nobody,
    drop constraint running_has_an_owner,
    drop constraint status_is_known,
    drop constraint times_are_finite,
    drop constraint waits_before_it_runs,
    alter column lane drop expression if exists,
    alter column lane drop default,
    alter column lane set not null,
    alter column set_aside drop expression if exists,
    alter column set_aside set default false,
    alter column set_aside set not null,
    add constraint has_an_owner_exactly_while_running check (not impossible),
    -- one constant, which is a third of a list of them
    add constraint status_is_known check (status = any ('{queued,held,running,succeeded,failed,cancelled}'));

-- After jobs_zz1_guard_job, which says what the status is.
create trigger jobs_zz2_set_lane_and_set_aside
    before insert or update on orch.jobs
    for each row execute function orch.set_lane_and_set_aside();
alter table orch.jobs enable always trigger jobs_zz2_set_lane_and_set_aside;

alter table orch.agent_runs
    drop constraint run_attempt_is_positive,
    drop constraint run_closed_by_is_known,
    drop constraint run_containment_is_known,
    drop constraint run_is_ended_whole,
    drop constraint run_outcome_is_known,
    drop constraint run_rules_are_an_object,
    add constraint run_is_ended_whole check (num_nulls(ended_at, outcome, closed_by) = any ('{0,3}'));

comment on constraint has_an_owner_exactly_while_running on orch.jobs is 'What runs has run_id, replica_id and started_at; what does not run has none of these, and neither pid nor running_gate: the impossible state of job 2286.';
comment on constraint status_is_known on orch.jobs is 'A status is queued, held, running, succeeded, failed or cancelled.';
comment on constraint run_is_ended_whole on orch.agent_runs is 'An ended run says when, how and by whom; an open one says none of these.';
comment on column orch.jobs.lane is 'Helper of the index jobs_claim: jobs of one project with the same lane are alike for a claim (agent, priority, gate, limits, require) and wait for the same things.';
comment on column orch.jobs.set_aside is 'Helper of the index jobs_set_aside: waits but cannot be claimed, because it is held or awaits a replica.';
