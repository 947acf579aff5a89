-- Renew the lease without the reconcile: for when `jobs` is locked by a migration.
--
-- $1 uuid              replica_id
-- $2 double precision  L, seconds
-- rows: `lease`, once, only while the replica is live, flag: draining
-- guard: the row is live; the lease never moves backwards
-- index: the primary key
update orch.replicas
   set lease_until = greatest(lease_until, clock_timestamp() + make_interval(secs => $2))
 where replica_id = $1 and state = 'live'
returning 'lease' as kind, null::bigint as job_id, null::uuid as run_id, draining as flag
