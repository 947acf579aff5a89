-- The replicas beside this one that are live or still own something: among them a start finds the former boots of its
-- state directory.
--
-- $1 uuid    replica_id of the asker
-- rows: replica_id, name, host, boot_id, state_dir_id, live, lease_left_seconds (negative once it has run out)
-- guard: none
-- index: a scan, replicas are few; agent_runs_open
select p.replica_id, p.name, p.host, coalesce(p.boot_id, '') as boot_id,
       coalesce(p.state_dir_id, '') as state_dir_id, p.state = 'live' as live,
       extract(epoch from p.lease_until - clock_timestamp())::double precision as lease_left_seconds
  from orch.replicas p
 where p.replica_id <> $1
   and (p.state = 'live'
        or exists (select from orch.agent_runs r where r.replica_id = p.replica_id and r.ended_at is null))
 order by p.started_at, p.replica_id
