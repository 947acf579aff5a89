-- Remove a schedule; its jobs stay.
--
-- $1 text  name
-- rows: name; none where there was no such schedule
-- guard: none
-- index: the primary key
with removed as (
    delete from orch.schedules where name = $1 returning name
),
told as (
    insert into orch.events (kind, detail) select 'schedule_removed', jsonb_build_object('schedule', name) from removed
)
select name from removed
