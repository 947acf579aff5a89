-- The triggers on orch's tables.
--
-- rows: table, name, works (fires always, also under session_replication_role = replica), definition
-- guard: none
-- index: the catalog's own
select c.relname::text as "table", t.tgname::text as name, t.tgenabled = 'A' as works,
       pg_get_triggerdef(t.oid) as definition
  from pg_catalog.pg_trigger t
  join pg_catalog.pg_class c on c.oid = t.tgrelid
 where c.relnamespace = to_regnamespace('orch') and not t.tgisinternal
 order by 1, 2
