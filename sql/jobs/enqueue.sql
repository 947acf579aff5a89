-- Enqueue one job.
--
-- $1  text              agent
-- $2  text              payload, JSON as text: numbers keep their digits, and what jsonb refuses it refuses itself
-- $3  text              project
-- $4  smallint          priority, higher first
-- $5  timestamptz       not before this instant, or null
-- $6  double precision  not before so many seconds from now, or null
-- $7  text              gate, or null
-- $8  jsonb             labels, or null
-- $9  text              dedupe key, or null
-- $10 text              what becomes of a second live job with that key: return, replace, refuse; null for return
-- $11 integer           counted failures after which it is failed, or null for the agent's
-- $12 double precision  timeout in seconds, or null for the agent's
-- rows: id
-- guard: orch.enqueue's own
-- index: jobs_live_dedupe_key, where there is a key
select orch.enqueue(
    agent => $1,
    payload => $2::jsonb,
    project => $3,
    priority => $4,
    run_at => coalesce($5, now() + make_interval(secs => coalesce($6, 0))),
    gate => $7,
    labels => $8,
    dedupe_key => $9,
    on_conflict => $10,
    max_attempts => $11,
    timeout => make_interval(secs => $12)
) as id
