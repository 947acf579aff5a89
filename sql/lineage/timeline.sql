-- Which timeline the server writes, which every promotion raises.
--
-- rows: one: timeline (eight hexadecimal digits; null on a standby, which writes none), may_ask_system (whether this user
--       may ask for the system identifier)
-- guard: none
-- index: none
select case when not pg_is_in_recovery() then substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end as timeline,
       coalesce(has_function_privilege(to_regprocedure('pg_catalog.pg_control_system()'), 'execute'), false)
           as may_ask_system
