-- Whether the schema was ever made here.
--
-- rows: one: exists
-- guard: none
-- index: the catalog's own
select to_regclass('orch.schema_history') is not null and to_regclass('orch.meta') is not null as exists
