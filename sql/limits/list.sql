-- Every limit, what is used of it, and whether it is closed; not what was left of a pause that is over.
--
-- rows: name, max_running (null: any number), running, room (null: any number), is_closed, is_closed_for_good (until it is
--       opened), closed_until (null where it is open, or closed for good), probing, reason
-- guard: none
-- index: agent_runs_open_limits and agent_runs_open_project, by the view
select u.name, u.max_running, u.running, u.room, coalesce(u.closed_until > now(), false) as is_closed,
       coalesce(u.closed_until = 'infinity', false) as is_closed_for_good,
       case when isfinite(u.closed_until) then u.closed_until end as closed_until, u.probing, u.reason
  from orch.limit_use u
 where not orch.is_unsaid_limit(u.name) or num_nonnulls(u.max_running, u.closed_until) > 0
 order by u.name
