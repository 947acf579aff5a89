-- The names of limits: which are well formed, which every job needs unsaid, which are there, and how a job's row has them.

-- How many letters must be changed, added or left out to make one word of another (Levenshtein).
create or replace function orch.distance(a text, b text) returns integer
language plpgsql immutable
set search_path = pg_catalog, orch
as $$
declare
    x constant text[] := string_to_array(left(a, 120), null);
    y constant text[] := string_to_array(left(b, 120), null);
    above integer[] := array(select generate_series(0, coalesce(cardinality(y), 0)));
    line integer[];
begin
    for i in 1 .. coalesce(cardinality(x), 0) loop
        line := array[i];
        for j in 1 .. coalesce(cardinality(y), 0) loop
            line := line || least(above[j + 1] + 1, line[j] + 1, above[j] + (x[i] is distinct from y[j])::integer);
        end loop;
        above := line;
    end loop;
    return above[cardinality(above)];
end
$$;
comment on function orch.distance is 'How many letters lie between two words.';

-- Says why a name is no limit's (SQLSTATE OR004 where it is raised); null where it may be one.
create or replace function orch.fault_of_limit_name(name text) returns text
language sql immutable
set search_path = pg_catalog, orch
as $$
    select case
        when name is null then 'a limit''s name is missing'
        when name = 'all' or name ~ '^(project|agent):[A-Za-z0-9][A-Za-z0-9._-]{0,99}$' then null
        when name ~ '^(project|agent):' then
            format('limit %s names no well-formed %s', to_jsonb(left(name, 120)), substring(name from '^[a-z]+'))
        when name !~ '^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$' or lower(name) = 'null' then
            format('limit %s is no well-formed name: a name has 1 to 100 letters, digits, ".", "_", ":", "/" and "-", and begins with a letter or digit',
                   to_jsonb(left(name, 120)))
    end
$$;
comment on function orch.fault_of_limit_name is 'Says in words why a name cannot be a limit''s; null where it can.';

-- The limits that every job needs unsaid are there without a row.
create or replace function orch.is_unsaid_limit(name text) returns boolean
language sql immutable
as $$
    select name = 'all' or name like 'project:%' or name like 'agent:%'
$$;
comment on function orch.is_unsaid_limit is 'Whether every job, or every job of a project or an agent, needs this limit unsaid.';

-- "limit "apii" is unknown: the nearest is "api"", as the end of a complaint.
create or replace function orch.unknown_limit(name text) returns text
language sql stable
set search_path = pg_catalog, orch
as $$
    select format('limit %s is unknown%s', to_jsonb(left(name, 120)),
                  coalesce((select format(': the nearest is %s', to_jsonb(n.name))
                              from (select l.name, orch.distance(unknown_limit.name, l.name) as far
                                      from (select l.name from orch.limits l where not orch.is_unsaid_limit(l.name)
                                             order by l.name limit 1000) l) n
                             order by n.far, n.name limit 1), ': there are none yet'))
$$;
comment on function orch.unknown_limit is 'The complaint about a limit without a row, with the nearest name.';

-- A limit without a row would be a cap that nobody enforces, so a typo is refused.
create or replace function orch.fault_of_limits(limits text[]) returns text
language sql stable
set search_path = pg_catalog, orch
as $$
    select case
        when array_ndims(limits) > 1 then 'limits must be a flat array of names'
        when cardinality(limits) > 16 then format('limits has %s names: 16 are the most', cardinality(limits))
        else (select coalesce(orch.fault_of_limit_name(n.name),
                              case when orch.is_unsaid_limit(n.name)
                                   then format('limits must not name %s: every job needs it unsaid', to_jsonb(n.name))
                                   else orch.unknown_limit(n.name) end)
                from unnest(limits) with ordinality n (name, place)
               where orch.fault_of_limit_name(n.name) is not null or orch.is_unsaid_limit(n.name)
                  or not exists (select from orch.limits l where l.name = n.name)
               order by n.place
               limit 1) end
$$;
comment on function orch.fault_of_limits is 'Says in words what is wrong with the limits that a job is to need; null where nothing is.';

-- Keeps these limits from being dropped until the caller's transaction ends, and waits for a drop that has not committed; so
-- what is read of them afterwards stays true until the job that names them can be seen. Only orch.drop_limit minds: claims,
-- and whoever sets, closes or opens a limit, go on. Not asked for jobs that name none.
create or replace function orch.keep_limits(names text[]) returns void
language sql volatile
set search_path = pg_catalog, orch
as $$
    select from orch.limits l where l.name = any (names) order by l.name for key share
$$;
comment on function orch.keep_limits is 'Keeps these limits from being dropped until the transaction ends.';

-- Sorted and each once, so that jobs with the same limits share a lane; null for none.
create or replace function orch.sorted_limits(limits text[]) returns text[]
language sql immutable
set search_path = pg_catalog, orch
as $$
    select case when cardinality(limits) > 1 then array(select distinct n from unnest(limits) n order by n)
                else nullif(limits, '{}') end
$$;
comment on function orch.sorted_limits is 'Limits as a job''s row has them: sorted, each once, null for none.';
