-- Declare a former boot of this state directory dead: its successor holds the directory's lock, has adopted or settled its
-- runs, and has ended what the database did not grant.
--
-- $1 uuid    replica_id of the former boot
-- $2 text    state_dir_id that the successor holds
-- rows: replica_id, if it was live until now
-- guard: live, registered from this very directory, and no open run of it: what is open is for its lease
-- index: the primary key; agent_runs_open
update orch.replicas
   set state = 'dead'
 where replica_id = $1 and state = 'live' and state_dir_id = $2
   and not exists (select from orch.agent_runs r where r.replica_id = $1 and r.ended_at is null)
returning replica_id
