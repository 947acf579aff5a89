-- Every invariant as a query: a row is a violation, and a healthy queue has none. Rows that carry an owner although they
-- do not run are those that the sanitizer repairs: both stand on orch.impossible_queued.
create or replace view orch.violations as
select 'owner_without_running' as invariant, i.job_id::text as what from orch.impossible_queued i
union all
select 'running_without_owner', j.id::text from orch.jobs j
 where j.impossible and j.status = 'running'
union all
select 'finished_at_mismatch', j.id::text from orch.jobs j
 where (j.status in ('succeeded', 'failed', 'cancelled')) <> (j.finished_at is not null)
union all
select 'claimable_mismatch', j.id::text from orch.jobs j
 where j.claimable is distinct from (j.status = 'queued' and j.awaits_replica is null and j.waits_for is null)
union all
select 'helper_mismatch', j.id::text from orch.jobs j
 where (j.status = 'failed') <> (j.failed_at is not null)
    or j.set_aside <> (j.status = 'held' or (j.status = 'queued' and j.awaits_replica is not null))
    or (j.awaits_replica is not null and j.status in ('running', 'succeeded', 'failed'))
    or j.live_dedupe_key is distinct from case when j.status in ('queued', 'held', 'running') then j.dedupe_key end
    or ((j.claimable or j.set_aside or j.waits_for is not null)
        and j.lane <> orch.lane_of(j.priority, j.agent, j.gate, j.limits, j.require))
union all
select 'running_without_open_run', j.id::text from orch.jobs j
 where j.status = 'running'
   and not exists (select from orch.agent_runs r
                    where r.run_id = j.run_id and r.job_id = j.id and r.replica_id = j.replica_id and r.ended_at is null)
union all
select 'open_run_of_idle_job', r.run_id::text from orch.agent_runs r
 where r.ended_at is null
   and not exists (select from orch.jobs j where j.id = r.job_id and j.run_id = r.run_id and j.status = 'running')
union all
select 'two_open_runs', r.job_id::text from orch.agent_runs r
 where r.ended_at is null group by r.job_id having count(*) > 1
union all
select 'run_id_twice', j.run_id::text from orch.jobs j
 where j.run_id is not null group by j.run_id having count(*) > 1
union all
select 'gate_twice', j.running_gate from orch.jobs j
 where j.status = 'running' and j.running_gate is not null group by j.running_gate having count(*) > 1
union all
select 'dedupe_key_twice', j.live_dedupe_key from orch.jobs j
 where j.live_dedupe_key is not null group by j.live_dedupe_key having count(*) > 1
union all
select 'attempts_do_not_add_up', j.id::text from orch.jobs j
  join (select r.job_id, count(*) as runs from orch.agent_runs r group by r.job_id) r on r.job_id = j.id
 where j.attempt < r.runs
union all
select 'waits_although_it_ran', j.id::text from orch.jobs j
 where j.waits_for is not null and j.status not in ('queued', 'held')
union all
select 'ran_before_a_predecessor', j.id::text from orch.jobs j
  join orch.job_dependencies d on d.job_id = j.id
  join orch.jobs p on p.id = d.after_id
 where j.status = 'running'
   and not exists (select from orch.agent_runs r
                    where r.job_id = p.id and r.outcome = 'succeeded' and r.ended_at <= j.started_at);
comment on view orch.violations is 'Every invariant as a query; empty while all hold.';
comment on column orch.violations.invariant is 'Which one is broken.';
comment on column orch.violations.what is 'By what: the number of a job, the run_id of a run, or the key that is there twice.';
