-- Declare a former boot of this state directory dead: its successor holds the directory's lock and has settled its runs.
--
-- $1 uuid    replica_id of the former boot
-- $2 text    state_dir_id that the successor holds
-- rows: replica_id, if it was live until now
-- guard: live, and registered from this very directory
-- index: the primary key
update orch.replicas
   set state = 'dead'
 where replica_id = $1 and state = 'live' and state_dir_id = $2
returning replica_id
