-- Say something to a replica, from any session: what comes of it tells the replica whether it hears.
--
-- $1 uuid  replica_id
-- rows: none
-- guard: none
-- index: none
select pg_notify('orch_' || $1::uuid, '')
