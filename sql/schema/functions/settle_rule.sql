-- The table of settling: what follows for a job from how its run ended. The one definition; `model::settle` says the
-- same in Rust, and a test holds the two together over random facts.
--
-- A `language sql`, stable, set-returning function of one select: the planner inlines it into the settle statement. What
-- is mentioned more than once below is worked out behind `offset 0`: or each mention would be a copy of it all, to be made
-- ready with every settle.
-- `rules` is agent_runs.rules (durations in seconds); `lasted` the run's length in seconds; `jitter` 0.5 to 1.5;
-- `after_outage` whether the reaper has been waiting out an outage of late, when a loss is nobody's fault.
create or replace function orch.settle_rule(
    outcome text,
    cancel_pending boolean,
    failures integer,
    lost_count integer,
    transient_count integer,
    interrupted_count integer,
    rules jsonb,
    lasted double precision,
    retry_at timestamptz,
    jitter double precision,
    after_outage boolean
) returns table (
    next_status text,
    next_run_at timestamptz,
    next_failures integer,
    next_lost_count integer,
    next_transient_count integer,
    next_interrupted_count integer,
    verdict text
)
language sql stable
as $$
    select s.status,
           case
               when s.status <> 'queued' then null
               when outcome = 'transient' and retry_at is not null then retry_at
               when s.waits = 0 then clock_timestamp()
               else clock_timestamp() + make_interval(secs => jitter * least(
                   (rules #>> '{backoff,max}')::double precision,
                   (rules #>> '{backoff,base}')::double precision
                       -- the exponent is capped: a hundredth failure must not overflow a double
                       * exp(least(ln((rules #>> '{backoff,factor}')::double precision) * (s.waits - 1), 100))))
           end,
           s.failures, s.lost, s.transients, s.interruptions,
           case
               when s.status = 'failed' and outcome = 'lost' and rules ->> 'on_lost' <> 'fail'
                   then format('poisoned: its run was lost %s times', s.lost)
               when s.status = 'held' and outcome = 'transient'
                   then format('held after %s transient ends', s.transients)
               when s.status = 'held' and outcome = 'interrupted'
                   then format('held after %s interruptions', s.interruptions)
               when s.status = 'held' and outcome = 'lost'
                   then 'held: its run was lost, and the agent says on_lost = "hold"'
           end
      from (select n.*,
                   case
                       when outcome = 'succeeded' then 'succeeded'
                       when cancel_pending or outcome = 'cancelled' then 'cancelled'
                       when outcome = 'spawn_failed' then 'failed'
                       when outcome in ('failed', 'timed_out') then
                           case when n.failures >= (rules ->> 'max_attempts')::integer then 'failed' else 'queued' end
                       when outcome = 'transient' then
                           case when n.transients >= (rules ->> 'max_transient')::integer then 'held' else 'queued' end
                       when outcome = 'interrupted' then
                           case when n.interruptions >= (rules ->> 'max_interrupted')::integer then 'held' else 'queued' end
                       when outcome = 'lost' then
                           case when rules ->> 'on_lost' = 'hold' then 'held'
                                when rules ->> 'on_lost' = 'fail' then 'failed'
                                when n.lost >= (rules ->> 'max_lost')::integer then 'failed'
                                else 'queued' end
                   end as status,
                   -- how many waits of the backoff are due; 0 is at once
                   case outcome
                       when 'failed' then n.failures
                       when 'timed_out' then n.failures
                       when 'transient' then n.transients
                       when 'interrupted' then n.interruptions - 1
                       when 'lost' then greatest(n.lost - 1, 0)
                   end as waits
              from (select failures + (outcome in ('failed', 'timed_out'))::integer as failures,
                           lost_count + (outcome = 'lost' and not after_outage)::integer as lost,
                           transient_count + (outcome = 'transient')::integer as transients,
                           case when outcome <> 'interrupted' then interrupted_count
                                when lasted > (rules ->> 'lease')::double precision then 1
                                else interrupted_count + 1
                           end as interruptions) n
            offset 0) s
$$;
comment on function orch.settle_rule is
    'What follows for a job from how its run ended: the table of settling, as one function of facts.';
