-- The instant so many seconds from now, by the database's clock.
--
-- $1 double precision   seconds
-- rows: one: instant
-- guard: none
-- index: none
select now() + make_interval(secs => $1) as instant
