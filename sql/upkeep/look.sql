-- Look which of the busy tables want their statistics made anew, or their dead rows removed.
--
-- $1 bigint            dead rows from which on a table is vacuumed
-- $2 double precision  seconds that must have passed since it was vacuumed last, by whomever
-- rows: one a table that wants something and belongs to a role of this session: table_name; vacuum (which analyzes too),
--       else it is to be analyzed only
-- guard: none; no vacuum where an older transaction keeps all that has died since the last one
-- index: none but the server's own
select c.relname::text as table_name, w.vacuum
  from (values ('orch.jobs'::regclass), ('orch.agent_runs'::regclass)) t (id)
  join pg_class c on c.oid = t.id and pg_has_role(c.relowner, 'usage')
 cross join lateral (
    select greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid)) as vacuumed_at) l
 cross join lateral (
    select pg_stat_get_dead_tuples(c.oid) >= $1
               and (l.vacuumed_at is null
                    or (l.vacuumed_at < clock_timestamp() - make_interval(secs => $2)
                        and not exists (select from pg_stat_activity a
                                         where a.datname = current_database() and a.backend_xmin is not null
                                           and a.xact_start < l.vacuumed_at))) as vacuum,
           -- Plans are made for what the statistics say, and kept until they change.
           pg_relation_size(c.oid) / current_setting('block_size')::integer > 2 * c.relpages + 100 as grown) w
 where w.vacuum or w.grown
