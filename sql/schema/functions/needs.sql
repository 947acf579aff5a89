-- What a job needs in order to run, in one place each: claim, orch.why and orch.waiting ask the same functions.
--
-- Each is one expression, so that the planner puts it into the statement that calls it.

-- The limits that a job needs: three unsaid, its own, and those of its agent. A name may come twice.
create or replace function orch.needs(project text, agent text, limits text[], agent_limits text[]) returns text[]
language sql immutable
as $$
    select array['all', 'project:' || project, 'agent:' || agent] || limits || agent_limits
$$;
comment on function orch.needs is 'The limits that a job needs: all, project:NAME, agent:NAME, its own and those of its agent.';

-- Whether a replica takes such jobs at all.
create or replace function orch.serves(replica orch.replicas, agent text, require jsonb) returns boolean
language sql immutable
as $$
    select (replica).state = 'live' and not (replica).draining
           and agent = any ((replica).agents) and (replica).labels @> coalesce(require, '{}')
$$;
comment on function orch.serves is 'Whether a replica takes jobs of this agent that require these labels: it is live, not draining, serves the agent and has the labels.';

-- How long a job waits for one step of priority. Not called immutable, which it is: the planner would run it, at every
-- plan and as a statement of its own, where it puts the constant into a statement that calls something stable.
create or replace function orch.ageing() returns interval
language sql stable
as $$ select interval '1 hour' $$;
comment on function orch.ageing is 'What a step of priority is worth: an hour of waiting. So nothing waits for ever behind higher priorities.';

-- Where a job stands in its project: the earlier first, then the smaller id.
create or replace function orch.place_of(priority smallint, run_at timestamptz) returns timestamptz
language sql stable
as $$ select run_at - priority * orch.ageing() $$;
comment on function orch.place_of is 'Where a job stands among those of its project: the earlier first, then the smaller id.';
