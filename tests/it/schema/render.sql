-- The final schema as a person reads it: what docs/schema.sql holds. Made from the catalog, so that it says what the
-- database has and not what a file meant.
--
-- rows: one: the text
with tables as (
    select c.oid, c.relname::text as name, c.reloptions, obj_description(c.oid, 'pg_class') as said
      from pg_class c
     where c.relnamespace = 'orch'::regnamespace and c.relkind = 'r'
),
columns as (
    select t.oid, a.attnum::int as place,
           format('%s %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                  case when a.attnotnull then ' not null' end,
                  case when a.attidentity = 'a' then ' generated always as identity'
                       when a.attgenerated = 's' then format(' generated always as (%s) stored', pg_get_expr(d.adbin, d.adrelid))
                       when d.adbin is not null then ' default ' || pg_get_expr(d.adbin, d.adrelid) end) as line,
           col_description(t.oid, a.attnum) as said
      from tables t
      join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
      left join pg_attrdef d on d.adrelid = t.oid and d.adnum = a.attnum
),
constraints as (
    -- From Postgres 18 on there are constraints for not null, which the columns say already.
    select t.oid, 10000 + row_number() over (partition by t.oid order by k.contype <> 'p', k.conname collate "C")::int as place,
           format('constraint %s %s', k.conname, pg_get_constraintdef(k.oid)) as line,
           obj_description(k.oid, 'pg_constraint') as said
      from tables t
      join pg_constraint k on k.conrelid = t.oid and k.contype in ('p', 'u', 'c', 'f')
),
bodies as (
    select oid, string_agg(format(E'    -- %s\n    %s', said, line), E',\n' order by place) as body
      from (select * from columns union all select * from constraints) lines
     group by oid
),
indexes as (
    select x.indrelid as oid,
           string_agg(format(E'-- %s\n%s;', obj_description(i.oid, 'pg_class'), pg_get_indexdef(i.oid)), E'\n'
                      order by i.relname collate "C") as body
      from pg_index x join pg_class i on i.oid = x.indexrelid
     where not x.indisprimary
     group by x.indrelid
),
triggers as (
    select g.tgrelid as oid,
           string_agg(format(E'-- %s\n%s;%s', obj_description(g.oid, 'pg_trigger'), pg_get_triggerdef(g.oid),
                             case g.tgenabled when 'A' then ' -- always' else ' -- NOT ALWAYS' end), E'\n'
                      order by g.tgname collate "C") as body
      from pg_trigger g where not g.tgisinternal
     group by g.tgrelid
),
functions as (
    select string_agg(format(E'-- %s\nfunction orch.%s(%s)\n    returns %s;', obj_description(p.oid, 'pg_proc'), p.proname,
                             pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)), E'\n\n'
                      order by p.proname collate "C", pg_get_function_arguments(p.oid) collate "C") as body
      from pg_proc p where p.pronamespace = 'orch'::regnamespace
),
views as (
    select string_agg(
               format(E'-- %s\nview orch.%s (\n%s\n);', obj_description(c.oid, 'pg_class'), c.relname,
                      (select string_agg(format(E'    -- %s\n    %s %s', col_description(c.oid, a.attnum), a.attname,
                                                format_type(a.atttypid, a.atttypmod)), E',\n' order by a.attnum)
                         from pg_attribute a where a.attrelid = c.oid and a.attnum > 0)), E'\n\n'
               order by c.relname collate "C") as body
      from pg_class c where c.relnamespace = 'orch'::regnamespace and c.relkind = 'v'
)
select concat_ws(E'\n\n',
    E'-- The schema orch as it is once everything is applied, for people. A test renders it anew and compares.\n'
    '-- What makes it: migrations/ (tables), sql/schema/ (functions, views, triggers). As a script: orch migrate --sql.',
    (select string_agg(
         concat_ws(E'\n',
             '-- ' || t.said,
             format(E'create table orch.%s (\n%s\n)%s;', t.name, b.body,
                    E'\nwith (' || array_to_string(t.reloptions, ', ') || ')'),
             x.body, g.body),
         E'\n\n' order by array_position('{jobs,agent_runs,replicas,agents,projects,meta,counters,events}', t.name), t.name)
       from tables t join bodies b using (oid) left join indexes x using (oid) left join triggers g using (oid)),
    (select body from views), (select body from functions)) || E'\n' as text
