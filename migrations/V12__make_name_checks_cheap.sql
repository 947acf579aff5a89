-- Make the CHECKs on names cheap.
--
-- Why: every UPDATE of a row evaluates every CHECK of its table, whatever it changes. A bounded repetition, {0,99}, makes
--   Postgres build an automaton of a hundred states for each look: 5 us, where length and an unbounded one say the same in
--   0.5 us. A job has two such names and is updated three times.
-- Lock: access exclusive on each of the tables while the new CHECKs read it once (about a second a million jobs).
-- The binary before: works.
-- Undo by hand: nothing need be undone; the CHECKs of V1, V4, V5 and V9 refuse the same names.
set local lock_timeout = '5s';

alter table orch.jobs
    drop constraint agent_is_well_formed,
    drop constraint project_is_well_formed,
    drop constraint limits_are_well_formed,
    add constraint agent_is_well_formed check (
        length(agent) <= 100 and agent ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$'),
    add constraint project_is_well_formed check (
        length(project) <= 100 and project ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$'),
    add constraint limits_are_well_formed check (
        limits is null
        or (cardinality(limits) <= 16 and length(limits::text) <= 1617
            and limits::text ~ '^\{[A-Za-z0-9][A-Za-z0-9._:/-]*(,[A-Za-z0-9][A-Za-z0-9._:/-]*)*\}$'
            and limits::text !~ '[{,](all[,}]|NULL[,}]|project:|agent:)'));

comment on constraint agent_is_well_formed on orch.jobs is '1 to 100 letters, digits, dots, underscores and hyphens, a letter or digit first.';
comment on constraint project_is_well_formed on orch.jobs is '1 to 100 letters, digits, dots, underscores and hyphens, a letter or digit first.';
comment on constraint limits_are_well_formed on orch.jobs is '1 to 16 names of letters, digits, dots, underscores, colons, slashes and hyphens, a letter or digit first, 1617 characters in all; never all, project:NAME or agent:NAME, which every job needs unsaid.';
