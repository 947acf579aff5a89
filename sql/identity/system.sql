-- The identity of the database cluster. Apart from the rest, since some servers forbid it.
--
-- rows: one: system_identifier
-- guard: the right to execute pg_control_system
-- index: none
select c.system_identifier from pg_control_system() c
