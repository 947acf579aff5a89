-- Cancel jobs: at once what does not run; what runs ends as cancelled when its owner has ended it.
--
-- $1 bigint[]   ids, ascending, so that two of these never wait for each other
-- rows: id, status: where it stands now
-- guard: orch.cancel's own; a job that refuses makes all refuse, and the caller repeats them one at a time
-- index: the primary key
select id, orch.cancel(id) as status from unnest($1) as id
