-- The schedules that a replica has something to do for: those whose next tick is due, or is to be computed. Of more than
-- wanted it takes the eldest more likely than others, but by chance: so replicas seldom try for the same, and those that
-- wait for a job's end are in nobody's way.
--
-- $1 bigint  how many at the most
-- rows: now, wait_seconds (until the next one that is not due yet; null: there is none), and the schedule, all null where
--       none is due; there is always a row
-- guard: none: whoever fires says what it saw
-- index: schedules_due
with clock as materialized (
    select clock_timestamp() as now
),
soonest as materialized (
    select min(s.next_tick_at) as at from orch.schedules s
     where not s.paused and s.next_tick_at > (select now from clock)
),
due as (
    select e.name, row_number() over (order by e.next_tick_at) as place
      from (select s.name, s.next_tick_at from orch.schedules s
             where not s.paused and s.next_tick_at <= (select now from clock)
             order by s.next_tick_at
             limit $1 * 100) e
),
picked as (
    select s.* from (select name from due order by random() * place limit $1) d join orch.schedules s using (name)
)
select c.now,
       extract(epoch from n.at - c.now)::double precision as wait_seconds,
       p.name, p.revision, p.planned, p.next_tick_at, p.base_at, p.cron, p.time_zone,
       (extract(epoch from p.every) * 1000000)::bigint as every_us, p.anchor_at,
       p.catch_up, p.catch_up_max, extract(epoch from p.grace)::double precision as grace_seconds
  from clock c cross join soonest n
  left join picked p on true
 order by p.next_tick_at, p.name
