-- Pause or resume a schedule.
--
-- $1 text     name
-- $2 boolean  paused
-- rows: changed: whether that was new
-- guard: orch.pause_schedule's and orch.resume_schedule's own
-- index: the primary key
select case when $2 then orch.pause_schedule($1) else orch.resume_schedule($1) end as changed
