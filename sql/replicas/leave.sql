-- Leave: a replica that owns nothing any more says goodbye.
--
-- $1 uuid   replica_id
-- rows: replica_id, if it left
-- guard: live, and no open run of it: what still runs keeps the row live, and the lease decides
-- index: the primary key; agent_runs_open
update orch.replicas
   set state = 'left'
 where replica_id = $1
   and state = 'live'
   and not exists (select from orch.agent_runs r where r.replica_id = $1 and r.ended_at is null)
returning replica_id
