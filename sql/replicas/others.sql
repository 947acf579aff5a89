-- The live replicas beside this one, to refuse a second or to find former boots of this state directory.
--
-- $1 uuid    replica_id of the asker
-- rows: replica_id, name, host, boot_id, state_dir_id, lease_left_seconds (negative once it has run out)
-- guard: none
-- index: a scan; replicas are few
select replica_id, name, host, boot_id, state_dir_id,
       extract(epoch from lease_until - clock_timestamp())::double precision as lease_left_seconds
  from orch.replicas
 where state = 'live' and replica_id <> $1
 order by started_at, replica_id
