-- What the server says of itself and of the replicas on it.
--
-- rows: one: version, database, in_recovery, live_replicas, late_replicas (live, but past their lease),
--       last_tick_seconds (since the last tick; null for never)
-- guard: none
-- index: a scan of replicas, which are few
select current_setting('server_version') as version, current_database()::text as database,
       pg_is_in_recovery() as in_recovery,
       (select count(*) from orch.replicas where state = 'live') as live_replicas,
       (select count(*) from orch.replicas where state = 'live' and lease_until < clock_timestamp()) as late_replicas,
       (select extract(epoch from clock_timestamp() - last_tick_at)::double precision from orch.meta) as last_tick_seconds
