-- Keep queued jobs from being claimed.
--
-- $1 bigint[]   ids, ascending, so that two of these never wait for each other
-- rows: id, status: where it stands now
-- guard: orch.hold's own; a job that refuses makes all refuse, and the caller repeats them one at a time
-- index: the primary key
select id, orch.hold(id) as status from unnest($1) as id
