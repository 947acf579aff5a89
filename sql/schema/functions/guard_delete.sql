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
