-- Remember which database this is, so that a dump restored elsewhere can be told from the original.
--
-- rows: none
-- guard: written once, by the first replica that registers
-- index: one row
update orch.meta
   set system_identifier = (select c.system_identifier from pg_control_system() c),
       database_oid = (select d.oid from pg_database d where d.datname = current_database())
 where system_identifier is null
