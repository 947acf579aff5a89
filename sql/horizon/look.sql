-- How many dead rows lie in the tables of jobs and runs, and who has the oldest snapshot: nothing that has died since can be
-- removed. A slot's catalog_xmin and a session of another database keep no dead row of ours.
--
-- rows: one: dead_rows (as the statistics have them), kind (session, standby, prepared, slot; null where nobody has a
--       snapshot), pid, name (of the prepared transaction or the slot), role, application, client, state,
--       held_seconds (null where it is not known, or not for this role to know), transactions (begun since)
-- guard: none
-- index: none: views of the server's
with holders as (
    select case when a.backend_type = 'walsender' then 'standby' else 'session' end as kind, a.pid, null::text as name,
           a.usename::text as role, nullif(a.application_name, '') as application, host(a.client_addr) as client, a.state,
           a.xact_start as since, greatest(age(a.backend_xid), age(a.backend_xmin)) as transactions
      from pg_stat_activity a
     where (a.datname = current_database() or a.backend_type = 'walsender') and a.pid <> pg_backend_pid()
       -- a VACUUM looks at what is dead and keeps none of it
       and not exists (select from pg_stat_progress_vacuum v where v.pid = a.pid)
    union all
    select 'prepared', null, p.gid, p.owner::text, null, null, null, p.prepared, age(p.transaction)
      from pg_prepared_xacts p
     where p.database = current_database()
    union all
    select 'slot', s.active_pid, s.slot_name::text, null, null, null, null, null, age(s.xmin)
      from pg_replication_slots s
)
select d.dead_rows, h.kind, h.pid, h.name, h.role, h.application, h.client, h.state,
       extract(epoch from clock_timestamp() - h.since)::double precision as held_seconds, h.transactions
  from (select coalesce(sum(n_dead_tup), 0)::bigint as dead_rows
          from pg_stat_user_tables
         where schemaname = 'orch' and relname in ('jobs', 'agent_runs')) d
  left join lateral (select * from holders where transactions is not null order by transactions desc, since limit 1) h on true
