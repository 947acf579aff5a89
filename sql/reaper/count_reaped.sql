-- Count what was reaped.
--
-- $1 bigint   how many
-- rows: none
-- guard: the primary key
-- index: the primary key
insert into orch.counters as c (name, value) values ('reaped_total', $1)
on conflict (name) do update set value = c.value + excluded.value
