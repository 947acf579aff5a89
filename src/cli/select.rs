//! The flags that name jobs by what they are: shared by lists and by changes.

use std::time::Duration;

use clap::Args;

use super::when::parse_span;
use crate::{db::jobs::Filter, model::JobStatus};

/// Which jobs. Every flag given must hold.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct FilterFlags {
    /// Only jobs in one of these statuses: queued, held, running, succeeded, failed, cancelled
    #[arg(long, value_delimiter = ',', value_name = "STATUS")]
    status: Vec<JobStatus>,
    /// Only jobs of this project
    #[arg(long)]
    project: Option<String>,
    /// Only jobs of this agent
    #[arg(long)]
    agent: Option<String>,
    /// Only jobs created at most so long ago, e.g. 1h
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    created_within: Option<Duration>,
    /// Only jobs created at least so long ago, e.g. 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    created_before: Option<Duration>,
    /// Only jobs finished at most so long ago
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    finished_within: Option<Duration>,
    /// Only jobs finished at least so long ago
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    finished_before: Option<Duration>,
}

impl FilterFlags {
    /// Whether no flag was given.
    pub(super) fn is_empty(&self) -> bool {
        self.status.is_empty()
            && self.project.is_none()
            && self.agent.is_none()
            && [self.created_within, self.created_before, self.finished_within, self.finished_before]
                .iter()
                .all(Option::is_none)
    }

    /// The filter; `statuses` where the flags name none.
    pub(super) fn filter(self, statuses: &[JobStatus]) -> Filter {
        Filter {
            statuses: if self.status.is_empty() { statuses.to_vec() } else { self.status },
            project: self.project,
            agent: self.agent,
            created_within: self.created_within,
            created_before: self.created_before,
            finished_within: self.finished_within,
            finished_before: self.finished_before,
        }
    }
}
