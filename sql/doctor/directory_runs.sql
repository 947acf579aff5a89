-- The open runs of every boot that registered from one state directory.
--
-- $1 text   the directory: its UUID, device and inode, as `replicas.state_dir_id` begins
-- rows: run_id, job_id, state_dir_id, boot_id, lease_left_seconds (negative once it has run out)
-- guard: none
-- index: a scan of replicas, which are few; agent_runs_open
select r.run_id, r.job_id, coalesce(p.state_dir_id, '') as state_dir_id, coalesce(p.boot_id, '') as boot_id,
       extract(epoch from p.lease_until - clock_timestamp())::double precision as lease_left_seconds
  from orch.replicas p
  join orch.agent_runs r on r.replica_id = p.replica_id and r.ended_at is null
 where split_part(p.state_dir_id, ' ', 1) = $1
 order by r.claimed_at, r.run_id
