-- Say which agents a replica serves, after its file was read again.
--
-- $1 uuid     replica_id
-- $2 text[]   agents
-- rows: replica_id
-- guard: live
-- index: the primary key
update orch.replicas set agents = $2 where replica_id = $1 and state = 'live'
returning replica_id
