-- What the database's clock says.
--
-- rows: one: at
-- guard: none
-- index: none
select clock_timestamp() as at
