-- Says in words why a row is no schedule, as far as the database can: what the CHECKs would refuse by name, the cron
-- expression, the time zone, the wish, and what would be ignored. And has a replica compute the next tick of what is new, or
-- ticks by something else than before, or was paused. Fired by its triggers for an insert and for a change of those columns.
--
-- What does not change is not judged again: a schedule whose limit was dropped or whose year is over can still be paused.
-- Nor is what a row that was a schedule before says beside the point, when it comes back: it is `planned`, a new one is not.
create or replace function orch.guard_schedule() returns trigger
language plpgsql
set search_path = pg_catalog, orch
as $$
declare
    is_new constant boolean := tg_op = 'INSERT' and not new.planned;
    was orch.schedules;
    complaint text;
    fault_code text;
begin
    if tg_op = 'UPDATE' then
        was := old;
    end if;
    if (was.name, was.cron, was.every, was.time_zone, was.catch_up, was.catch_up_max, was.grace, was.overlap)
       is distinct from
       (new.name, new.cron, new.every, new.time_zone, new.catch_up, new.catch_up_max, new.grace, new.overlap) then
        complaint := orch.fault_of_rhythm(new.name, new.cron, new.every, new.time_zone, new.catch_up, new.catch_up_max,
                                          new.grace, new.overlap);
    end if;
    if complaint is null and (is_new or tg_op = 'UPDATE') then
        complaint := case
            when new.cron is null and new.time_zone <> 'UTC' and new.time_zone is distinct from was.time_zone then
                format('time_zone %s goes with cron: an interval is as long in every zone', to_jsonb(new.time_zone))
            when new.cron is not null and new.anchor_at <> was.anchor_at then
                'anchor_at goes with every: a cron expression is not counted from an instant'
            when new.catch_up <> 'all' and new.catch_up_max <> coalesce(was.catch_up_max, 100) then
                format('catch_up_max %s goes with catch_up all: nothing else makes up for more than one tick', new.catch_up_max)
            when (was.cron, was.time_zone) is distinct from (new.cron, new.time_zone) then
                orch.fault_of_cron(new.cron, now() at time zone new.time_zone)
        end;
    end if;
    if complaint is null
       and (was.agent, was.payload, was.project, was.priority, was.gate, was.limits, was.labels, was.require,
            was.max_attempts, was.timeout, was.tick_key)
           is distinct from
           (new.agent, new.payload, new.project, new.priority, new.gate, new.limits, new.labels, new.require,
            new.max_attempts, new.timeout, new.tick_key) then
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

    return coalesce(orch.fault_of_cron(cron, null), orch.fault_of_zone(time_zone));
end
$$;
comment on function orch.fault_of_rhythm is 'Says in words why something is no schedule, as far as the database can; null where it may be one.';

-- Why a text is no cron expression, or never ticks; null where a replica can read it. `shown` is what the clocks of its zone
-- show now: where it is given, what is past is told as well. The grammar is that of src/model/schedule/cron.rs, and no more
-- than that: a test compares them.
create or replace function orch.fault_of_cron(cron text, shown timestamp) returns text
language plpgsql stable
set search_path = pg_catalog, orch
as $$
declare
    nicknames constant text[] := array['@yearly', '@annually', '@monthly', '@weekly', '@daily', '@midnight', '@hourly'];
    names constant text[] := array['second', 'minute', 'hour', 'day of month', 'month', 'day of week', 'year'];
    says constant text[] := array['0 to 59', '0 to 59', '0 to 23', '1 to 31, L, or a day with W', '1 to 12 or JAN to DEC',
                                  '0 to 7 or SUN to SAT, also with #1 to #5 or #L', '1 to 5000'];
    lowest constant integer[] := array[0, 0, 0, 1, 1, 0, 1];
    highest constant integer[] := array[59, 59, 23, 31, 12, 7, 5000];
    longest constant integer[] := array[31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    trimmed constant text := btrim(cron, E' \t\n');
    fields text[] := regexp_split_to_array(trimmed, E'[ \t\n]+');
    -- The numbers of each field; of a day of month also those with a W, and null where it has an L.
    numbers integer[];
    days integer[];
    months integer[];
    years integer[];
    -- It ticks on such a day of the month only.
    by_day boolean;
    place integer;
    item text;
    field text;
begin
    if cron is null then
        return null;
    elsif trimmed like '@%' then
        if lower(trimmed) = any (nicknames) then
            return null;
        end if;
        return format('cron %s: of nicknames there are %s', to_jsonb(cron), array_to_string(nicknames, ', '));
    elsif cardinality(fields) not between 5 and 7 or fields[1] = '' then
        return format('cron %s has %s fields: there are 5 (minute, hour, day of month, month, day of week), 6 with the '
                      'second before them, 7 with the year behind them',
                      to_jsonb(cron), case when fields[1] = '' then 0 else cardinality(fields) end);
    end if;
    for n in 1..cardinality(fields) loop
        place := n + case when cardinality(fields) = 5 then 1 else 0 end;
        field := upper(fields[n]);
        if place = 5 then
            for month in 1..12 loop
                field := regexp_replace(field, '(?<![A-Z0-9])' || to_char(make_date(2000, month, 1), 'MON') || '(?![A-Z0-9])',
                                        month::text, 'g');
            end loop;
        elsif place = 6 then
            by_day := field in ('*', '?') or field like '+%';
            field := regexp_replace(regexp_replace(field, '^\+', ''), '-SUN(?![A-Z0-9])', '-7', 'g');
            for day in 0..6 loop
                field := regexp_replace(field, '(?<![A-Z0-9])' || to_char(date '2000-01-02' + day, 'DY') || '(?![A-Z0-9])',
                                        day::text, 'g');
            end loop;
        end if;
        if place in (4, 6) then
            field := replace(field, '?', '*');
        end if;
        numbers := '{}';
        foreach item in array case when field = '' then array[''] else string_to_array(field, ',') end loop
            if place = 4 and item in ('L', 'LW') then
                numbers := null;
                continue;
            elsif place = 4 then
                item := regexp_replace(item, '^(\d{1,2})W$', '\1');
            elsif place = 6 and item !~ '^\*[#L]' then
                item := regexp_replace(item, '^(\d)L$|#([1-5]|L)$', '\1');
            end if;
            -- A * among others is none.
            if (item = '*' and field <> '*') or orch.cron_numbers(item, lowest[place], highest[place]) is null then
                return format('cron %s: %s %s is not one: it says %s', to_jsonb(cron), names[place], to_jsonb(fields[n]),
                              says[place]);
            end if;
            numbers := numbers || orch.cron_numbers(item, lowest[place], highest[place]);
        end loop;
        case place
            when 4 then days := numbers;
            when 5 then months := numbers;
            when 7 then years := numbers;
            else null;
        end case;
    end loop;

    by_day := by_day and days is not null;
    if by_day and not exists (select from unnest(days) d, unnest(months) m where d <= longest[m]) then
        return format('cron %s: it never ticks: there is no such day', to_jsonb(cron));
    elsif extract(year from shown) > (select max(y) from unnest(years) y) then
        return format('cron %s: it never ticks: its years are past', to_jsonb(cron));
    elsif by_day and shown is not null and cardinality(years) > 0 and not exists (
        select
          from unnest(array(select y from unnest(years) y where y >= extract(year from shown) order by y)) y,
               unnest(months) m, unnest(days) d
         where case when d <= longest[m] and (m <> 2 or d <> 29 or (y % 4 = 0 and (y % 100 <> 0 or y % 400 = 0)))
                    then make_date(y, m, d) >= shown::date end) then
        return format('cron %s: it never ticks: there is no such day, or it is past', to_jsonb(cron));
    end if;
    return null;
end
$$;
comment on function orch.fault_of_cron is 'Says in words why a text is no cron expression, or never ticks; null where it is one that does, or null.';

-- The numbers that an item of a cron expression's field names, ascending; null where it is none of numbers, or one of them is
-- not between the two.
create or replace function orch.cron_numbers(field text, low integer, high integer) returns integer[]
language plpgsql immutable
set search_path = pg_catalog, orch
as $$
declare
    part constant text[] := regexp_match(field, '^(?:(\*)|(\d{1,4})(?:-(\d{1,4}))?)(?:/(\d{1,4}))?$');
    first constant integer := case when part[1] is null then part[2]::integer else low end;
    last constant integer := case when part[1] is null then coalesce(part[3], part[2])::integer else high end;
begin
    if part is null or first < low or last > high or first > last or part[4]::integer = 0
       -- A step goes from * or through a range.
       or (part[4] is not null and part[1] is null and part[3] is null) then
        return null;
    end if;
    return array(select generate_series(first, last, coalesce(part[4]::integer, 1)));
end
$$;
comment on function orch.cron_numbers is 'The numbers that an item of a cron expression names; null where it is not made of numbers.';

-- Why there is no such time zone; null where there is, by this name to the letter. Postgres takes more than every replica
-- knows: abbreviations such as CEST, rules such as EST5, and any name in any case.
create or replace function orch.fault_of_zone(time_zone text) returns text
language plpgsql stable
set search_path = pg_catalog, orch
as $$
declare
    like_which constant text := 'it has a name such as UTC, Europe/Berlin or America/New_York';
begin
    if time_zone = 'UTC' or orch.is_zone(time_zone) then
        return null;
    elsif time_zone is null or time_zone !~ '^[A-Za-z][A-Za-z0-9 _/-]*$' then
        return format('there is no time zone %s: %s', coalesce(to_jsonb(left(time_zone, 120)), 'null'), like_which);
    end if;
    -- The nearest name, or the one of the same city.
    return format('there is no time zone %s: ', to_jsonb(left(time_zone, 120))) || coalesce(
        (select format('did you mean %s?', to_jsonb(n.name))
           from (select z.name,
                        least(orch.distance(lower(z.name), lower(time_zone)),
                              2 * orch.distance(lower(split_part(z.name, '/', -1)),
                                                lower(replace(split_part(time_zone, '/', -1), ' ', '_')))) as far
                   from pg_timezone_names z
                  where z.name = 'UTC' or (z.name like '%/%' and z.name !~ '^(posix|right|SystemV)/')) n
          where n.far <= greatest(length(time_zone) / 3, 1)
          order by n.far, length(n.name), n.name limit 1),
        like_which);
end
$$;
comment on function orch.fault_of_zone is 'Says in words why there is no such time zone; null where there is.';

-- Whether this is the name of a place with a time zone, to the letter. To ask pg_timezone_names is to read hundreds of files;
-- what the setting makes of a name is one. But it takes every rule with a number in it, and then there is nothing else to
-- ask.
create or replace function orch.is_zone(name text) returns boolean
language plpgsql stable
set search_path = pg_catalog, orch
set timezone = 'UTC'
as $$
begin
    if name ~ '^[A-Za-z_]+(/[A-Za-z_]+)+$' and name !~ '^(posix|right|SystemV)/' then
        perform set_config('timezone', name, true);
        return current_setting('timezone') = name;
    end if;
    return name ~ '^[A-Z][a-z]+/' and exists (select from pg_timezone_names z where z.name = is_zone.name);
exception when invalid_parameter_value then
    return false;
end
$$;
comment on function orch.is_zone is 'Whether this is the name of a place with a time zone, to the letter.';
