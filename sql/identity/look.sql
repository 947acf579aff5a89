-- Which database this is, and which one it says it is.
--
-- rows: one: database (name), database_oid, may_ask_system (whether this user may ask for the system identifier),
--       recorded_system, recorded_oid (orch.meta: null until the first replica noted them), has_runs
-- guard: none
-- index: agent_runs_pkey, one entry; meta has one row
select current_database()::text as database,
       (select d.oid from pg_database d where d.datname = current_database()) as database_oid,
       coalesce(has_function_privilege(to_regprocedure('pg_catalog.pg_control_system()'), 'execute'), false)
           as may_ask_system,
       m.system_identifier as recorded_system, m.database_oid as recorded_oid,
       exists (select from orch.agent_runs) as has_runs
  from orch.meta m
