-- Each limit, what is used of it, and how much room is left. The claim reads this under a lock on the limit's row.
--
-- A closed limit has no room. One whose closed_until has passed lets a probe through: one job, and no other until that has
-- ended without closing it again, which opens it.
create or replace view orch.limit_use as
select u.name, u.max_running, u.running, u.closed_until, u.reason, u.probing,
       case when u.closed_until > now() then 0
            else least(u.max_running - u.running, case when u.probing then 1 - u.probes end) end as room
  from (select l.name, l.max_running, l.closed_until, l.reason,
               coalesce(l.probe and l.closed_until <= now(), false) as probing,
               count(h.run_id)::integer as running,
               (count(h.run_id) filter (where h.claimed_at >= l.closed_until))::integer as probes
          from orch.limits l
          left join orch.limit_holders h on h.name = l.name
         group by l.name) u;
comment on view orch.limit_use is 'Each limit, what is used of it, and how much room is left.';
comment on column orch.limit_use.name is 'The limit.';
comment on column orch.limit_use.max_running is 'How many jobs that need it run at the same time; null: any number.';
comment on column orch.limit_use.running is 'How many runs hold it.';
comment on column orch.limit_use.closed_until is 'Until when it is, or was, closed; null: it is open.';
comment on column orch.limit_use.reason is 'Why it was closed.';
comment on column orch.limit_use.probing is 'closed_until has passed, and one job tries whether it may be opened.';
comment on column orch.limit_use.room is 'How many more jobs may start; null: any number.';
