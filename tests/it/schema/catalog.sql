-- Everything that a client can see of schema orch, a line each, in an order of its own: what two ways to make the
-- schema are compared by, and what docs/schema.sql is checked against.
--
-- rows: one line of text each
select line from (
    select 1 as kind, c.relname::text as of, a.attnum::int as place,
           format('column %s.%s %s%s%s%s -- %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
                  case when a.attnotnull then ' not null' end,
                  case when a.attidentity <> '' then ' identity ' || a.attidentity::text end,
                  case when a.attgenerated <> '' then ' generated as ' || pg_get_expr(d.adbin, d.adrelid)
                       when d.adbin is not null then ' default ' || pg_get_expr(d.adbin, d.adrelid) end,
                  col_description(c.oid, a.attnum)) as line
      from pg_class c
      join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
     where c.relnamespace = 'orch'::regnamespace and c.relkind in ('r', 'v')
    union all
    select 2, c.relname::text, 0,
           format('%s %s (%s) -- %s', case c.relkind when 'v' then 'view' else 'table' end, c.relname,
                  array_to_string(c.reloptions, ', '), obj_description(c.oid, 'pg_class'))
      from pg_class c
     where c.relnamespace = 'orch'::regnamespace and c.relkind in ('r', 'v')
    union all
    -- Postgres 18 has constraints for not null, which the columns say already; a constraint trigger is a trigger.
    select 3, k.conname::text, 0,
           format('constraint %s.%s %s -- %s', c.relname, k.conname, pg_get_constraintdef(k.oid),
                  obj_description(k.oid, 'pg_constraint'))
      from pg_constraint k join pg_class c on c.oid = k.conrelid
     where k.connamespace = 'orch'::regnamespace and k.contype not in ('n', 't')
    union all
    select 4, i.relname::text, 0,
           format('index %s -- %s', pg_get_indexdef(i.oid), obj_description(i.oid, 'pg_class'))
      from pg_class i where i.relnamespace = 'orch'::regnamespace and i.relkind = 'i'
       and not exists (select from pg_constraint k where k.conindid = i.oid and k.contype = 'p')
    union all
    select 5, c.relname || '.' || t.tgname, 0,
           format('trigger %s %s -- %s', pg_get_triggerdef(t.oid), t.tgenabled::text, obj_description(t.oid, 'pg_trigger'))
      from pg_trigger t join pg_class c on c.oid = t.tgrelid
     where c.relnamespace = 'orch'::regnamespace and not t.tgisinternal
    union all
    select 6, p.proname::text, 0,
           format('function %s(%s) %s -- %s', p.proname, pg_get_function_identity_arguments(p.oid),
                  md5(pg_get_functiondef(p.oid)), obj_description(p.oid, 'pg_proc'))
      from pg_proc p where p.pronamespace = 'orch'::regnamespace
    union all
    select 7, c.relname::text, 0, format('view %s as %s', c.relname, pg_get_viewdef(c.oid))
      from pg_class c where c.relnamespace = 'orch'::regnamespace and c.relkind = 'v'
    union all
    select 8, h.version::text, h.version, format('history %s %s %s', h.version, h.name, h.checksum)
      from orch.schema_history h
    union all
    select 9, '', 0, format('hash %s', m.schema_hash) from orch.meta m
) everything
order by kind, of collate "C", place
