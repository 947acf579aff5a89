-- Register a boot as a live replica, with its first lease.
--
-- $1  uuid              replica_id
-- $2  text              name
-- $3  text              host
-- $4  text              boot_id
-- $5  text              state_dir_id
-- $6  text              version
-- $7  text[]            agents that it serves
-- $8  jsonb             labels
-- $9  integer           max_concurrency
-- $10 double precision  L, seconds
-- rows: none
-- guard: the primary key
-- index: the primary key
insert into orch.replicas
    (replica_id, name, host, boot_id, state_dir_id, version, state, draining, agents, labels, max_concurrency,
     started_at, lease_until)
values
    ($1, $2, $3, $4, $5, $6, 'live', false, $7, $8, $9, clock_timestamp(), clock_timestamp() + make_interval(secs => $10))
