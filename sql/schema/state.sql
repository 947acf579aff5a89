-- Which schema this is: the migrations that were applied, and the definitions.
--
-- rows: one a migration, by version: version, checksum, and on each schema_hash (null before the definitions came)
-- guard: none
-- index: the primary key
select h.version, h.checksum, (select m.schema_hash from orch.meta m) as schema_hash
  from orch.schema_history h
 order by h.version
