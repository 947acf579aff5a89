-- The CHECKs and foreign keys on orch's tables.
--
-- rows: table, name, works (every row was checked, and, from Postgres 18 on, it is enforced), definition
-- guard: none
-- index: the catalog's own
select c.relname::text as "table", k.conname::text as name,
       k.convalidated and coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true) as works,
       pg_get_constraintdef(k.oid) as definition
  from pg_catalog.pg_constraint k
  join pg_catalog.pg_class c on c.oid = k.conrelid
 where c.relnamespace = to_regnamespace('orch') and k.contype in ('c', 'f')
 order by 1, 2
