-- Declare replicas dead whose lease ran out: the one point where ownership ends.
--
-- $1 double precision  G, seconds
-- $2 double precision  L, seconds
-- rows: replica_id, name, host, overdue_seconds
-- guard: past meta.wait_until, read after the tick that may have set it has committed; and what that tick saw still
--        holds: somebody has ticked within L/2, on this timeline of the server. A statement that was sent before an
--        outage or a failover and arrives after it declares nobody. Locked rows are skipped
-- index: a scan; replicas are few
with expired as materialized (
    select p.replica_id
      from orch.replicas p
     where p.state = 'live'
       and p.lease_until < clock_timestamp() - make_interval(secs => $1)
       and exists (select from orch.meta m
                    where (m.wait_until is null or m.wait_until <= clock_timestamp())
                      and m.last_tick_at >= clock_timestamp() - make_interval(secs => $2 / 2)
                      and m.timeline = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))
     order by p.replica_id
       for update skip locked
)
update orch.replicas p
   set state = 'dead'
  from expired e
 where p.replica_id = e.replica_id and p.state = 'live'
returning p.replica_id, p.name, p.host,
          extract(epoch from clock_timestamp() - p.lease_until)::double precision as overdue_seconds
