-- The indexes on orch's tables, primary keys among them.
--
-- rows: table, name, works (built to its end, and kept up), definition
-- guard: none
-- index: the catalog's own
select c.relname::text as "table", i.relname::text as name, x.indisvalid and x.indisready and x.indislive as works,
       pg_get_indexdef(i.oid) as definition
  from pg_catalog.pg_index x
  join pg_catalog.pg_class i on i.oid = x.indexrelid
  join pg_catalog.pg_class c on c.oid = x.indrelid
 where c.relnamespace = to_regnamespace('orch')
 order by 1, 2
