-- The functions in schema orch, as they were written.
--
-- rows: name, source
-- guard: none
-- index: the catalog's own
select p.proname::text as name, p.prosrc as source
  from pg_catalog.pg_proc p
 where p.pronamespace = to_regnamespace('orch')
 order by 1
