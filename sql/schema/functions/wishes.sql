-- What the elements of orch.enqueue_many's array are, and what is wrong with them. Where nothing is, only has_shape and
-- wishes_of are asked.

-- The elements as the parameters of orch.enqueue, defaults filled in. A JSON null is no value, but for the payload.
create or replace function orch.wishes_of(wishes jsonb) returns table (
    place bigint, agent text, payload jsonb, project text, priority integer, run_at timestamptz, gate text, limits text[],
    labels jsonb, require jsonb, dedupe_key text, on_conflict text, after bigint[], max_attempts integer, timeout interval
)
language sql stable
as $$
    select w.place, w.agent, coalesce(w.payload, w.wish -> 'payload', '{}'), coalesce(w.project, 'default'),
           coalesce(w.priority, 0), coalesce(w.run_at, now()), w.gate, w.limits, coalesce(w.labels, '{}'), w.require,
           w.dedupe_key, w.on_conflict, w.after, w.max_attempts, w.timeout
      from rows from (
               jsonb_to_recordset(wishes) as (
                   agent text, payload jsonb, project text, priority integer, run_at timestamptz, gate text,
                   limits text[], labels jsonb, require jsonb, dedupe_key text, on_conflict text, after bigint[],
                   max_attempts integer, timeout interval),
               jsonb_array_elements(wishes)
           ) with ordinality as w (agent, payload, project, priority, run_at, gate, limits, labels, require, dedupe_key,
                                   on_conflict, after, max_attempts, timeout, wish, place)
$$;
comment on function orch.wishes_of is 'The elements of enqueue_many''s array as the parameters of orch.enqueue.';

-- Whether an element is an object that has an agent, no key but those of orch.enqueue, and values of the right JSON types.
-- One expression, which is inlined: it is asked of every element. fault_of_shape puts in words what it refuses.
create or replace function orch.has_shape(wish jsonb) returns boolean
language sql immutable
as $$
    select case when jsonb_typeof(wish) = 'object' then
           wish - array['agent', 'payload', 'project', 'priority', 'run_at', 'gate', 'limits', 'labels', 'require',
                        'dedupe_key', 'on_conflict', 'after', 'max_attempts', 'timeout'] = '{}'
           and coalesce(jsonb_typeof(wish -> 'agent') = 'string', true)
           and coalesce(jsonb_typeof(wish -> 'project') in ('string', 'null'), true)
           and coalesce(jsonb_typeof(wish -> 'priority') in ('number', 'null'), true)
           and coalesce(jsonb_typeof(wish -> 'run_at') in ('string', 'null'), true)
           and coalesce(jsonb_typeof(wish -> 'gate') in ('string', 'null'), true)
           and coalesce(jsonb_typeof(wish -> 'limits') in ('array', 'null'), true)
           and coalesce(jsonb_typeof(wish -> 'labels') in ('object', 'null'), true)
           and coalesce(jsonb_typeof(wish -> 'require') in ('object', 'null'), true)
           and coalesce(jsonb_typeof(wish -> 'dedupe_key') in ('string', 'null'), true)
           and coalesce(jsonb_typeof(wish -> 'on_conflict') in ('string', 'null'), true)
           and coalesce(jsonb_typeof(wish -> 'after') in ('array', 'null'), true)
           and coalesce(jsonb_typeof(wish -> 'max_attempts') in ('number', 'null'), true)
           and coalesce(jsonb_typeof(wish -> 'timeout') in ('string', 'null'), true)
           else false end
$$;
comment on function orch.has_shape is 'Whether an element of enqueue_many''s array has the keys and JSON types of a wish.';

-- The first element that has no shape, and why in words; no row where all have one.
create or replace function orch.fault_of_shape(wishes jsonb) returns table (place bigint, complaint text)
language sql stable
set search_path = pg_catalog, orch
as $$
    with known (key, types) as (
        values ('agent', '{string}'::text[]), ('payload', null), ('project', '{string,"null"}'),
               ('priority', '{number,"null"}'), ('run_at', '{string,"null"}'), ('gate', '{string,"null"}'),
               ('limits', '{array,"null"}'), ('labels', '{object,"null"}'), ('require', '{object,"null"}'),
               ('dedupe_key', '{string,"null"}'), ('on_conflict', '{string,"null"}'), ('after', '{array,"null"}'),
               ('max_attempts', '{number,"null"}'), ('timeout', '{string,"null"}')
    ),
    bad as (
        select e.place, e.wish
          from jsonb_array_elements(wishes) with ordinality e (wish, place)
         where not orch.has_shape(e.wish)
         order by e.place
         limit 1
    )
    select b.place,
           case when jsonb_typeof(b.wish) <> 'object' then format('an object is needed, not %s', jsonb_typeof(b.wish))
                when k.key is null then format('unknown key %s: the keys are %s', to_jsonb(left(v.key, 120)),
                                               (select string_agg(known.key, ', ') from known))
                else format('%s must be of type %s, not %s', v.key, k.types[1], jsonb_typeof(v.value)) end
      from bad b
      left join lateral jsonb_each(case when jsonb_typeof(b.wish) = 'object' then b.wish end) v on true
      left join known k on k.key = v.key
     where jsonb_typeof(b.wish) <> 'object'
        or (v.key is not null and (k.key is null or jsonb_typeof(v.value) <> all (k.types)))
     order by v.key
     limit 1
$$;
comment on function orch.fault_of_shape is 'The first element of enqueue_many''s array that has not the shape of a wish.';

-- The first element that orch.fault_of_wish finds fault with; no row where there is none.
create or replace function orch.first_fault(wishes jsonb) returns table (place bigint, code text, complaint text)
language sql stable
set search_path = pg_catalog, orch
as $$
    select w.place, f.code, f.complaint
      from orch.wishes_of(wishes) w
     cross join lateral orch.fault_of_wish(
         w.agent, w.payload, w.project, w.priority, w.run_at, w.gate, w.limits, w.labels, w.require, w.dedupe_key,
         w.on_conflict, w.after, w.max_attempts, w.timeout) f
     where f.code is not null
     order by w.place
     limit 1
$$;
comment on function orch.first_fault is 'The first element of enqueue_many''s array that is no job, where all can be read.';

-- The elements before one of them.
create or replace function orch.wishes_before(wishes jsonb, place bigint) returns jsonb
language sql immutable
set search_path = pg_catalog, orch
as $$
    select coalesce(jsonb_agg(e.wish order by e.place), '[]')
      from jsonb_array_elements(wishes) with ordinality e (wish, place) where e.place < wishes_before.place
$$;
comment on function orch.wishes_before is 'The elements of enqueue_many''s array before one of them.';

-- The first element that is no wish of a job, with SQLSTATE and words; nulls where there is none. Slow, and asked only
-- where something is wrong, or where an element says what no CHECK of orch.jobs knows.
create or replace function orch.fault_of_wishes(wishes jsonb, out place bigint, out code text, out complaint text)
language plpgsql
set search_path = pg_catalog, orch
as $$
#variable_conflict use_column
declare
    shaped jsonb := wishes;
    worse record;
    wish record;
begin
    select f.place, 'OR004', f.complaint into place, code, complaint from orch.fault_of_shape(wishes) f;
    if place is not null then
        shaped := orch.wishes_before(wishes, place);
    end if;
    begin
        select f.place, f.code, f.complaint into worse from orch.first_fault(shaped) f;
        if worse.code is not null then
            place := worse.place;
            code := worse.code;
            complaint := worse.complaint;
        end if;
    exception when data_exception then
        -- Some text is no time, interval or number: each element is looked at by itself.
        for wish in
            select e.place, jsonb_build_array(e.wish) as alone
              from jsonb_array_elements(shaped) with ordinality e (wish, place) order by e.place
        loop
            begin
                select f.code, f.complaint into worse from orch.first_fault(wish.alone) f;
            exception when data_exception then
                select 'OR004' as code, sqlerrm as complaint into worse;
            end;
            if worse.code is not null then
                place := wish.place;
                code := worse.code;
                complaint := worse.complaint;
                return;
            end if;
        end loop;
    end;
end
$$;
comment on function orch.fault_of_wishes is 'Says in words which element of enqueue_many''s array is the first bad one; nulls where none is.';

-- The first element that is refused because of its dedupe_key: a live job has it, or an element before. Nulls where there
-- is none. Asked only where something is wrong; what is here can be read.
create or replace function orch.fault_of_keys(wishes jsonb, out place bigint, out code text, out complaint text)
language sql stable
set search_path = pg_catalog, orch
as $$
    select k.place, coalesce(f.code, 'OR002'),
           coalesce(f.complaint, format('dedupe_key %s is taken: element %s has it already', to_jsonb(k.dedupe_key), k.first_place))
      from (select w.*, min(w.place) over (partition by w.dedupe_key) as first_place
              from orch.wishes_of(wishes) w where w.dedupe_key is not null) k
      left join orch.jobs j on j.live_dedupe_key = k.dedupe_key
      left join lateral orch.fault_of_key(k.dedupe_key, k.on_conflict, k.after, j.id, j.status) f on j.id is not null
     where f.code is not null or (j.id is null and k.first_place < k.place and k.on_conflict = 'refuse')
     order by k.place
     limit 1
$$;
comment on function orch.fault_of_keys is 'The first element of enqueue_many''s array that is refused because of its dedupe_key; nulls where none is.';

-- The first element that cannot be enqueued, whatever is wrong with it; nulls where there is none.
create or replace function orch.fault_of_many(wishes jsonb, out place bigint, out code text, out complaint text)
language plpgsql
set search_path = pg_catalog, orch
as $$
#variable_conflict use_column
declare
    above jsonb := wishes;
    key record;
begin
    select f.* into place, code, complaint from orch.fault_of_wishes(wishes) f;
    if place is not null then
        -- Of those before it nothing else can be wrong.
        above := orch.wishes_before(wishes, place);
    end if;
    select f.* into key from orch.fault_of_keys(above) f;
    if key.code is not null then
        place := key.place;
        code := key.code;
        complaint := key.complaint;
    end if;
end
$$;
comment on function orch.fault_of_many is 'Says in words which element of enqueue_many''s array cannot be enqueued, the first of them; nulls where all can.';
