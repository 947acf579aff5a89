-- Enqueue many jobs in one call, all or nothing. `wishes` is an array of objects whose keys are the parameters of
-- orch.enqueue; null is as good as absent, but for the payload. Times and intervals are strings as Postgres reads them.
-- Returns the numbers in the order of the array. A bad element is named by its place, from 1 on.
create or replace function orch.enqueue_many(wishes jsonb) returns setof bigint
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    answer record;
begin
    if jsonb_typeof(wishes) is distinct from 'array' then
        raise exception 'enqueue_many: a JSON array of objects is needed, not %', coalesce(jsonb_typeof(wishes), 'null')
            using errcode = 'OR004', hint = 'each object has the parameters of orch.enqueue as its keys';
    end if;
    answer := orch.enqueue_wishes(wishes);
    if answer.code is not null then
        raise exception 'enqueue_many: element %: %', answer.place, answer.complaint
            using errcode = answer.code, hint = 'nothing was enqueued';
    end if;
    return query select unnest(answer.ids);
end
$$;
comment on function orch.enqueue_many is 'Enqueues an array of jobs, all or nothing; returns their numbers in order.';

-- The same, with the fault of the first bad element as a value: then nothing was enqueued, and `ids` is null.
--
-- What a CHECK of the table refuses is not asked before: wishes are inserted, and only where that fails the one to blame
-- is looked for. So bulk costs hardly more than COPY. Wishes without a dedupe_key are one statement, and so are those
-- with one, in the order of their keys, so that two calls do not wait for each other in a circle. What is left are the
-- keys that somebody has: they go through orch.enqueue, one by one.
create or replace function orch.enqueue_wishes(
    wishes jsonb, out ids bigint[], out place bigint, out code text, out complaint text
)
language plpgsql
set search_path = pg_catalog, orch
as $$
#variable_conflict use_column
declare
    look record;
    wish record;
    places bigint[];
    keyed_ids bigint[];
    keyed_places bigint[];
    taken bigint[];
begin
    select bool_and(orch.has_shape(e.wish)) as shaped,
           bool_or(e.wish ?| '{limits,require,after,on_conflict}') as wordy,
           bool_or(e.wish ? 'dedupe_key') as keyed,
           bool_or(e.wish ? 'after') as dependent
      into look
      from jsonb_array_elements(wishes) e (wish);
    if look.wordy or not look.shaped then
        perform orch.keep_limits(n.names)
           from (select array_agg(distinct l.name) as names
                   from jsonb_array_elements(wishes) e (wish)
                  cross join lateral jsonb_array_elements_text(
                      case when jsonb_typeof(e.wish -> 'limits') = 'array' then e.wish -> 'limits' end) l (name)) n
          where n.names is not null;
        -- it says what no CHECK knows
        select f.* into place, code, complaint from orch.fault_of_wishes(wishes) f;
        if code is not null then
            select f.* into place, code, complaint from orch.fault_of_many(wishes) f;
            return;
        end if;
    end if;

    -- For the first of them; who is woken and fills all its slots passes the word on. It is sent with the commit.
    perform orch.wake(f.wish ->> 'agent', nullif(f.wish -> 'require', 'null'), least(count(*), 8)::integer)
       from (select wishes -> n as wish from generate_series(0, least(jsonb_array_length(wishes), 64) - 1) n) f
      where coalesce((f.wish ->> 'run_at')::timestamptz <= now(), true)
      group by f.wish ->> 'agent', nullif(f.wish -> 'require', 'null');

    with inserted as (
        insert into orch.jobs
            (agent, payload, project, priority, run_at, gate, limits, require, labels, max_attempts, timeout, waits_for,
             claimable)
        select w.agent, w.payload, w.project, w.priority, w.run_at,
               coalesce(w.gate, (select 'project:' || p.name from orch.projects p where p.name = w.project and p.serial)),
               case when w.limits is not null then orch.sorted_limits(w.limits) end, nullif(w.require, '{}'),
               w.labels, w.max_attempts, w.timeout, u.waits_for, u.waits_for is null
          from orch.wishes_of(wishes) w
         cross join lateral (
            select case when w.after <> '{}' then orch.unfinished(w.after) end as waits_for offset 0) u
         where w.dedupe_key is null
        returning id
    )
    select coalesce(array_agg(i.id order by i.id), '{}') into ids from inserted i;
    if look.dependent then
        insert into orch.job_dependencies (job_id, after_id)
        select i.id, a.id
          from unnest(ids) with ordinality i (id, n)
          join (select w.after, row_number() over (order by w.place) as n
                  from orch.wishes_of(wishes) w where w.dedupe_key is null) w on w.n = i.n
         cross join lateral unnest(w.after) a (id);
    end if;
    if look.keyed is not true then
        return;
    end if;

    with numbered as materialized (
        select w.*, nextval(pg_get_serial_sequence('orch.jobs', 'id')) as id
          from (select * from orch.wishes_of(wishes) w
                 where w.dedupe_key is not null order by w.dedupe_key collate "C", w.place) w
    ),
    inserted as (
        insert into orch.jobs
            (id, agent, payload, project, priority, run_at, gate, limits, require, labels, dedupe_key, live_dedupe_key,
             max_attempts, timeout, waits_for, claimable)
        overriding system value
        select n.id, n.agent, n.payload, n.project, n.priority, n.run_at,
               coalesce(n.gate, (select 'project:' || p.name from orch.projects p where p.name = n.project and p.serial)),
               case when n.limits is not null then orch.sorted_limits(n.limits) end, nullif(n.require, '{}'),
               n.labels, n.dedupe_key, n.dedupe_key, n.max_attempts, n.timeout, u.waits_for, u.waits_for is null
          from numbered n
         cross join lateral (
            select case when n.after <> '{}' then orch.unfinished(n.after) end as waits_for offset 0) u
        on conflict (live_dedupe_key) where live_dedupe_key is not null do nothing
        returning id
    ),
    depending as (
        insert into orch.job_dependencies (job_id, after_id)
        select n.id, a.id from numbered n join inserted i on i.id = n.id cross join lateral unnest(n.after) a (id)
    )
    select array_agg(n.place) filter (where i.id is not null), array_agg(i.id) filter (where i.id is not null),
           array_agg(n.place) filter (where i.id is null)
      into keyed_places, keyed_ids, taken
      from numbered n
      left join inserted i on i.id = n.id;

    for wish in
        select w.* from orch.wishes_of(wishes) w join unnest(taken) t (place) on t.place = w.place
         order by w.dedupe_key collate "C", w.place
    loop
        place := wish.place;
        keyed_places := keyed_places || place;
        keyed_ids := keyed_ids || orch.enqueue(
            agent => wish.agent, payload => wish.payload, project => wish.project, priority => wish.priority,
            run_at => wish.run_at, gate => wish.gate, limits => wish.limits, labels => wish.labels,
            require => wish.require, dedupe_key => wish.dedupe_key, on_conflict => wish.on_conflict, after => wish.after,
            max_attempts => wish.max_attempts, timeout => wish.timeout);
    end loop;
    place := null;
    select array_agg(w.place order by w.place) into places from orch.wishes_of(wishes) w where w.dedupe_key is null;
    select array_agg(a.id order by a.place) into ids
      from (select * from unnest(places, ids) union all select * from unnest(keyed_places, keyed_ids)) a (place, id);
exception
    -- of orch.enqueue: a key that is taken, or a circle. It is not the first one unless it is said so, and what the elements
    -- before it had made is undone.
    when sqlstate 'OR002' or sqlstate 'OR004' then
        ids := null;
        code := sqlstate;
        complaint := regexp_replace(sqlerrm, '^enqueue: ', '');
        for wish in select f.* from orch.fault_of_many(wishes) f where f.code is not null loop
            place := wish.place;
            code := wish.code;
            complaint := wish.complaint;
        end loop;
    when data_exception or check_violation or not_null_violation then
        ids := null;
        select f.* into place, code, complaint from orch.fault_of_many(wishes) f;
        if code is null then
            raise;
        end if;
end
$$;
comment on function orch.enqueue_wishes is 'Enqueues an array of jobs, or says which element is the first bad one and why.';

-- The same for a program that reads the wishes from somewhere, a piece at a time in one transaction, and knows them by
-- other names than their places: of a key that is taken by another of them it says which one has it, if that is one of
-- this piece (`twin`, its place) or of a former one (`twin_job`, the number that the caller was told). Then `complaint`
-- ends before it says so. JSON that jsonb cannot hold has SQLSTATE 22… or 54… and no place.
create or replace function orch.enqueue_piece(
    wishes text, out ids bigint[], out place bigint, out code text, out complaint text, out twin bigint, out twin_job bigint
)
language plpgsql
set search_path = pg_catalog, orch
as $$
#variable_conflict use_column
declare
    answer record;
    taken text;
begin
    answer := orch.enqueue_wishes(enqueue_piece.wishes::jsonb);
    ids := answer.ids;
    place := answer.place;
    code := answer.code;
    complaint := answer.complaint;
    if code is distinct from 'OR002' then
        return;
    end if;
    taken := enqueue_piece.wishes::jsonb -> (place - 1)::integer ->> 'dedupe_key';
    select j.id into twin_job from orch.jobs j where j.live_dedupe_key = taken;
    if twin_job is null then
        select min(e.place) into twin
          from jsonb_array_elements(enqueue_piece.wishes::jsonb) with ordinality e (wish, place)
         where e.wish ->> 'dedupe_key' = taken and e.place < enqueue_piece.place;
    elsif not exists (select from orch.jobs j where j.id = twin_job and j.created_at = now()) then
        twin_job := null;
    end if;
    if num_nonnulls(twin, twin_job) > 0 then
        complaint := format('dedupe_key %s is taken', to_jsonb(taken));
    end if;
exception when data_exception or program_limit_exceeded then
    code := sqlstate;
    complaint := sqlerrm;
end
$$;
comment on function orch.enqueue_piece is 'Enqueues a piece of a bulk, or says which element is the first bad one, why, and which other one has its key.';

-- Why a text is nothing that jsonb can hold; null where it is.
create or replace function orch.unreadable(document text) returns text
language plpgsql immutable
set search_path = pg_catalog, orch
as $$
begin
    perform document::jsonb;
    return null;
exception when data_exception or program_limit_exceeded then
    return sqlerrm;
end
$$;
comment on function orch.unreadable is 'Why a text is nothing that jsonb can hold; null where it is.';
