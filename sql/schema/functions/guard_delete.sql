-- A running job is not deleted: its process would go on with nobody to answer for it.
create or replace function orch.guard_delete() returns trigger
language plpgsql
set search_path = pg_catalog, orch
as $$
begin
    raise exception 'job % is running; its row is not deleted', old.id
        using errcode = 'OR001', hint = 'use orch.cancel(job_id) first';
end
$$;
comment on function orch.guard_delete() is 'A running job is not deleted (SQLSTATE OR001).';

-- TRUNCATE deletes without asking row triggers, so it is asked by itself.
create or replace function orch.guard_truncate() returns trigger
language plpgsql
set search_path = pg_catalog, orch
as $$
begin
    if exists (select from orch.agent_runs r where r.ended_at is null) then
        raise exception 'orch.% is not truncated while jobs run', tg_table_name
            using errcode = 'OR001', hint = 'cancel what runs first: select orch.cancel(job_id) from orch.running';
    end if;
    if exists (select from orch.replicas p where p.state = 'live') and tg_table_name = 'replicas' then
        raise exception 'orch.replicas is not truncated while a replica is live'
            using errcode = 'OR006', hint = 'stop the replicas, or wait until their leases have run out';
    end if;
    return null;
end
$$;
comment on function orch.guard_truncate() is 'What runs is not truncated away (SQLSTATE OR001, OR006).';
