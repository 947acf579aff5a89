-- How much is left of a replica's lease.
--
-- $1 uuid   replica_id
-- rows: one: lease_left_seconds, null where the replica is not live
-- guard: none
-- index: the primary key
select (select extract(epoch from lease_until - clock_timestamp())::double precision
          from orch.replicas
         where replica_id = $1 and state = 'live') as lease_left_seconds
