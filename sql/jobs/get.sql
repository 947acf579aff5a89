-- One job, whole.
--
-- $1 bigint   id
-- rows: the job, and its owner's name, host and lease, and since when its run has said nothing; payload, result, labels and require as text, since JSON that Postgres takes may be
--       nested deeper than a reader likes
-- guard: none
-- index: the primary keys
select j.id, j.status, j.project, j.agent, j.run_id, j.pid, j.replica_id, j.started_at, p.name as replica, p.host,
       j.priority, j.run_at, j.attempt, j.failures, j.max_attempts, j.lost_count, j.transient_count, j.interrupted_count,
       j.gate, j.limits, j.require::text as require, j.labels::text as labels, j.dedupe_key, extract(epoch from j.timeout)::double precision as timeout_seconds,
       j.last_run_id, j.cancel_requested_at, j.awaits_replica, j.waits_for, j.created_at, j.finished_at, j.error,
       j.payload::text as payload, j.result::text as result, clock_timestamp() as read_at,
       extract(epoch from p.lease_until - clock_timestamp())::double precision as lease_left_seconds,
       case when j.run_id is not null then (
           select extract(epoch from clock_timestamp() - coalesce(
                      (select l.at from orch.run_logs l where l.run_id = r.run_id order by l.position desc limit 1),
                      r.spawned_at))::double precision
             from orch.agent_runs r
            where r.run_id = j.run_id) end as output_age_seconds
  from orch.jobs j
  left join orch.replicas p on p.replica_id = j.replica_id
 where j.id = $1
