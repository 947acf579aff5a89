-- Enqueue the jobs of one pass of the bench, in one call.
--
-- $1 text     agent
-- $2 bigint   how many
-- rows: one: the first and the last job_id; they are the only jobs made in between
-- guard: none; the database is the bench's own
-- index: none
select min(e.id) as first, max(e.id) as last
  from orch.enqueue_many(
           (select jsonb_agg(jsonb_build_object('agent', $1, 'project', 'bench')) from generate_series(1::bigint, $2))) as e (id)
