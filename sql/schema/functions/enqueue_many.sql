-- Enqueue many jobs in one call, all or nothing. `wishes` is an array of objects whose keys are the parameters of
-- orch.enqueue. Returns the numbers in the order of the array. A bad element is named by its place, from 1 on.
create or replace function orch.enqueue_many(wishes jsonb) returns setof bigint
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    known constant text[] := array['agent', 'payload', 'project', 'priority', 'run_at', 'gate', 'limits', 'labels',
                                   'require', 'dedupe_key', 'on_conflict', 'after', 'max_attempts', 'timeout'];
    wish jsonb;
    place bigint := 0;
    stranger text;
    message text;
    state text;
begin
    if jsonb_typeof(wishes) is distinct from 'array' then
        raise exception 'enqueue_many: a JSON array of objects is needed, not %', coalesce(jsonb_typeof(wishes), 'null')
            using errcode = 'OR004', hint = 'each object has the parameters of orch.enqueue as its keys';
    end if;
    for wish in select value from jsonb_array_elements(wishes) loop
        place := place + 1;
        if jsonb_typeof(wish) <> 'object' then
            raise exception 'enqueue_many: element % is no object but %', place, jsonb_typeof(wish)
                using errcode = 'OR004', hint = 'each object has the parameters of orch.enqueue as its keys';
        end if;
        select key into stranger from jsonb_object_keys(wish) as key where key <> all (known) limit 1;
        if stranger is not null then
            raise exception 'enqueue_many: element % has the unknown key %', place, quote_literal(left(stranger, 120))
                using errcode = 'OR004', hint = 'the keys are ' || array_to_string(known, ', ');
        end if;
        begin
            return next orch.enqueue(
                agent => wish ->> 'agent',
                payload => wish -> 'payload',
                project => wish ->> 'project',
                priority => (wish ->> 'priority')::smallint,
                run_at => (wish ->> 'run_at')::timestamptz,
                gate => wish ->> 'gate',
                limits => case when wish -> 'limits' <> 'null' then '{}'::text[] end,
                labels => nullif(wish -> 'labels', 'null'),
                require => nullif(wish -> 'require', 'null'),
                dedupe_key => wish ->> 'dedupe_key',
                on_conflict => wish ->> 'on_conflict',
                after => case when wish -> 'after' <> 'null' then '{}'::bigint[] end,
                max_attempts => (wish ->> 'max_attempts')::integer,
                timeout => (wish ->> 'timeout')::interval);
        exception when others then
            get stacked diagnostics message = message_text, state = returned_sqlstate;
            raise exception 'enqueue_many: element %: %', place, message
                using errcode = case when state like 'OR%' then state else 'OR004' end,
                      hint = 'nothing was enqueued';
        end;
    end loop;
end
$$;
comment on function orch.enqueue_many is 'Enqueues an array of jobs, all or nothing; returns their numbers in order.';
