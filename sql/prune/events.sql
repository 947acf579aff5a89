-- Delete the oldest events, as far as they are old.
--
-- $1 double precision  for how many seconds they are kept
-- $2 bigint            how many at the most
-- rows: one: events, how many were deleted; fewer than $2 where none is left
-- guard: none
-- index: events_pkey
with oldest as materialized (
    select e.id, e.at from orch.events e order by e.id limit $2
),
deleted as (
    delete from orch.events e
     using oldest o
     where e.id = o.id and o.at < now() - make_interval(secs => $1)
    returning e.id
)
select count(*) as events from deleted
