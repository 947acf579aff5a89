-- What the database says of the runs that a start finds: those that former boots of its state directory have open, and
-- those whose directories lie there.
--
-- $1 uuid[]   replica_ids of the former boots
-- $2 uuid[]   run_ids of the directories
-- rows: job_id, run_id, replica_id, agent (null where the job is gone), standing: `open` (the job runs it), `lost` (a reap
--       closed it as lost: what is found here may still be heard, once) or `closed`. A run without a row is unknown.
-- guard: none; whatever follows is guarded by the token again
-- index: agent_runs_open, the primary keys
select r.job_id, r.run_id, r.replica_id, j.agent,
       case when r.ended_at is null and j.status = 'running' and j.run_id = r.run_id and j.replica_id = r.replica_id
            then 'open'
            when r.outcome = 'lost' and r.closed_by = 'reap' then 'lost'
            else 'closed' end as standing
  from orch.agent_runs r
  left join orch.jobs j on j.id = r.job_id
 where (r.replica_id = any ($1) and r.ended_at is null) or r.run_id = any ($2)
 order by r.job_id
