-- The lane of a job: jobs of one project with the same lane are alike for a claim and wait for the same things. Priorities
-- come first, the higher the earlier; below them a hash of what a claim asks of a job. Two kinds of jobs may meet in one
-- lane, so a claim compares what it takes with the head. Written by guard_format, where one of these is written.
create or replace function orch.lane_of(priority smallint, agent text, gate text, limits text[], require jsonb) returns bigint
language sql immutable
as $$
    select ((- priority::bigint) << 47)
           | (hashtextextended(agent,
                  coalesce(hashtextextended(gate, 1), 0) # coalesce(hash_array_extended(limits, 2), 0)
                  # coalesce(jsonb_hash_extended(require, 3), 0)) & 140737488355327)
$$;
comment on function orch.lane_of is 'The lane of a job: what is alike for a claim has the same one, the higher priority the smaller.';
