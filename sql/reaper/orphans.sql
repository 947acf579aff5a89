-- Running jobs whose owner is dead or has left, as tokens: each is settled as lost by the run_id and replica_id seen here.
--
-- $1 bigint   from behind this job_id: what a batch could not settle does not keep the next from what lies behind it
-- $2 bigint   how many at the most
-- rows: job_id, run_id, replica_id, and why in words: which replica, on which host, since when without a lease
-- guard: none here; the settle is guarded by the token, so repeating it is harmless and an adoption in between wins
-- index: agent_runs_open, then the primary key of jobs
select j.id as job_id, j.run_id, j.replica_id,
       format('lost: its replica %s (%s) on host %s %s', p.name, p.replica_id, p.host,
              case when p.state = 'left' then 'has left'
                   when p.lease_until < clock_timestamp()
                       then 'was declared dead; its lease had run out at '
                            || to_char(p.lease_until at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
                   else 'was declared dead by a later boot of its state directory' end) as why
  from orch.agent_runs r
  join orch.replicas p on p.replica_id = r.replica_id and p.state <> 'live'
  join orch.jobs j on j.id = r.job_id
 where r.ended_at is null
   and j.id > $1
   and j.status = 'running' and j.run_id = r.run_id and j.replica_id = r.replica_id
 order by j.id
 limit $2
