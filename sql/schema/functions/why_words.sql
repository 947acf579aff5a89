-- The sentences of orch.why, made of its facts and of nothing else. Names are quoted as JSON, which shows control characters
-- instead of sending them to a terminal.

-- An age or a rest in its largest two units: 3s, 4m10s, 2h05m, 9d.
create or replace function orch.short(span interval) returns text
language sql immutable
set search_path = pg_catalog, orch
as $$
    select case when s < 60 then s || 's'
                when s < 3600 then s / 60 || 'm' || case when s % 60 > 0 then lpad((s % 60)::text, 2, '0') || 's' else '' end
                when s < 86400 then s / 3600 || 'h'
                                    || case when s / 60 % 60 > 0 then lpad((s / 60 % 60)::text, 2, '0') || 'm' else '' end
                else s / 86400 || 'd' end
      from (select greatest(extract(epoch from span), 0)::bigint as s) e
$$;
comment on function orch.short is 'A span in its largest two units.';

create or replace function orch.short_instant(at timestamptz) returns text
language sql immutable
set search_path = pg_catalog, orch
as $$
    select to_char(at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"')
$$;
comment on function orch.short_instant is 'A time, for people.';

create or replace function orch.short_time(at timestamptz) returns text
language sql immutable
set search_path = pg_catalog, orch
as $$
    select case when at = 'infinity' then 'until further notice' else 'until ' || orch.short_instant(at) end
$$;
comment on function orch.short_time is 'Until when, for people.';

-- "job 5 (pid 42 on "north", replica "north-1", for 4m10s)", or "the old process of job 5 (…)"
create or replace function orch.words_of_holder(holder jsonb) returns text
language sql stable
set search_path = pg_catalog, orch
as $$
    select format('%sjob %s (%s%s%s, for %s)', case when (holder ->> 'ending')::boolean then 'the old process of ' else '' end,
                  coalesce(holder ->> 'job_id', '?'),
                  case when holder ->> 'pid' is not null then 'pid ' || (holder ->> 'pid') || ' on '
                       else 'not started yet, on ' end,
                  coalesce((holder -> 'host')::text, 'an unknown host'),
                  coalesce(', replica ' || nullif((holder -> 'replica')::text, 'null'), ''),
                  orch.short(clock_timestamp() - (holder ->> 'since')::timestamptz))
$$;
comment on function orch.words_of_holder is 'A run and where it is, in words.';

-- Several runs, in words: the first five.
create or replace function orch.words_of_holders(holders jsonb) returns text
language sql stable
set search_path = pg_catalog, orch
as $$
    select string_agg(orch.words_of_holder(h), ', ' order by n) filter (where n <= 5)
           || case when count(*) > 5 then ', …' else '' end
      from jsonb_array_elements(holders) with ordinality u (h, n)
$$;
comment on function orch.words_of_holders is 'Runs and where they are, in words.';

-- What would make them let go of what they keep.
create or replace function orch.words_of_end(holders jsonb) returns text
language sql immutable strict
set search_path = pg_catalog, orch
as $$
    select case when (h.first ->> 'ending')::boolean
                then 'the end of that process, which its replica sees to'
                else format('the end of %s; to end it now: orch cancel %s',
                            case when h.others then 'one of them, job ' || coalesce(h.first ->> 'job_id', '?') || ' being the oldest'
                                 else 'job ' || coalesce(h.first ->> 'job_id', '?') end,
                            coalesce(h.first ->> 'job_id', 'ID')) end
      from (select coalesce((select a from jsonb_array_elements(holders) a where a -> 'ending' is null limit 1), holders -> 0),
                   jsonb_array_length(holders) > 1) h (first, others)
$$;
comment on function orch.words_of_end is 'What would have the first of these runs let go of what it keeps, in words.';

-- "job 5 (next), job 6 (no_free_slot)": jobs that come first, and what those wait for.
create or replace function orch.words_of_jobs(jobs jsonb) returns text
language sql immutable
set search_path = pg_catalog, orch
as $$
    select string_agg(format('job %s (%s)', j ->> 'job_id', j ->> 'reason'), ', ' order by n) filter (where n <= 5)
           || case when count(*) > 5 then ', …' else '' end
      from jsonb_array_elements(jobs) with ordinality u (j, n)
$$;
comment on function orch.words_of_jobs is 'Jobs and what they wait for, in words.';

-- How many are ahead of a job; null: more than were ranked.
create or replace function orch.words_of_queue(ahead bigint) returns text
language sql immutable
as $$
    select case ahead when 1 then '1 job is ahead of it'
                      else coalesce(ahead::text, 'thousands of') || ' jobs are ahead of it' end
$$;
comment on function orch.words_of_queue is 'How many jobs are ahead of one, in words.';

-- "north 8/8, south 3/8 (draining)"
create or replace function orch.words_of_fleet(fleet jsonb, serving boolean) returns text
language sql stable
set search_path = pg_catalog, orch
as $$
    select string_agg(format('%s %s/%s%s', r -> 'replica', r ->> 'running', r ->> 'max_concurrency',
                             case when (r ->> 'draining')::boolean then ' (draining)' else '' end), ', ' order by n)
      from jsonb_array_elements(fleet) with ordinality f (r, n)
     where (not serving or ((r ->> 'serves_agent')::boolean and (r ->> 'has_labels')::boolean
                            and not (r ->> 'draining')::boolean))
       and n <= 8
$$;
comment on function orch.words_of_fleet is 'Replicas and their slots, in words.';

-- What a waiting job waits for, and what would let it run.
create or replace function orch.words_of_wait(
    job orch.jobs, reason text, until timestamptz, facts jsonb, out sentence text, out unblock text)
language plpgsql stable
set search_path = pg_catalog, orch
as $$
#variable_conflict use_variable
declare
    a_limit constant jsonb := facts -> 'limit';
    holder constant jsonb := facts #> '{gate,held_by}';
    first_ones constant jsonb := facts -> 'before_it';
    ahead constant bigint := (facts ->> 'ahead_of_it')::bigint;
    queue constant text := case when (facts ->> 'ahead_at_least')::boolean then 'at least ' else '' end
                           || orch.words_of_queue(ahead);
    tail text := '';
begin
    if reason in ('held', 'not_due') and job.error is not null then
        tail := format('; its last run: %s', left(job.error, 300));
    end if;
    case reason
    when 'held' then
        sentence := format('it is held, for %s%s%s', orch.short(clock_timestamp() - orch.waits_since(job)),
                           coalesce(' by ' || (facts ->> 'held_by'), ''), tail);
        unblock := format('orch release %s', job.id);
    when 'old_process_ending' then
        sentence := format('it was taken from its replica, and waits until its old process has ended: %s',
                           coalesce(orch.words_of_holder((facts -> 'old_run') - 'ending'), 'of a run that is not known any more'));
        unblock := 'the replica ends the process and says so; if the replica is dead, the next tick of any other lets the job go';
    when 'waits_for_jobs' then
        sentence := format('jobs must have succeeded before it: %s', coalesce(
            (select string_agg(format('job %s (%s)', a ->> 'job_id', a ->> 'status'), ', ')
               from jsonb_array_elements(facts -> 'after') a), 'they have ended, and the next tick lets it go'));
        unblock := coalesce('why those wait: ' || (select string_agg('orch why ' || (a.a ->> 'job_id'), ', ')
            from (select a from jsonb_array_elements(facts -> 'after') a limit 5) a), 'nothing is to be done');
    when 'not_due' then
        sentence := format('it is not due for another %s, %s%s', orch.short(until - clock_timestamp()),
                           orch.short_time(until), tail);
        unblock := format('it runs by itself then; to run it now: orch set %s --run-at 0s', job.id);
    when 'paused' then
        sentence := format('%s is paused %s%s', case when a_limit ->> 'name' = 'all' then 'everything'
                                                     else replace(a_limit ->> 'name', ':', ' ') end,
                           orch.short_time(until), coalesce(': ' || nullif((a_limit -> 'reason')::text, 'null'), ''));
        unblock := 'orch resume --' || case when a_limit ->> 'name' = 'all' then 'all'
                                            else replace(a_limit ->> 'name', ':', ' ') end;
    when 'no_replica_serves_agent' then
        sentence := format('no live replica serves agent %s: %s', job.agent,
            case when facts -> 'replicas' = '[]' then 'none is live'
                 when exists (select from jsonb_array_elements(facts -> 'replicas') r where (r ->> 'serves_agent')::boolean)
                 then 'those that do are draining: ' || orch.words_of_fleet(facts -> 'replicas', false)
                 else 'live are ' || orch.words_of_fleet(facts -> 'replicas', false) end);
        unblock := format('start orch up with [agents.%s] in orch.toml, or end a drain: orch drain --off REPLICA', job.agent);
    when 'no_replica_matches_labels' then
        sentence := format('no live replica that serves agent %s has the labels %s: live are %s', job.agent, job.require,
            (select string_agg(format('%s %s', r -> 'replica', r -> 'labels'), ', ')
               from jsonb_array_elements(facts -> 'replicas') r where (r ->> 'serves_agent')::boolean));
        unblock := 'start a replica with these labels, or enqueue the job with labels that one has';
    when 'serial_gate' then
        if holder is null or holder = 'null' then
            sentence := format('gate %s is free, and %s comes first', facts #> '{gate,name}',
                               coalesce('job ' || (facts ->> 'first'), 'another job that waits for it'));
            unblock := 'the end of that job' || coalesce('; why it waits itself: orch why ' || (facts ->> 'first'), '');
        else
            sentence := format('gate %s is kept by %s', facts #> '{gate,name}', orch.words_of_holder(holder));
            unblock := orch.words_of_end(jsonb_build_array(holder));
        end if;
    when 'limit_closed' then
        sentence := format('limit %s is closed %s%s', a_limit ->> 'name', orch.short_time(until),
                           coalesce(': ' || nullif((a_limit -> 'reason')::text, 'null'), ''));
        unblock := format('it opens by itself then, with one job that probes; to open it now: orch limits open %s',
                          a_limit ->> 'name');
    when 'limit_full' then
        if (a_limit ->> 'room')::integer > 0 then
            sentence := format('limit %s has room for %s more, and others come first: %s%s', a_limit ->> 'name', a_limit ->> 'room',
                coalesce(orch.words_of_jobs(first_ones), 'jobs that need it as well'),
                coalesce('; it is held by ' || orch.words_of_holders(nullif(a_limit -> 'held_by', '[]')), ''));
            unblock := format('the end of those; %sfor more at the same time: orch limits set %s N',
                coalesce(format('why the first of them waits itself: orch why %s; ', first_ones #>> '{0,job_id}'), ''),
                a_limit ->> 'name');
        elsif (a_limit ->> 'probing')::boolean
              and coalesce((a_limit ->> 'running')::integer < (a_limit ->> 'max_running')::integer, true) then
            sentence := format('limit %s was closed, and lets one job probe whether it may open%s', a_limit ->> 'name',
                coalesce(': ' || orch.words_of_holders((
                    select jsonb_agg(h order by n) from jsonb_array_elements(a_limit -> 'held_by') with ordinality u (h, n)
                     where (h ->> 'since')::timestamptz >= (a_limit ->> 'closed_until')::timestamptz)), ''));
            unblock := format('the end of the job that probes; to open it now: orch limits open %s', a_limit ->> 'name');
        else
            sentence := format('limit %s is full: %s of %s run, namely %s', a_limit ->> 'name', a_limit ->> 'running',
                               a_limit ->> 'max_running', orch.words_of_holders(a_limit -> 'held_by'));
            unblock := format('%s; for more at the same time: orch limits set %s N', orch.words_of_end(a_limit -> 'held_by'),
                              a_limit ->> 'name');
        end if;
    when 'no_free_slot' then
        tail := case when exists (select from jsonb_array_elements(facts -> 'replicas') r
                                   where (r ->> 'serves_agent')::boolean and (r ->> 'has_labels')::boolean
                                     and not (r ->> 'draining')::boolean
                                     and (r ->> 'running')::integer < (r ->> 'max_concurrency')::integer)
                     then orch.words_of_jobs(facts -> 'others_first') end;
        sentence := format('%s: %s%s%s',
                           coalesce(format('where a slot is free, a limit or the gate that it needs goes to others first: %s; '
                                           'where it would have that, every replica is full', tail),
                                    'every replica that may take it is full'),
                           orch.words_of_fleet(facts -> 'replicas', true),
                           coalesce('; the slots are kept by ' || orch.words_of_holders(nullif(facts -> 'kept_by', '[]')), ''),
                           case when ahead > 0
                                then '; ' || queue || coalesce(': ' || orch.words_of_jobs(first_ones), '') else '' end);
        unblock := coalesce(orch.words_of_end(nullif(facts -> 'kept_by', '[]')) || '; ', '')
                   || case when tail is null then '' else format('the end of job %s; ', facts #>> '{others_first,0,job_id}') end
                   || 'more slots (max_concurrency), or another replica';
    when 'fair_share' then
        sentence := format('%s in fair order: %s%s', queue, orch.words_of_fleet(facts -> 'replicas', true),
                           coalesce('; first ' || orch.words_of_jobs(first_ones), ''));
        unblock := format('they are started first; to go before others of its project: orch set %s --priority N', job.id);
    when 'next' then
        sentence := format('it is next: a replica takes it at its next look (%s)', orch.words_of_fleet(facts -> 'replicas', true));
        unblock := 'nothing keeps it; replicas look every poll_interval';
    end case;
    sentence := format('job %s waits: %s', job.id, sentence);
end
$$;
comment on function orch.words_of_wait is 'What a waiting job waits for and what would let it run, in words.';

-- What a job does that runs, or how it ended.
create or replace function orch.words_of_run(job orch.jobs, facts jsonb, out sentence text, out unblock text)
language plpgsql stable
set search_path = pg_catalog, orch
as $$
declare
    heard constant timestamptz := (facts ->> 'last_output_at')::timestamptz;
    started constant timestamptz := (facts ->> 'started_at')::timestamptz;
    lease constant double precision := (facts ->> 'lease_left_seconds')::double precision;
    tries constant text := format('after %s', case job.attempt when 0 then 'no run' when 1 then '1 run' else job.attempt || ' runs' end);
begin
    if job.status = 'running' then
        sentence := format('job %s runs%s: %s, attempt %s%s%s', job.id,
            case when job.cancel_requested_at is not null
                 then format(' and is being cancelled for %s', orch.short(clock_timestamp() - job.cancel_requested_at)) else '' end,
            substring(orch.words_of_holder(facts -> 'run') from '\((.*)\)$'), job.attempt,
            case when heard is not null
                 then format(', last heard %s ago, at %s', orch.short(clock_timestamp() - heard), orch.short_instant(heard))
                 when started is not null
                 then format(', never heard since its start %s ago, at %s', orch.short(clock_timestamp() - started),
                             orch.short_instant(started))
                 else ', not heard yet' end,
            case when lease > 0 then format(', lease left %s', orch.short(make_interval(secs => lease)))
                 when lease <= 0 then format(', but its replica''s lease is over for %s: if it does not come back, the job runs elsewhere',
                                             orch.short(make_interval(secs => -lease)))
                 else '' end);
        unblock := format('its end; to end it now: orch cancel %s; what it says: orch logs -f %s', job.id, job.id);
        return;
    end if;
    sentence := format('job %s %s %s ago, %s%s', job.id,
        case job.status when 'succeeded' then 'succeeded' when 'failed' then 'failed' else 'was cancelled' end,
        orch.short(clock_timestamp() - job.finished_at), tries,
        case when job.status <> 'succeeded' and job.error is not null then ': ' || left(job.error, 300) else '' end);
    unblock := case when job.status = 'succeeded' then 'nothing is to be done' else format('to run it again: orch retry %s', job.id) end;
end
$$;
comment on function orch.words_of_run is 'What a running job does, or how one ended, in words.';
