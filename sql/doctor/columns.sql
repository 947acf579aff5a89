-- The generated columns of orch's tables.
--
-- rows: table, name, works (always), definition
-- guard: none
-- index: the catalog's own
select c.relname::text as "table", a.attname::text as name, true as works,
       format('%s generated always as (%s) stored', format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid))
           as definition
  from pg_catalog.pg_attribute a
  join pg_catalog.pg_class c on c.oid = a.attrelid
  join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where c.relnamespace = to_regnamespace('orch') and a.attgenerated <> ''
 order by 1, 2
