-- Enqueue many jobs at once.
--
-- $1 jsonb   an array of objects whose keys are the parameters of orch.enqueue
-- rows: id, in the order of the array
-- guard: orch.enqueue_many's own
-- index: none
select id from orch.enqueue_many($1) as id
