-- What operators do to projects, agents and everything: pause and resume, which close and open the limits that every job
-- needs unsaid; and the rules of a project. Each returns whether anything changed.

-- Starts nothing more of `all`, `project:NAME` or `agent:NAME`; what runs goes on.
create or replace function orch.pause(what text, until timestamptz default 'infinity', reason text default null)
returns boolean
language plpgsql
set search_path = pg_catalog, orch
as $$
begin
    if orch.is_unsaid_limit(what) is not true then
        raise exception '% is nothing to pause', coalesce(to_jsonb(left(what, 120))::text, 'null')
            using errcode = 'OR004',
                  hint = 'pause all, project:NAME or agent:NAME; a limit is closed by orch.close_limit, a job held by orch.hold';
    end if;
    return orch.close_until(what, until, reason, false);
end
$$;
comment on function orch.pause is 'Starts nothing more of all, project:NAME or agent:NAME, until a time (infinity: until orch.resume); what runs goes on.';

-- Lets what was paused start again, at once.
create or replace function orch.resume(what text) returns boolean
language plpgsql
set search_path = pg_catalog, orch
as $$
begin
    if orch.is_unsaid_limit(what) is not true or orch.fault_of_limit_name(what) is not null then
        raise exception '% is nothing to resume', coalesce(to_jsonb(left(what, 120))::text, 'null')
            using errcode = 'OR004',
                  hint = 'resume all, project:NAME or agent:NAME; a limit is opened by orch.open_limit, a job released by orch.release';
    end if;
    return orch.open_now(what, 'resumed');
end
$$;
comment on function orch.resume is 'Lets what orch.pause stopped start again, at once.';

-- Gives a project rules of its own; null leaves one as it is.
create or replace function orch.set_project(name text, weight integer default null, serial boolean default null) returns boolean
language plpgsql
set search_path = pg_catalog, orch
as $$
#variable_conflict use_variable
declare
    done boolean;
begin
    if name is null or name !~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$' then
        raise exception 'project % is no well-formed name', coalesce(to_jsonb(left(name, 120))::text, 'null')
            using errcode = 'OR004',
                  hint = 'a name has 1 to 100 letters, digits, ".", "_" and "-", and begins with a letter or digit';
    end if;
    if weight not between 1 and 1000000 then
        raise exception 'project %: weight % is not between 1 and 1000000', to_jsonb(name), weight
            using errcode = 'OR004', hint = 'to start nothing of it, pause it: select orch.pause(''project:NAME'')';
    end if;
    insert into orch.projects as p (name, weight, serial) values (name, coalesce(weight, 1), coalesce(serial, false))
    on conflict on constraint projects_pkey do update
       set weight = coalesce(set_project.weight, p.weight), serial = coalesce(set_project.serial, p.serial)
     where (p.weight, p.serial)
           is distinct from (coalesce(set_project.weight, p.weight), coalesce(set_project.serial, p.serial));
    done := found;
    if done then
        insert into orch.events (kind, detail)
        select 'project_set', jsonb_build_object('project', p.name, 'weight', p.weight, 'serial', p.serial)
          from orch.projects p where p.name = set_project.name;
    end if;
    return done;
end
$$;
comment on function orch.set_project is 'Gives a project a weight, or has its jobs run one at a time; null leaves a rule as it is. Of what waits already nothing changes its gate.';
