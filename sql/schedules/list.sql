-- Schedules by name, with what has become of the job that each enqueued last.
--
-- $1 text    only this one, or null
-- $2 bigint  how many at the most
-- rows: a schedule each; the payload (as text) only where one is named; next_tick_at is null while it is not computed, and
--       overdue_seconds is for how long it has been due (null: it is not, or it is paused)
-- guard: none
-- index: a scan, schedules are few; jobs_pkey
select s.name, s.cron, extract(epoch from s.every)::double precision as every_seconds, s.anchor_at, s.time_zone,
       s.catch_up, s.catch_up_max, extract(epoch from s.grace)::double precision as grace_seconds, s.overlap, s.paused,
       case when s.planned and not s.paused then s.next_tick_at end as next_tick_at, s.planned, s.last_tick_at, s.last_answer,
       s.last_job_id, j.status as last_job_status, s.skipped, s.error,
       s.agent, case when $1 is not null then s.payload::text end as payload, s.project, s.priority, s.gate, s.limits, s.labels, s.require, s.max_attempts,
       extract(epoch from s.timeout)::double precision as timeout_seconds, s.tick_key, s.created_at,
       case when not s.paused and s.next_tick_at <= clock_timestamp()
            then extract(epoch from clock_timestamp() - s.next_tick_at)::double precision end as overdue_seconds
  from orch.schedules s
  left join orch.jobs j on j.id = s.last_job_id
 where $1::text is null or s.name = $1
 order by s.name
 limit $2
