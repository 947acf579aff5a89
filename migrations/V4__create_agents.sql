-- Create orch.agents: what the database must know of the agents that replicas serve.
--
-- Why: the retry rules of a job without its own are frozen into the run at the claim, which is one statement here. What
--   an agent executes stands in orch.toml alone.
-- Lock: none that matters; the table is new.
-- The binary before: there is none.
-- Undo by hand: drop table orch.agents;
set local lock_timeout = '5s';

create table orch.agents (
    name            text             not null,
    max_attempts    integer          not null default 3,
    timeout         interval,
    silence_timeout interval,
    backoff_base    interval         not null default interval '5 seconds',
    backoff_factor  double precision not null default 2,
    backoff_max     interval         not null default interval '1 hour',
    on_lost         text             not null default 'requeue',
    limits          text[],
    updated_at      timestamptz      not null default clock_timestamp(),

    constraint agents_pkey primary key (name),
    constraint agent_name_is_well_formed check (
        name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    constraint agent_max_attempts_is_positive check (
        max_attempts >= 1),
    constraint agent_timeout_is_positive_and_finite check (
        timeout is null or (timeout > interval '0' and timeout <= interval '100 years')),
    constraint agent_silence_timeout_is_positive_and_finite check (
        silence_timeout is null or (silence_timeout > interval '0' and silence_timeout <= interval '100 years')),
    constraint agent_backoff_is_positive_and_finite check (
        backoff_base > interval '0' and backoff_max >= backoff_base and backoff_max <= interval '100 years'
        and backoff_factor between 1 and 1000),
    constraint agent_on_lost_is_known check (
        on_lost in ('requeue', 'hold', 'fail'))
);

comment on table orch.agents is
    'Agents: the rules of each, as the replica that registered it last says. What an agent executes stands in orch.toml alone.';

comment on column orch.agents.name is 'As jobs ask for it.';
comment on column orch.agents.max_attempts is 'Failures at which a job is failed, unless the job says.';
comment on column orch.agents.timeout is 'After how long a run is ended as timed out, unless the job says; null: never.';
comment on column orch.agents.silence_timeout is 'After how long without output a run is ended as timed out; null: never.';
comment on column orch.agents.backoff_base is 'The wait after the first failure.';
comment on column orch.agents.backoff_factor is 'What each further wait is multiplied by.';
comment on column orch.agents.backoff_max is 'The longest wait, before jitter.';
comment on column orch.agents.on_lost is 'What becomes of a job whose run was lost: requeue, hold or fail.';
comment on column orch.agents.limits is 'Named caps that every job of this agent needs; not read until there are limits.';
comment on column orch.agents.updated_at is 'When these rules last changed.';

comment on constraint agents_pkey on orch.agents is 'An agent has one set of rules.';
comment on constraint agent_name_is_well_formed on orch.agents is '1 to 100 letters, digits, dots, underscores and hyphens, a letter or digit first.';
comment on constraint agent_max_attempts_is_positive on orch.agents is 'At least one attempt.';
comment on constraint agent_timeout_is_positive_and_finite on orch.agents is 'More than nothing and at most 100 years.';
comment on constraint agent_silence_timeout_is_positive_and_finite on orch.agents is 'More than nothing and at most 100 years.';
comment on constraint agent_backoff_is_positive_and_finite on orch.agents is 'Waits are more than nothing, do not shrink, and end within 100 years.';
comment on constraint agent_on_lost_is_known on orch.agents is 'A lost run has its job requeued, held or failed.';
