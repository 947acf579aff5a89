-- Create orch.projects: the tenants that have rules of their own.
--
-- Why: a project may run one job at a time. A project without a row has the defaults, so no enqueue writes here.
-- Lock: none that matters; the table is new.
-- The binary before: there is none.
-- Undo by hand: drop table orch.projects;
set local lock_timeout = '5s';

create table orch.projects (
    name   text    not null,
    serial boolean not null default false,
    weight integer not null default 1,

    constraint projects_pkey primary key (name),
    constraint project_name_is_well_formed check (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    constraint project_weight_is_positive check (weight between 1 and 1000000)
);

comment on table orch.projects is
    'Projects with rules of their own; one that is not here has the defaults.';

comment on column orch.projects.name is 'As jobs name it.';
comment on column orch.projects.serial is 'One job at a time: jobs enqueued without a gate get the gate project:NAME.';
comment on column orch.projects.weight is 'Its share of the slots, against the weights of the other projects; not read until there is fair share.';

comment on constraint projects_pkey on orch.projects is 'A project has one set of rules.';
comment on constraint project_name_is_well_formed on orch.projects is '1 to 100 letters, digits, dots, underscores and hyphens, a letter or digit first.';
comment on constraint project_weight_is_positive on orch.projects is 'From 1 to a million.';
