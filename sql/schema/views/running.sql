-- Every running job: what, where, by whom, for how long, and for how long that is certain.
create or replace view orch.running as
select j.id as job_id, j.project, j.agent, j.run_id, j.attempt, j.pid, r.containment, p.host, p.name as replica,
       j.replica_id, p.state as replica_state,
       date_trunc('milliseconds', clock_timestamp() - j.started_at) as age,
       date_trunc('milliseconds', p.lease_until - clock_timestamp()) as lease_left,
       j.cancel_requested_at
  from orch.agent_runs r
  join orch.jobs j on j.id = r.job_id and j.run_id = r.run_id and j.status = 'running'
  left join orch.replicas p on p.replica_id = j.replica_id
 where r.ended_at is null
 order by j.started_at;
comment on view orch.running is 'Every running job: run, pid, host, replica, age, lease left.';
