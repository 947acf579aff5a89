-- Listen on the replica's channel, and take no lock: first it must be known whether anything is heard here. Through a
-- pooler that shares its sessions nothing is, and a lock would be left behind in one of them.
--
-- $1 uuid  replica_id
-- rows: none
-- guard: none
-- index: none
select orch.hear($1)
