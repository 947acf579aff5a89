-- Mark a replica as draining: it claims nothing more. Draining is no state; one that dies is reaped like any other.
--
-- $1 uuid    replica_id
-- rows: replica_id
-- guard: live
-- index: the primary key
update orch.replicas set draining = true where replica_id = $1 and state = 'live'
returning replica_id
