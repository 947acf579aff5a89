-- Begin or end the wait for a wake-up, in the session of a replica's own that listens.
--
-- $1 uuid     replica_id
-- $2 boolean  whether it waits from now on
-- rows: one: waits, false where a former session of the replica still holds its place
-- guard: the advisory lock of the replica's name
-- index: none
select orch.await_wake($1, $2) as done
