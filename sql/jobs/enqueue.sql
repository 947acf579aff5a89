-- Enqueue one job.
--
-- $1  text              agent
-- $2  text              payload, JSON as text: numbers keep their digits, and what jsonb refuses it refuses itself
-- $3  text              project
-- $4  smallint          priority, higher first
-- $5  timestamptz       not before this instant, or null
-- $6  double precision  not before so many seconds from now, or null
-- $7  text              gate, or null
-- $8  text[]            limits that it needs, or null
-- $9  jsonb             labels, or null
-- $10 jsonb             labels that its replica must have, or null
-- $11 text              dedupe key, or null
-- $12 text              what becomes of a second live job with that key: return, replace, refuse; null for return
-- $13 bigint[]          jobs that must have succeeded before, or null
-- $14 integer           counted failures after which it is failed, or null for the agent's
-- $15 double precision  timeout in seconds, or null for the agent's
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
    limits => $8,
    labels => $9,
    require => $10,
    dedupe_key => $11,
    on_conflict => $12,
    after => $13,
    max_attempts => $14,
    timeout => make_interval(secs => $15)
) as id
