-- Enqueue a piece of a bulk, or say which of its wishes is the first bad one. Nothing is enqueued then, and the caller ends
-- the transaction.
--
-- $1 text   a JSON array of objects whose keys are the parameters of orch.enqueue
-- rows: one: ids in the order of the array; or place (from 1 on), code and complaint of the fault, and which other wish has
--       its dedupe_key, by its place here (twin) or its number (twin_job); place is null where the text is nothing for jsonb
-- guard: orch.enqueue_piece's own
-- index: jobs_live_dedupe_key, where there are keys
select ids, place, code, complaint, twin, twin_job from orch.enqueue_piece($1)
