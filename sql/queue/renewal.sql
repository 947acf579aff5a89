-- How a replica stands: how much is left of its lease, and whether it is draining.
--
-- $1 uuid   replica_id
-- rows: lease_left_seconds (negative once it has run out), draining; none where the replica is not live
-- guard: none
-- index: the primary key
select extract(epoch from lease_until - clock_timestamp())::double precision as lease_left_seconds, draining
  from orch.replicas
 where replica_id = $1 and state = 'live'
