-- Adopt: move live runs of former boots of a state directory to their successor, each by compare-and-swap, and raise the
-- successor's lease to at least the former owner's, since until it is told otherwise the run lives by that one.
--
-- $1 uuid       replica_id of the successor
-- $2 bigint[]   job_ids
-- $3 uuid[]     run_ids
-- $4 uuid[]     replica_ids of the former owners, as the successor saw them
-- rows: job_id, run_id, answer: `adopted` (also where an earlier reply was lost), `busy` (another transaction holds the
--       row: send it again) or `not_yours` (reaped, settled or taken meanwhile, or the former owner was declared dead)
-- guard: run_id and the former replica_id of a running row, under its lock; the successor is live, under its own, so that
--        nobody declares it dead before the run is its own and its lease is long enough; and the owner was live
-- index: the primary keys
with facts as (
    select * from unnest($2, $3, $4) as f (job_id, run_id, former)
),
me as materialized (
    select from orch.replicas where replica_id = $1 and state = 'live' for no key update
),
locked as materialized (
    select j.id, f.run_id, f.former, p.lease_until
      from orch.jobs j
      join facts f on f.job_id = j.id
      join orch.replicas p on p.replica_id = f.former and p.state = 'live'
     where j.status = 'running' and j.run_id = f.run_id and j.replica_id = f.former
       and exists (select from me)
     order by j.id
       for update of j skip locked
),
moved as (
    update orch.jobs j
       set replica_id = $1
      from locked l
     where j.id = l.id and j.run_id = l.run_id and j.replica_id = l.former
    returning j.id, l.run_id, l.former, l.lease_until
),
handed as (
    update orch.agent_runs r
       set replica_id = $1
      from moved m
     where r.run_id = m.run_id and r.replica_id = m.former and r.ended_at is null
),
raised as (
    update orch.replicas me
       set lease_until = greatest(me.lease_until, (select max(m.lease_until) from moved m))
     where me.replica_id = $1 and me.state = 'live' and exists (select from moved)
)
select f.job_id, f.run_id,
       case when m.id is not null or j.replica_id = $1 then 'adopted'
            when j.replica_id = f.former and p.state = 'live' then 'busy'
            else 'not_yours' end as answer
  from facts f
  left join moved m on m.id = f.job_id
  left join orch.jobs j on j.id = f.job_id and j.status = 'running' and j.run_id = f.run_id
  left join orch.replicas p on p.replica_id = f.former
