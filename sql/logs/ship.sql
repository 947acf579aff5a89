-- Store the next chunk of each of these runs.
--
-- $1 uuid[]    run ids, each at most once
-- $2 bigint[]  positions of the chunks in the whole output
-- $3 bytea[]   the chunks, at most 256 KiB each
-- rows: run_id of those that the database knows; nothing was stored of the others
-- guard: the run's row; a chunk that is there already is not stored again, and one that a dying process stored shorter is
--        made whole, since output never changes
-- index: the primary keys; the run is looked up one at a time, whatever the planner expects of an array
with known as materialized (
    select s.run_id, s.position, s.bytes
      from unnest($1, $2, $3) as s (run_id, position, bytes)
     where (select true from orch.agent_runs r where r.run_id = s.run_id)
),
stored as (
    insert into orch.run_logs as l (run_id, position, bytes)
    select run_id, position, bytes from known order by run_id
    on conflict (run_id, position) do update set bytes = excluded.bytes
     where octet_length(excluded.bytes) > octet_length(l.bytes)
)
select run_id from known
