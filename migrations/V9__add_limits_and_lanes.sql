-- Add orch.limits, and the lanes by which a claim finds what may run.
--
-- Why: a limit is a named cap on what runs, counted from the open runs and closed for a while where need be. Jobs that are
--   alike for a claim (project, agent, priority, gate, limits, labels required) wait for the same things, so they share a
--   lane, and a claim looks at the head of each lane instead of walking all the jobs that it may not take.
-- Lock: access exclusive on jobs while it is rewritten for the generated column (about 10 s a million rows) and its claim
--   index is built; on agent_runs and agents for a moment. Replicas keep their leases meanwhile and claim afterwards.
-- The binary before: must be stopped. Its claims work, and ask for no limit.
-- Undo by hand: drop view orch.limit_use, orch.limit_holders, orch.taken_gates; drop table orch.limits; drop index orch.jobs_claim;
--   alter table orch.jobs drop column lane, drop column require, drop constraint limits_are_well_formed;
--   alter table orch.agent_runs drop column project, drop column agent, drop column limits;
--   create index jobs_claim on orch.jobs (priority desc, run_at, id) include (project) where claimable;
set local lock_timeout = '5s';

create table orch.limits (
    name         text        not null,
    max_running  integer,
    closed_until timestamptz,
    reason       text,
    probe        boolean     not null default true,
    updated_at   timestamptz not null default clock_timestamp(),

    constraint limits_pkey primary key (name),
    constraint limit_name_is_well_formed check (
        name ~ '^[A-Za-z0-9][A-Za-z0-9._:/-]{0,119}$'),
    constraint limit_max_running_is_positive check (
        max_running is null or max_running >= 1),
    constraint limit_reason_comes_with_closed_until check (
        reason is null or closed_until is not null)
)
-- Claims lock its rows and a run now and then closes one; the rows are few and stay on one page or two.
with (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

comment on table orch.limits is
    'Named caps on running jobs. What is used is counted from the open runs (orch.limit_use); a limit that is not here is open and has no bound.';

comment on column orch.limits.name is 'As jobs and agents name it. Every job needs all, project:NAME and agent:NAME unsaid.';
comment on column orch.limits.max_running is 'How many jobs that need it run at the same time; null: any number.';
comment on column orch.limits.closed_until is 'Until when no job that needs it starts; infinity: until it is opened. Null: open.';
comment on column orch.limits.reason is 'Why it is closed, for people.';
comment on column orch.limits.probe is 'Once closed_until has passed, one job tries first, and the others follow when it has ended without closing the limit again. False for a pause: all at once.';
comment on column orch.limits.updated_at is 'When it last changed.';

comment on constraint limits_pkey on orch.limits is 'A limit has one bound.';
comment on constraint limit_name_is_well_formed on orch.limits is '1 to 120 letters, digits, dots, underscores, colons, slashes and hyphens, a letter or digit first.';
comment on constraint limit_max_running_is_positive on orch.limits is 'At least one; to let nothing run, close the limit.';
comment on constraint limit_reason_comes_with_closed_until on orch.limits is 'A reason says why a limit is closed.';

alter table orch.jobs drop constraint limits_come_with_their_table;
alter table orch.jobs
    add column require jsonb,
    -- Higher priorities first, then by the hash of what else is alike. A collision costs a wait, never a limit: what is
    -- taken from a lane is compared with its head.
    add column lane bigint generated always as (
        (-(priority::bigint) << 47)
        | (hashtextextended(agent,
               coalesce(hashtextextended(gate, 1), 0)
               # coalesce(hash_array_extended(limits, 2), 0)
               # coalesce(jsonb_hash_extended(require, 3), 0)) & 140737488355327)) stored,
    add constraint limits_are_well_formed check (
        limits is null
        or (limits::text ~ '^\{[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}(,[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}){0,15}\}$'
            and limits::text !~ '[{,](all[,}]|NULL[,}]|project:|agent:)')),
    add constraint require_is_an_object check (
        require is null or (jsonb_typeof(require) = 'object' and pg_column_size(require) <= 8192));

drop index orch.jobs_claim;
create index jobs_claim on orch.jobs (project, lane, run_at, id) where claimable;

comment on column orch.jobs.limits is 'Named caps that the job needs, beside those of its agent; sorted by orch.enqueue.';
comment on column orch.jobs.require is 'Labels that a replica must have to run it; null: any replica will do.';
comment on column orch.jobs.lane is 'Generated: jobs of one project with the same lane are alike for a claim (agent, priority, gate, limits, require) and wait for the same things.';
comment on constraint limits_are_well_formed on orch.jobs is '1 to 16 names of 1 to 100 letters, digits, dots, underscores, colons, slashes and hyphens; never all, project:NAME or agent:NAME, which every job needs unsaid.';
comment on constraint require_is_an_object on orch.jobs is 'A JSON object of at most 8 KiB.';
comment on index orch.jobs_claim is 'What claims read: the head of each lane, then what follows it.';

alter table orch.agent_runs
    add column project text,
    add column agent   text,
    add column limits  text[];
update orch.agent_runs r set project = j.project, agent = j.agent
  from orch.jobs j where j.id = r.job_id and r.ended_at is null;
create index agent_runs_open_project on orch.agent_runs (project, agent) where ended_at is null;
create index agent_runs_open_limits on orch.agent_runs (claimed_at) where ended_at is null and limits is not null;

comment on column orch.agent_runs.project is 'The project of its job.';
comment on column orch.agent_runs.agent is 'The agent that it runs.';
comment on column orch.agent_runs.limits is 'The limits that it holds while it is open: those of its job and of its agent, at the claim.';
comment on index orch.agent_runs_open_project is 'How many jobs of a project, or of its agents, are running.';
comment on index orch.agent_runs_open_limits is 'The running jobs that hold a limit.';

comment on column orch.agents.limits is 'Named caps that every job of this agent needs.';
comment on column orch.projects.weight is 'Its share of the slots, against the weights of the other projects.';
