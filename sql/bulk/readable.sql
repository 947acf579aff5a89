-- Whether the server can read a text as jsonb: an error, if not. JSON allows what jsonb cannot hold.
--
-- $1 text   JSON
-- rows: one: readable
-- guard: none
-- index: none
select $1::jsonb is not null as readable
