-- Says in words why a row is no schedule, as far as the database can: what the CHECKs would refuse by name, the shape of
-- the cron expression, the time zone, the wish. And has a replica compute the next tick of what is new, or ticks by
-- something else than before, or was paused. Fired by its triggers for an insert and for a change of those columns.
create or replace function orch.guard_schedule() returns trigger
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    complaint text := orch.fault_of_rhythm(new.name, new.cron, new.every, new.time_zone, new.catch_up, new.catch_up_max,
                                           new.grace, new.overlap);
    fault_code text;
begin
    if complaint is null then
        select f.code, f.complaint into fault_code, complaint from orch.fault_of_wish(
            agent => new.agent, payload => new.payload, project => new.project, priority => new.priority, run_at => null,
            gate => new.gate, limits => new.limits, labels => new.labels, require => new.require, dedupe_key => null,
            on_conflict => null, after => null, max_attempts => new.max_attempts, timeout => new.timeout) f;
        complaint := coalesce(complaint, case
            when new.tick_key = '' or octet_length(new.tick_key) > 200 then 'tick_key must have 1 to 200 bytes'
            when new.tick_key is not null and jsonb_typeof(new.payload) <> 'object' then
                'tick_key needs a payload that is a JSON object'
        end);
    end if;
    if complaint is not null then
        raise exception 'schedule %: %', to_jsonb(left(new.name, 120)), complaint
            using errcode = coalesce(fault_code, 'OR004'), hint = 'nothing was changed';
    end if;
    if tg_op = 'UPDATE' then
        -- Paused or resumed, it counts from now on as well: what falls into a pause is not made up for.
        if (old.cron, old.every, old.anchor_at, old.time_zone, old.paused)
           is distinct from (new.cron, new.every, new.anchor_at, new.time_zone, new.paused) then
            new.revision := old.revision + 1;
            new.planned := false;
            new.base_at := clock_timestamp();
            new.next_tick_at := new.base_at;
            new.error := null;
        end if;
    end if;
    return new;
end
$$;
comment on function orch.guard_schedule() is
    'Refuses what is no schedule, in words (SQLSTATE OR004), and has the next tick computed anew where it may have changed.';

create or replace function orch.fault_of_rhythm(
    name text, cron text, every interval, time_zone text, catch_up text, catch_up_max integer, grace interval, overlap text
) returns text
language plpgsql stable
set search_path = pg_catalog, orch
as $$
declare
    fields text[] := regexp_split_to_array(btrim(cron, E' \t\n'), '\s+');
    names constant text[] := array['second', 'minute', 'hour', 'day of month', 'month', 'day of week', 'year'];
    number constant text := '^[0-9*/,-]+$';
    lowest constant integer[] := array[0, 0, 0, 1, 1, 0];
    highest constant integer[] := array[59, 59, 23, 31, 12, 7];
    longest constant integer[] := array[31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    shapes constant text[] := array[number, number, number, '^[0-9*/,?LW-]+$',
        '^([0-9*/,-]|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)+$',
        '^\+?([0-9*/,?#L-]|SUN|MON|TUE|WED|THU|FRI|SAT)+$', number];
    place integer;
    days integer[];
    months integer[];
begin
    if name is null or name !~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$' then
        return 'it is no well-formed name: one has 1 to 100 letters, digits, ".", "_" and "-", and begins with a letter or digit';
    elsif num_nonnulls(cron, every) <> 1 then
        return 'it ticks either by cron or by every: say one of them';
    elsif every < interval '1 second' then
        return format('an interval of %s is too short: it is at least 1 second', every);
    elsif extract(year from every) <> 0 or extract(month from every) <> 0 then
        return format('an interval of %s has no fixed length: say it in days, or use cron', every);
    elsif every > interval '3650 days' then
        return format('an interval of %s is too long: it is at most 3650 days', every);
    elsif catch_up not in ('skip', 'one', 'all') then
        return format('catch_up %s is unknown: it is one of skip, one, all', to_jsonb(left(catch_up, 120)));
    elsif catch_up_max not between 1 and 1000 then
        return format('catch_up_max %s is not between 1 and 1000', catch_up_max);
    elsif grace not between interval '10 seconds' and interval '1 day' then
        return format('grace %s is not between 10 seconds and 1 day', grace);
    elsif overlap not in ('skip', 'queue', 'replace') then
        return format('overlap %s is unknown: it is one of skip, queue, replace', to_jsonb(left(overlap, 120)));
    elsif octet_length(cron) > 200 then
        return 'cron must have at most 200 bytes';
    end if;

    -- What is written in numbers. Whether a field with words makes sense is said by the replica that reads it, in error.
    if cron is not null and btrim(cron) not ilike '@%' then
        if cardinality(fields) not between 5 and 7 or fields[1] = '' then
            return format('cron %s has %s fields: there are 5 (minute, hour, day of month, month, day of week), 6 with the '
                          'second before them, 7 with the year behind them',
                          to_jsonb(cron), case when fields[1] = '' then 0 else cardinality(fields) end);
        end if;
        for n in 1..cardinality(fields) loop
            place := n + case when cardinality(fields) = 5 then 1 else 0 end;
            if fields[n] !~* shapes[place] then
                return format('cron %s: %s %s is not one', to_jsonb(cron), names[place], to_jsonb(fields[n]));
            elsif place <= 6 and fields[n] ~ number
                  and orch.cron_numbers(fields[n], lowest[place], highest[place]) is null then
                return format('cron %s: %s %s is not one: it says %s to %s', to_jsonb(cron), names[place],
                              to_jsonb(fields[n]), lowest[place], highest[place]);
            end if;
        end loop;
        place := case when cardinality(fields) = 5 then 3 else 4 end;
        if fields[place + 2] in ('*', '?') then
            days := orch.cron_numbers(fields[place], 1, 31);
            for n in 1..12 loop
                fields[place + 1] := replace(upper(fields[place + 1]), to_char(make_date(2000, n, 1), 'MON'), n::text);
            end loop;
            months := orch.cron_numbers(fields[place + 1], 1, 12);
            if days is not null and months is not null
               and not exists (select from unnest(days) d, unnest(months) m where d <= longest[m]) then
                return format('cron %s: it never ticks: there is no such day', to_jsonb(cron));
            end if;
        end if;
    end if;

    -- Asked only about what could be one: everything else Postgres takes for a rule of its own, such as "X+3".
    if time_zone is null or time_zone !~ '^[A-Za-z][A-Za-z0-9-]*$|^[A-Za-z_]+(/[A-Za-z0-9+_-]+)+$' then
        return format('there is no time zone %s: it has a name such as UTC, Europe/Berlin or America/New_York',
                      coalesce(to_jsonb(left(time_zone, 120)), 'null'));
    end if;
    perform now() at time zone time_zone;
    return null;
exception when invalid_parameter_value then
    -- The nearest name, or the one of the same city.
    return format('there is no time zone %s: ', to_jsonb(left(time_zone, 120))) || coalesce(
        (select format('did you mean %s?', to_jsonb(n.name))
           from (select z.name,
                        least(orch.distance(lower(z.name), lower(time_zone)),
                              2 * orch.distance(lower(split_part(z.name, '/', -1)),
                                                lower(replace(split_part(time_zone, '/', -1), ' ', '_')))) as far
                   from pg_timezone_names z where z.name !~ '^(posix|right)/') n
          where n.far <= greatest(length(time_zone) / 3, 1)
          order by n.far, length(n.name), n.name limit 1),
        'it has a name such as UTC, Europe/Berlin or America/New_York');
end
$$;
comment on function orch.fault_of_rhythm is 'Says in words why something is no schedule, as far as the database can; null where it may be one.';

-- The numbers that a field of a cron expression names, ascending; null where it is none of numbers, or one of them is not
-- between the two.
create or replace function orch.cron_numbers(field text, low integer, high integer) returns integer[]
language plpgsql immutable
set search_path = pg_catalog, orch
as $$
declare
    item text;
    part text[];
    first integer;
    last integer;
    numbers integer[] := '{}';
begin
    foreach item in array string_to_array(field, ',') loop
        part := regexp_match(item, '^(?:(\*)|(\d{1,4})(?:-(\d{1,4}))?)(?:/(\d{1,4}))?$');
        first := case when part[1] is null then part[2]::integer else low end;
        last := case when part[1] is not null or (part[3] is null and part[4] is not null) then high
                     else coalesce(part[3], part[2])::integer end;
        if part is null or first < low or last > high or first > last or part[4]::integer = 0 then
            return null;
        end if;
        numbers := numbers || array(select generate_series(first, last, coalesce(part[4]::integer, 1)));
    end loop;
    return array(select distinct n from unnest(numbers) n order by n);
end
$$;
comment on function orch.cron_numbers is 'The numbers that a field of a cron expression names; null where it is not made of numbers.';
