-- Register what the database must know of the agents that a replica serves, and the limits that they name.
--
-- $1 text[]              names
-- $2 integer[]           max_attempts
-- $3 double precision[]  timeouts, seconds; null for none
-- $4 double precision[]  silence timeouts, seconds; null for none
-- $5 double precision[]  backoff base, seconds
-- $6 double precision[]  backoff factor
-- $7 double precision[]  backoff max, seconds
-- $8 text[]              on_lost
-- $9 text[]              limits, the names of each agent separated by commas; null for none
-- rows: none
-- guard: the CHECKs of orch.agents and orch.limits; orch.drop_limit waits for this, and sees it; a row that says the same already is not written
-- index: the primary keys
with facts as (
    select f.*, string_to_array(f.names, ',') as limits
      from unnest($1, $2, $3, $4, $5, $6, $7, $8, $9)
           as f (name, max_attempts, timeout, silence_timeout, base, factor, max, on_lost, names)
),
-- A limit that nobody has set has no bound, and is there to be closed.
made as (
    insert into orch.limits (name)
    select distinct u.name from facts f cross join lateral unnest(f.limits) u (name) order by u.name
    on conflict on constraint limits_pkey do nothing
),
-- Nor is it dropped before the agents that name it can be seen.
kept as (
    select orch.keep_limits(array_agg(distinct u.name)) from facts f cross join lateral unnest(f.limits) u (name)
)
insert into orch.agents as a
    (name, max_attempts, timeout, silence_timeout, backoff_base, backoff_factor, backoff_max, on_lost, limits, updated_at)
select f.name, f.max_attempts, make_interval(secs => f.timeout), make_interval(secs => f.silence_timeout),
       make_interval(secs => f.base), f.factor, make_interval(secs => f.max), f.on_lost, f.limits, clock_timestamp()
  from facts f
 where (select count(*) from kept) > 0
 order by f.name
on conflict (name) do update
   set max_attempts = excluded.max_attempts, timeout = excluded.timeout, silence_timeout = excluded.silence_timeout,
       backoff_base = excluded.backoff_base, backoff_factor = excluded.backoff_factor,
       backoff_max = excluded.backoff_max, on_lost = excluded.on_lost, limits = excluded.limits,
       updated_at = excluded.updated_at
 where (a.max_attempts, a.timeout, a.silence_timeout, a.backoff_base, a.backoff_factor, a.backoff_max, a.on_lost, a.limits)
       is distinct from
       (excluded.max_attempts, excluded.timeout, excluded.silence_timeout, excluded.backoff_base,
        excluded.backoff_factor, excluded.backoff_max, excluded.on_lost, excluded.limits)
