-- Add a schedule. What is null is left to the table's default.
--
-- $1  text              name
-- $2  text              cron, or null
-- $3  double precision  or an interval, seconds
-- $4  timestamptz       what the interval is counted from; null: now
-- $5  text              time zone
-- $6  text              catch_up
-- $7  integer           catch_up_max
-- $8  double precision  grace, seconds
-- $9  text              overlap
-- $10 boolean           paused
-- $11 text              agent
-- $12 text              payload, JSON as text: numbers keep their digits
-- $13 text              project
-- $14 smallint          priority
-- $15 text              gate, or null
-- $16 text[]            limits, or null
-- $17 jsonb             labels, or null
-- $18 jsonb             require, or null
-- $19 integer           max_attempts, or null
-- $20 double precision  timeout, seconds, or null
-- $21 text              tick_key, or null
-- rows: name; none where there is a schedule of this name already
-- guard: orch.guard_schedule, the CHECKs
-- index: the primary key
with added as (
    insert into orch.schedules
        (name, cron, every, anchor_at, time_zone, catch_up, catch_up_max, grace, overlap, paused, agent, payload, project,
         priority, gate, limits, labels, require, max_attempts, timeout, tick_key)
    values
        ($1, $2, make_interval(secs => $3), coalesce($4, date_trunc('second', clock_timestamp())), coalesce($5, 'UTC'),
         coalesce($6, 'one'), coalesce($7, 100), coalesce(make_interval(secs => $8), interval '1 minute'),
         coalesce($9, 'skip'), coalesce($10, false), $11, coalesce($12::jsonb, '{}'), coalesce($13, 'default'),
         coalesce($14, 0), $15, $16, $17, $18, $19, make_interval(secs => $20), $21)
    on conflict (name) do nothing
    returning name
),
told as (
    insert into orch.events (kind, detail) select 'schedule_added', jsonb_build_object('schedule', name) from added
)
select name from added
