-- Every running job: what, where, by whom, for how long, and for how long that is certain. Three facts stand apart, since
-- each may fail alone: the process (pid), its owner's lease, and when it was last heard to say something.
create or replace view orch.running as
select j.id as job_id, j.project, j.agent, j.run_id, j.attempt, j.pid, r.containment,
       coalesce(r.host, p.host) as host, p.name as replica,
       j.replica_id, p.state as replica_state,
       date_trunc('milliseconds', clock_timestamp() - j.started_at) as age,
       date_trunc('milliseconds', p.lease_until - clock_timestamp()) as lease_left,
       j.cancel_requested_at,
       date_trunc('milliseconds', clock_timestamp() - coalesce(o.at, r.spawned_at)) as output_age
  from orch.agent_runs r
  join orch.jobs j on j.id = r.job_id and j.run_id = r.run_id and j.status = 'running'
  left join orch.replicas p on p.replica_id = j.replica_id
  left join lateral (select l.at from orch.run_logs l where l.run_id = r.run_id order by l.position desc limit 1) o on true
 where r.ended_at is null
 order by j.started_at;
comment on view orch.running is 'Every running job: run, pid, host, replica, age, lease left, output age.';
comment on column orch.running.job_id is 'The job''s number.';
comment on column orch.running.project is 'Its project.';
comment on column orch.running.agent is 'What it runs.';
comment on column orch.running.run_id is 'The run that is going on.';
comment on column orch.running.attempt is 'Which try it is.';
comment on column orch.running.pid is 'The main process on that host; null until it exists.';
comment on column orch.running.containment is 'What holds the process tree together.';
comment on column orch.running.host is 'Where it runs.';
comment on column orch.running.replica is 'The name of the replica that owns it.';
comment on column orch.running.replica_id is 'The replica that owns it.';
comment on column orch.running.replica_state is 'Whether that replica is live, dead or has left.';
comment on column orch.running.age is 'Since its claim.';
comment on column orch.running.lease_left is 'For how long the replica may still call it its own, unless it renews; negative once the lease has run out.';
comment on column orch.running.cancel_requested_at is 'Since when somebody wants it cancelled.';
comment on column orch.running.output_age is 'Since its last output arrived here, or, where there was none yet, since its program was started; null until then. A long one is no proof of anything: silence_timeout of the agent ends what is silent for too long.';
