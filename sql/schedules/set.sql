-- Change a schedule. What is null stays as it is.
--
-- $1  text              name
-- $2  text              cron; it takes the place of an interval
-- $3  double precision  an interval, seconds; it takes the place of cron
-- $4  timestamptz       what the interval is counted from
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
-- $15 text              gate
-- $16 text[]            limits
-- $17 jsonb             labels
-- $18 jsonb             require
-- $19 integer           max_attempts
-- $20 double precision  timeout, seconds
-- $21 text              tick_key
-- $22 text[]            which of gate, limits, labels, require, max_attempts, timeout, tick_key are to be null
-- rows: name; none where there is no such schedule
-- guard: orch.guard_schedule, the CHECKs
-- index: the primary key
with changed as (
    update orch.schedules s
       set cron = case when $3 is null then coalesce($2, s.cron) else $2 end,
           every = case when $2 is null then coalesce(make_interval(secs => $3), s.every) else make_interval(secs => $3) end,
           anchor_at = coalesce($4, s.anchor_at),
           time_zone = coalesce($5, s.time_zone),
           catch_up = coalesce($6, s.catch_up),
           catch_up_max = coalesce($7, s.catch_up_max),
           grace = coalesce(make_interval(secs => $8), s.grace),
           overlap = coalesce($9, s.overlap),
           paused = coalesce($10, s.paused),
           agent = coalesce($11, s.agent),
           payload = coalesce($12::jsonb, s.payload),
           project = coalesce($13, s.project),
           priority = coalesce($14, s.priority),
           gate = case when 'gate' = any ($22) then null else coalesce($15, s.gate) end,
           limits = case when 'limits' = any ($22) then null else coalesce($16, s.limits) end,
           labels = case when 'labels' = any ($22) then null else coalesce($17, s.labels) end,
           require = case when 'require' = any ($22) then null else coalesce($18, s.require) end,
           max_attempts = case when 'max_attempts' = any ($22) then null else coalesce($19, s.max_attempts) end,
           timeout = case when 'timeout' = any ($22) then null else coalesce(make_interval(secs => $20), s.timeout) end,
           tick_key = case when 'tick_key' = any ($22) then null else coalesce($21, s.tick_key) end
     where s.name = $1
    returning s.name
),
told as (
    insert into orch.events (kind, detail) select 'schedule_set', jsonb_build_object('schedule', name) from changed
)
select name from changed
