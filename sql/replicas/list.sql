-- The replicas that are live or still own something, and with $1 every other one too; live ones first, then the youngest.
--
-- $1 boolean   whether dead ones and those that left are wanted as well
-- $2 bigint    how many at the most
-- rows: replica_id, name, host, state, draining, version, agents, labels, max_concurrency, open_runs, started_at,
--       lease_left_seconds (negative once it has run out)
-- guard: none
-- index: a scan, replicas are few; agent_runs_open
select p.replica_id, p.name, p.host, p.state, p.draining, p.version, p.agents, p.labels, p.max_concurrency,
       coalesce(r.open_runs, 0) as open_runs, p.started_at,
       extract(epoch from p.lease_until - clock_timestamp())::double precision as lease_left_seconds
  from orch.replicas p
  left join (select replica_id, count(*) as open_runs from orch.agent_runs where ended_at is null group by replica_id) r
    on r.replica_id = p.replica_id
 where $1 or p.state = 'live' or r.open_runs > 0
 order by p.state <> 'live', p.started_at desc, p.replica_id
 limit $2
