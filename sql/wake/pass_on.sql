-- Wake others who wait, since a claim filled every free slot and there may be more.
--
-- $1 text     the agent that it is about
-- $2 integer  how many
-- rows: one: how many were woken
-- guard: orch.wake's own
-- index: a scan of orch.replicas, where somebody waits
select orch.wake($1, replicas => $2) as woken
