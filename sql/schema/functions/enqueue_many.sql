-- Enqueue many jobs in one call, all or nothing. `wishes` is an array of objects whose keys are the parameters of
-- orch.enqueue; null is as good as absent, but for the payload. Times and intervals are strings as Postgres reads them.
-- Returns the numbers in the order of the array. A bad element is named by its place, from 1 on.
--
-- Wishes without a dedupe_key are one statement; the others are enqueued one by one, in the order of their keys, so that
-- two calls never wait for each other in a circle.
create or replace function orch.enqueue_many(wishes jsonb) returns setof bigint
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    ids bigint[];
    place bigint;
    wish record;
    fault record;
begin
    if jsonb_typeof(wishes) is distinct from 'array' then
        raise exception 'enqueue_many: a JSON array of objects is needed, not %', coalesce(jsonb_typeof(wishes), 'null')
            using errcode = 'OR004', hint = 'each object has the parameters of orch.enqueue as its keys';
    end if;

    select * into fault from orch.fault_of_shape(wishes);
    if fault.complaint is not null then
        raise exception 'enqueue_many: element %: %', fault.place, fault.complaint
            using errcode = 'OR004', hint = 'nothing was enqueued';
    end if;

    begin
        select w.place, f.code, f.complaint into fault
          from orch.wishes_of(wishes) w
         cross join lateral orch.fault_of_wish(
             w.agent, w.payload, w.project, w.priority, w.run_at, w.gate, w.limits, w.labels, w.require, w.dedupe_key,
             w.on_conflict, w.after, w.max_attempts, w.timeout) f
         where f.code is not null
         order by w.place
         limit 1;
    exception when data_exception then
        -- Some text is no time, interval or number: which one, is looked for by itself.
        perform orch.refuse_unreadable(wishes);
        raise;
    end;
    if fault.code is not null then
        raise exception 'enqueue_many: element %: %', fault.place, fault.complaint
            using errcode = fault.code, hint = 'nothing was enqueued';
    end if;

    with numbered as materialized (
        select w.*, nextval(pg_get_serial_sequence('orch.jobs', 'id')) as id
          from (select * from orch.wishes_of(wishes) w where w.dedupe_key is null order by w.place) w
    ),
    inserted as (
        insert into orch.jobs
            (id, agent, payload, project, priority, run_at, gate, labels, max_attempts, timeout)
        overriding system value
        select n.id, n.agent, n.payload, n.project, n.priority, n.run_at,
               coalesce(n.gate, 'project:' || p.name), n.labels, n.max_attempts, n.timeout
          from numbered n
          left join orch.projects p on p.name = n.project and p.serial
    )
    select array_agg(n.id order by w.place) into ids
      from orch.wishes_of(wishes) w
      left join numbered n on n.place = w.place;

    for wish in
        select * from orch.wishes_of(wishes) w where w.dedupe_key is not null order by w.dedupe_key collate "C", w.place
    loop
        place := wish.place;
        ids[place] := orch.enqueue(
            agent => wish.agent, payload => wish.payload, project => wish.project, priority => wish.priority,
            run_at => wish.run_at, gate => wish.gate, labels => wish.labels, dedupe_key => wish.dedupe_key,
            on_conflict => wish.on_conflict, max_attempts => wish.max_attempts, timeout => wish.timeout);
    end loop;
    return query select unnest(ids);
exception when sqlstate 'OR002' then
    raise exception 'enqueue_many: element %: %', place, regexp_replace(sqlerrm, '^enqueue: ', '')
        using errcode = 'OR002', hint = 'nothing was enqueued';
end
$$;
comment on function orch.enqueue_many is 'Enqueues an array of jobs, all or nothing; returns their numbers in order.';

-- The first element that is no object, has an unknown key, or a value of a wrong JSON type; no row where there is none.
create or replace function orch.fault_of_shape(wishes jsonb) returns table (place bigint, complaint text)
language sql stable
set search_path = pg_catalog, orch
as $$
    with known (key, types) as (
        values ('agent', '{string}'::text[]), ('payload', null), ('project', '{string,"null"}'),
               ('priority', '{number,"null"}'), ('run_at', '{string,"null"}'), ('gate', '{string,"null"}'), ('limits', null),
               ('labels', '{object,"null"}'), ('require', null), ('dedupe_key', '{string,"null"}'),
               ('on_conflict', '{string,"null"}'), ('after', null), ('max_attempts', '{number,"null"}'),
               ('timeout', '{string,"null"}')
    )
    select e.place,
           case when jsonb_typeof(e.wish) <> 'object' then format('an object is needed, not %s', jsonb_typeof(e.wish))
                when k.key is null then format('unknown key %s: the keys are %s', to_jsonb(left(v.key, 120)),
                                               (select string_agg(known.key, ', ') from known))
                else format('%s must be of type %s, not %s', v.key, k.types[1], jsonb_typeof(v.value)) end
      from jsonb_array_elements(wishes) with ordinality e (wish, place)
      left join lateral jsonb_each(case when jsonb_typeof(e.wish) = 'object' then e.wish end) v on true
      left join known k on k.key = v.key
     where jsonb_typeof(e.wish) <> 'object'
        or (v.key is not null and (k.key is null or jsonb_typeof(v.value) <> all (k.types)))
     order by e.place, v.key
     limit 1
$$;
comment on function orch.fault_of_shape is 'The first element of enqueue_many''s array that has not the shape of a wish.';

-- The elements as the parameters of orch.enqueue, defaults filled in. Of what is not there yet only whether it is given.
create or replace function orch.wishes_of(wishes jsonb) returns table (
    place bigint, agent text, payload jsonb, project text, priority integer, run_at timestamptz, gate text, limits text[],
    labels jsonb, require jsonb, dedupe_key text, on_conflict text, after bigint[], max_attempts integer, timeout interval
)
language sql stable
as $$
    select e.place, e.wish ->> 'agent', coalesce(e.wish -> 'payload', '{}'), coalesce(e.wish ->> 'project', 'default'),
           coalesce((e.wish ->> 'priority')::integer, 0), coalesce((e.wish ->> 'run_at')::timestamptz, now()),
           e.wish ->> 'gate', case when e.wish -> 'limits' <> 'null' then '{}'::text[] end,
           coalesce(nullif(e.wish -> 'labels', 'null'), '{}'), nullif(e.wish -> 'require', 'null'),
           e.wish ->> 'dedupe_key', e.wish ->> 'on_conflict',
           case when e.wish -> 'after' <> 'null' then '{}'::bigint[] end,
           (e.wish ->> 'max_attempts')::integer, (e.wish ->> 'timeout')::interval
      from jsonb_array_elements(wishes) with ordinality e (wish, place)
$$;
comment on function orch.wishes_of is 'The elements of enqueue_many''s array as the parameters of orch.enqueue.';

-- Refuses the first element whose time, interval or number Postgres cannot read, naming it. Slow, and only for that.
create or replace function orch.refuse_unreadable(wishes jsonb) returns void
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    wish jsonb;
    place bigint := 0;
begin
    for wish in select value from jsonb_array_elements(wishes) loop
        place := place + 1;
        begin
            perform w.priority, w.run_at, w.max_attempts, w.timeout from orch.wishes_of(jsonb_build_array(wish)) w;
        exception when data_exception then
            raise exception 'enqueue_many: element %: %', place, sqlerrm
                using errcode = 'OR004', hint = 'nothing was enqueued';
        end;
    end loop;
end
$$;
comment on function orch.refuse_unreadable is 'Names the element of enqueue_many''s array that cannot be read.';
