-- Why a job waits, what it does, or how it ended.
--
-- $1 bigint    id
-- $2 boolean   serial_gate_enabled
-- rows: one: status, reason, since, until (null where it is unknown, or never comes by itself), is_for_good (it never does),
--       sentence, unblock, detail as text
-- guard: none; orch.why refuses a job that is not there
-- index: the primary key, jobs_claim
select w.job_id, w.status, w.reason, w.since, case when isfinite(w.until) then w.until end as until,
       coalesce(w.until = 'infinity', false) as is_for_good, w.sentence, w.unblock, w.detail::text as detail
  from orch.why($1, $2) w
