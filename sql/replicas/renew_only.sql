-- Renew the lease without the reconcile: for when `jobs` is locked by a migration.
--
-- $1 uuid              replica_id
-- $2 double precision  L, seconds
-- rows: `server`, first and always: the timeline that it writes;
--       `lease`, once, only while the replica is live, flag: draining
-- guard: the row is live; the lease never moves backwards
-- index: the primary key
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
