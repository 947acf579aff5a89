-- Note, on an operator's word, that this database is the original from now on.
--
-- $1 bigint   system identifier, null where it may not be asked for
-- $2 oid      of the database
-- $3 jsonb    what was accepted, for orch.events
-- rows: none
-- guard: none
-- index: one row
with accepted as (
    insert into orch.events (kind, detail) values ('identity_accepted', $3)
)
update orch.meta set system_identifier = $1, database_oid = $2
