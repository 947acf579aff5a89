-- The replicas that claim, and how many slots each has free.
create or replace view orch.free_slots as
select p as replica, p.replica_id, p.name, p.host, p.agents, p.labels, p.max_concurrency, r.running,
       p.max_concurrency - r.running - e.ending as free
  from orch.replicas p
 cross join lateral (
    select count(*) as running from orch.agent_runs r where r.replica_id = p.replica_id and r.ended_at is null) r
 cross join lateral (
    select count(*) as ending from orch.jobs j where j.awaits_replica = p.replica_id) e
 where p.state = 'live' and not p.draining;
comment on view orch.free_slots is 'The replicas that claim, and how many slots each has free.';
comment on column orch.free_slots.replica is 'The row.';
comment on column orch.free_slots.replica_id is 'The replica.';
comment on column orch.free_slots.name is 'Its name.';
comment on column orch.free_slots.host is 'Where it runs.';
comment on column orch.free_slots.agents is 'The agents that it serves.';
comment on column orch.free_slots.labels is 'Its labels.';
comment on column orch.free_slots.max_concurrency is 'Its slots.';
comment on column orch.free_slots.running is 'Its open runs.';
comment on column orch.free_slots.free is 'How many more it takes: its slots, less its open runs and the old processes of jobs that were taken from it. Below 0 where these are more.';
