//! Agents: what the database must know of them. What they execute stands in the replicas' files alone.

use std::time::Duration;

use super::{Db, Result, Statement, statement};
use crate::agents::Agent;

const REGISTER: Statement = statement!(
    "agents/register",
    [
        TEXT_ARRAY,
        INT4_ARRAY,
        FLOAT8_ARRAY,
        FLOAT8_ARRAY,
        FLOAT8_ARRAY,
        FLOAT8_ARRAY,
        FLOAT8_ARRAY,
        TEXT_ARRAY,
        TEXT_ARRAY
    ]
);

pub(super) const STATEMENTS: &[&Statement] = &[&REGISTER];

impl Db {
    /// Registers the limits and retry rules of agents; a row that says the same already is not written. A limit that is
    /// named here first is made, without a bound.
    pub async fn register_agents(&self, agents: &[&Agent]) -> Result<()> {
        let names: Vec<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
        let max_attempts: Vec<i32> = agents.iter().map(|agent| agent.max_attempts).collect();
        let seconds = |of: fn(&Agent) -> Option<Duration>| -> Vec<Option<f64>> {
            agents.iter().map(|agent| of(agent).map(|timeout| timeout.as_secs_f64())).collect()
        };
        let timeouts = seconds(|agent| agent.timeout);
        let silences = seconds(|agent| agent.silence_timeout);
        let bases: Vec<f64> = agents.iter().map(|agent| agent.backoff.base).collect();
        let factors: Vec<f64> = agents.iter().map(|agent| agent.backoff.factor).collect();
        let maxima: Vec<f64> = agents.iter().map(|agent| agent.backoff.max).collect();
        let on_lost: Vec<&str> = agents.iter().map(|agent| agent.on_lost.as_str()).collect();
        let limits: Vec<Option<String>> =
            agents.iter().map(|agent| Some(agent.limits.join(",")).filter(|names| !names.is_empty())).collect();
        self.query(
            &REGISTER,
            &[&names, &max_attempts, &timeouts, &silences, &bases, &factors, &maxima, &on_lost, &limits],
        )
        .await
        .map(drop)
    }
}
