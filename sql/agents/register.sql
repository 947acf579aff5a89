-- Register what the database must know of the agents that a replica serves.
--
-- $1 text[]              names
-- $2 integer[]           max_attempts
-- $3 double precision[]  timeouts, seconds; null for none
-- $4 double precision[]  silence timeouts, seconds; null for none
-- $5 double precision[]  backoff base, seconds
-- $6 double precision[]  backoff factor
-- $7 double precision[]  backoff max, seconds
-- $8 text[]              on_lost
-- rows: none
-- guard: the CHECKs of orch.agents; a row that says the same already is not written
-- index: the primary key
insert into orch.agents as a
    (name, max_attempts, timeout, silence_timeout, backoff_base, backoff_factor, backoff_max, on_lost, updated_at)
select f.name, f.max_attempts, make_interval(secs => f.timeout), make_interval(secs => f.silence_timeout),
       make_interval(secs => f.base), f.factor, make_interval(secs => f.max), f.on_lost, clock_timestamp()
  from unnest($1, $2, $3, $4, $5, $6, $7, $8)
       as f (name, max_attempts, timeout, silence_timeout, base, factor, max, on_lost)
 order by f.name
on conflict (name) do update
   set max_attempts = excluded.max_attempts, timeout = excluded.timeout, silence_timeout = excluded.silence_timeout,
       backoff_base = excluded.backoff_base, backoff_factor = excluded.backoff_factor,
       backoff_max = excluded.backoff_max, on_lost = excluded.on_lost, updated_at = excluded.updated_at
 where (a.max_attempts, a.timeout, a.silence_timeout, a.backoff_base, a.backoff_factor, a.backoff_max, a.on_lost)
       is distinct from
       (excluded.max_attempts, excluded.timeout, excluded.silence_timeout, excluded.backoff_base,
        excluded.backoff_factor, excluded.backoff_max, excluded.on_lost)
