-- Why the server cannot read a text as jsonb; null where it can. JSON allows what jsonb cannot hold.
--
-- $1 text   JSON
-- rows: one: complaint
-- guard: none
-- index: none
select orch.unreadable($1) as complaint
