-- Renew the lease and reconcile, in one statement.
--
-- $1 uuid              replica_id
-- $2 double precision  L, seconds
-- rows: `server`, first and always: the timeline that it writes (a standby refuses the statement);
--       `lease`, once, only while the replica is live (no such row: it was declared dead), flag: draining;
--       `run`: each open run of it (job_id, run_id), flag: its job is to be cancelled;
--       `ending`: each job that waits until this replica has ended an old process (job_id, run_id = last_run_id)
-- guard: the row is live; the lease never moves backwards
-- index: the primary key; agent_runs_open; jobs_awaits_replica
with renewed as (
    update orch.replicas
       set lease_until = greatest(lease_until, clock_timestamp() + make_interval(secs => $2))
     where replica_id = $1 and state = 'live'
    returning draining
)
select 'server' as kind, null::bigint as job_id, null::uuid as run_id, false as flag,
       substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) as timeline
union all
select 'lease', null, null, draining, null from renewed
union all
select 'run', r.job_id, r.run_id, coalesce(j.cancel_requested_at is not null, false), null
  from orch.agent_runs r
  left join orch.jobs j on j.id = r.job_id and j.run_id = r.run_id
 where r.replica_id = $1 and r.ended_at is null
union all
select 'ending', j.id, j.last_run_id, false, null
  from orch.jobs j
 where j.awaits_replica = $1
