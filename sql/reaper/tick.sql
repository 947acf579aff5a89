-- The tick: notes that somebody ticked, applies the outage rule, and looks whether there is anything to do; of the jobs it
-- walks a piece of the primary key, looking for running rows without an owner or an open run of their own, which no index
-- knows. What it finds is done by later statements, never in this one's snapshot.
--
-- $1 double precision  L, seconds
-- $2 double precision  H, seconds
-- $3 double precision  G, seconds
-- $4 boolean           whether impossible queued rows are looked for (impossible_queued_sanitize_enabled)
-- $5 bigint            walk from behind this job_id
-- $6 bigint            over how many rows at the most
-- rows: one: what there is to do; ownerless, the job_ids found; next_after, where the next walk goes on (null: the start)
-- guard: wait_until is set once an outage, or once a change of the server's timeline, and never moves backwards
-- index: jobs_impossible, jobs_awaits_replica, jobs_waits_for, agent_runs_open, the primary keys
with clock as materialized (
    select clock_timestamp() as now, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) as timeline
),
seen as materialized (
    select m.last_tick_at is null or m.last_tick_at < c.now - make_interval(secs => $1 / 2) as outage,
           m.timeline is not null and m.timeline <> c.timeline as failover,
           c.now, c.timeline
      -- its one row; said, since a plan for the 630 rows of a table without statistics is worth compiling to Postgres,
      -- which takes it half a second a tick
      from (select last_tick_at, timeline from orch.meta limit 1) m cross join clock c
),
ticked as (
    update orch.meta m
       set last_tick_at = s.now,
           timeline = s.timeline,
           wait_until = case
               when s.failover then greatest(m.wait_until, s.now + make_interval(secs => $1 + $3))
               when s.outage then greatest(m.wait_until, s.now + make_interval(secs => 3 * $2 + $3))
               else m.wait_until end,
           wait_until_set_at = case when s.failover or s.outage then s.now else m.wait_until_set_at end
      from seen s
    returning m.wait_until
),
piece as materialized (
    select j.id, j.status, j.run_id, j.replica_id
      from orch.jobs j
     where j.id > $5
     order by j.id
     limit $6
),
walked as (
    select coalesce(array_agg(p.id order by p.id) filter (
               where p.status = 'running'
                 and (not exists (select from orch.replicas o where o.replica_id = p.replica_id)
                      or not exists (select from orch.agent_runs r
                                      where r.run_id = p.run_id and r.job_id = p.id
                                        -- not "=": a server without statistics would go through all open runs of
                                        -- the replica for each row, by agent_runs_open
                                        and r.replica_id is not distinct from p.replica_id
                                        and r.ended_at is null))), '{}') as ownerless,
           case when count(*) = $6 then max(p.id) end as next_after
      from piece p
)
select exists (select from orch.replicas p where p.state = 'live'
                and p.lease_until < clock_timestamp() - make_interval(secs => $3)) as expired,
       exists (select from orch.agent_runs r join orch.replicas p using (replica_id)
                where r.ended_at is null and p.state <> 'live') as orphaned,
       $4 and exists (select from orch.jobs j where j.impossible) as impossible,
       exists (select from orch.agent_runs r
                where r.ended_at is null
                  and not exists (select from orch.jobs j
                                   where j.id = r.job_id and j.status = 'running' and j.run_id = r.run_id)) as idle_runs,
       exists (select from orch.jobs j where j.awaits_replica is not null
                  and not exists (select from orch.replicas p
                                   where p.replica_id = j.awaits_replica and p.state = 'live')) as unanswered,
       exists (select from orch.jobs j where j.waits_for is not null) as waits,
       coalesce(t.wait_until > c.now, false) as waiting,
       w.ownerless, w.next_after
  from ticked t cross join clock c cross join walked w
