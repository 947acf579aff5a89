-- Let what was paused start again.
--
-- $1 text   all, project:NAME or agent:NAME
-- rows: changed
-- guard: orch.resume's own
-- index: the primary key
select orch.resume(what => $1) as changed
