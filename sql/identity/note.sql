-- Note which database this is, so that a dump restored elsewhere can be told from the original.
--
-- $1 bigint   system identifier, null where it may not be asked for
-- $2 oid      of the database
-- rows: none
-- guard: written once, by the first replica that is about to register; later only what could not be asked for then
-- index: one row
update orch.meta
   set system_identifier = $1, database_oid = $2
 where system_identifier is null and (database_oid is null or database_oid = $2)
