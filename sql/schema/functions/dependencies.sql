-- Jobs that run after others: what may be named, what is still waited for, and what becomes of a job when one of those it
-- waits for has ended.

-- Says why a job cannot be enqueued after these; nulls where it can. A job that was pruned counts as not there: nobody
-- knows any more how it ended.
create or replace function orch.fault_of_after(after bigint[], out code text, out complaint text)
language plpgsql stable
set search_path = pg_catalog, orch
as $$
#variable_conflict use_variable
declare
    bad record;
    twice constant bigint := (select a from unnest(after) a group by a having count(*) > 1 order by a limit 1);
begin
    code := 'OR004';
    complaint := case
        when array_ndims(after) > 1 then 'after must be a flat array of job numbers'
        when array_position(after, null) is not null then 'after must not contain null: name jobs by their numbers'
        when cardinality(after) > 1000 then
            format('after names %s jobs, and 1000 are the most: put a job in between', cardinality(after))
        when twice is not null then format('after names job %s twice', twice)
    end;
    if complaint is not null then
        return;
    end if;
    select a.id, p.status into bad
      from unnest(after) with ordinality a (id, place)
      left join orch.jobs p on p.id = a.id
     where p.id is null or p.status in ('failed', 'cancelled')
     order by a.place
     limit 1;
    if not found then
        code := null;
    elsif bad.status is null then
        code := 'OR005';
        complaint := format('after names job %s, and there is no such job', bad.id);
    else
        complaint := format('after names job %s, which is %s: retry it first, or leave it out', bad.id, bad.status);
    end if;
end
$$;
comment on function orch.fault_of_after is 'Says in words why a job cannot be enqueued after these; nulls where it can.';

-- Those of these that have not succeeded, ascending; null where all have. One that is not there has not.
create or replace function orch.unfinished(after bigint[]) returns bigint[]
language sql stable
set search_path = pg_catalog, orch
as $$
    select array_agg(a.id order by a.id)
      from unnest(after) a (id)
      left join orch.jobs p on p.id = a.id
     where p.status is distinct from 'succeeded'
$$;
comment on function orch.unfinished is 'Those of these jobs that have not succeeded; null where all have.';

-- The first of these that waits for `target`, or is it; null where none does. Numbers fall on every way, so it ends.
create or replace function orch.leads_to(after bigint[], target bigint) returns bigint
language sql stable
set search_path = pg_catalog, orch
as $$
    with recursive way (start, id) as (
        select a.id, a.id from unnest(after) a (id)
        union
        select w.start, d.after_id
          from way w
          join orch.job_dependencies d on d.job_id = w.id and d.after_id >= target
    )
    select min(w.start) from way w where w.id = target
$$;
comment on function orch.leads_to is 'The first of these jobs that was enqueued, by whatever detour, after the target.';

-- What becomes of jobs that wait for others: let go where all have succeeded, cancelled where one has failed, was cancelled
-- or is gone. Looks at those that wait for `ended`, and at `waiting` themselves; at most `most` of them, in the order of
-- their numbers, passing over rows that another transaction has locked. Repeating it is harmless.
--
-- A job is looked at when the last one in its waits_for has ended, or any one badly; so of a thousand predecessors not each
-- writes the row. What is then in its place may have ended meanwhile, unheard: those rows are `shortened`, to be looked at
-- once more by a later statement. `more`: some were passed over, or there are more than `most`.
create or replace function orch.resolve_waits(
    ended bigint[], waiting bigint[], most integer,
    out released bigint, out cancelled bigint[], out shortened bigint[], out more boolean
)
language plpgsql
set search_path = pg_catalog, orch
as $$
#variable_conflict use_column
declare
    found_jobs bigint[];
    seen bigint[];
    called integer;
begin
    found_jobs := array(
        select j.id
          from (select d.job_id
                  from orch.job_dependencies d
                  join orch.jobs w on w.id = d.job_id and w.waits_for is not null
                  left join orch.jobs p on p.id = d.after_id
                 where d.after_id = any (ended)
                   and (p.status is distinct from 'succeeded' or d.after_id = w.waits_for[cardinality(w.waits_for)])
                union
                select unnest(waiting)) f (job_id)
          join orch.jobs j on j.id = f.job_id and j.waits_for is not null
         order by j.id
         limit most::bigint + 1);
    more := cardinality(found_jobs) > most;
    with locked as materialized (
        select j.id, j.status, j.waits_for
          from orch.jobs j
         where j.id = any (found_jobs[:most]) and j.waits_for is not null
         order by j.id
           for no key update skip locked
    ),
    judged as materialized (
        select l.id, l.status, l.waits_for, p.rest, p.bad
          from locked l
         cross join lateral (
            select array_agg(a.id order by a.id) filter (where p.status is distinct from 'succeeded') as rest,
                   min(a.id) filter (where p.id is null or p.status in ('failed', 'cancelled')) as bad
              from unnest(l.waits_for) a (id)
              left join orch.jobs p on p.id = a.id) p
    ),
    changed as (
        update orch.jobs j
           set status = case when b.bad is not null then 'cancelled' else j.status end,
               waits_for = case when b.bad is null then b.rest end,
               claimable = b.bad is null and b.rest is null and j.status = 'queued' and j.awaits_replica is null,
               finished_at = case when b.bad is not null then clock_timestamp() end,
               live_dedupe_key = case when b.bad is null then j.live_dedupe_key end,
               error = case when b.bad is null then j.error
                            else format('cancelled: it was to run after job %s, which %s', b.bad, coalesce(
                                (select case p.status when 'failed' then 'failed' else 'was cancelled' end
                                        || coalesce(': ' || left(regexp_replace(p.error, '^cancelled: ', ''), 500), '')
                                   from orch.jobs p where p.id = b.bad), 'is gone')) end
          from judged b
         where j.id = b.id and (b.bad is not null or b.rest is distinct from b.waits_for)
        returning j.id, j.status, j.waits_for, j.claimable, j.agent, j.require, j.run_at, b.status as was, b.bad
    ),
    told as (
        insert into orch.events (kind, job_id, detail)
        select 'cancelled', c.id, jsonb_build_object('was', c.was, 'after', c.bad)
          from changed c where c.status = 'cancelled'
    ),
    woken as (
        select orch.wake(c.agent, c.require, least(count(*), 8)::integer)
          from changed c where c.claimable and c.run_at <= now() group by c.agent, c.require
    )
    select (select count(*) from changed c where c.status <> 'cancelled' and c.waits_for is null),
           array(select c.id from changed c where c.status = 'cancelled' order by c.id),
           array(select c.id from changed c where c.waits_for is not null order by c.id),
           array(select l.id from locked l),
           (select count(*) from woken)
      into released, cancelled, shortened, seen, called;
    more := more or exists (select from unnest(found_jobs[:most]) f (id)
                              join orch.jobs j on j.id = f.id and j.waits_for is not null
                             where f.id <> all (seen));
end
$$;
comment on function orch.resolve_waits is
    'Lets jobs go whose predecessors have succeeded, and cancels those of which one has not; repeating it is harmless.';

-- What follows at once from the cancel of a job that waited: those that wait for it are cancelled, and those that wait for
-- them. Whatever somebody else has in hands is left to the tick.
create or replace function orch.cancel_dependents(job_id bigint) returns void
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    ended bigint[] := array[job_id];
    done record;
begin
    -- bounded: an operator's statement holds all these locks to its end
    for round in 1 .. 20 loop
        done := orch.resolve_waits(ended, '{}', 1000);
        exit when done.cancelled = '{}';
        ended := case when done.more then ended end || done.cancelled;
    end loop;
end
$$;
comment on function orch.cancel_dependents is 'Cancels the jobs that wait for a cancelled one, as far as nobody else has them in hands.';
