//! What is drawn: the replicas that there are, and the acts of producers, operators and replicas.

use std::time::Duration;

use orch::{
    db::jobs::{Change, When},
    model::Outcome,
};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{Index, select, subsequence},
};

pub(super) const AGENTS: [&str; 3] = ["a", "b", "unserved"];
const PROJECTS: [&str; 3] = ["p", "q", "serial"];
pub(super) const LIMITS: [&str; 4] = ["l1", "l2", "l3", "open"];
/// Every job needs some of these unsaid.
const UNSAID: [&str; 4] = ["all", "project:p", "agent:a", "agent:b"];

/// A replica: what it serves, whether it has the label, its slots.
pub(super) type Place = (Vec<&'static str>, bool, usize);

#[derive(Debug, Clone)]
pub(super) enum Act {
    Enqueue {
        agent: &'static str,
        project: &'static str,
        priority: i16,
        gate: Option<&'static str>,
        limits: Vec<&'static str>,
        label: bool,
        later: bool,
        /// Jobs that must have succeeded before.
        after: Vec<Index>,
    },
    Claim {
        replica: Index,
        slots: usize,
    },
    Settle {
        run: Index,
        outcome: Outcome,
        /// A limit that the result closes: as [`Act::Close`] does.
        closes: Option<(&'static str, bool)>,
        /// Whether the replica lives to let go the jobs that wait for this one.
        resolves: bool,
    },
    /// The owner of a run that a reap had closed says how it ended.
    SettleLate {
        run: Index,
        outcome: Outcome,
    },
    /// An operator sets a running job to queued or held, with a plain UPDATE.
    Take {
        run: Index,
        hold: bool,
    },
    /// A replica has ended the process of a job that was taken from it.
    Acknowledge {
        ended: Index,
    },
    /// Another boot on the state directory of a replica takes its runs over: all, or only every second one, of the others it
    /// hears nothing.
    TakeOver {
        replica: Index,
        all: bool,
    },
    /// The lease of a replica runs out, a tick finds it, and another one starts.
    Die {
        replica: Index,
    },
    Tick,
    Bound {
        limit: &'static str,
        max: Option<i32>,
    },
    /// For a moment, after which it probes, or until it is opened.
    Close {
        limit: &'static str,
        passes: bool,
    },
    Open {
        limit: &'static str,
    },
    Pause {
        what: &'static str,
    },
    Resume {
        what: &'static str,
    },
    Change {
        job: Index,
        change: Change,
    },
    Priority {
        job: Index,
        priority: i16,
    },
    Drain {
        replica: Index,
        on: bool,
    },
    Rules {
        project: &'static str,
        weight: i32,
        serial: Option<bool>,
    },
    /// `serial_gate_enabled`, of all replicas.
    Gates {
        on: bool,
    },
}

pub(super) fn acts() -> impl Strategy<Value = Vec<Act>> {
    let agent = || prop_oneof![12 => Just("a"), 6 => Just("b"), 1 => Just("unserved")];
    let enqueue = (
        agent(),
        select(&PROJECTS[..]),
        0..3_i16,
        option::weighted(0.3, select(&["g", "h"][..])),
        prop_oneof![3 => Just(Vec::new()), 2 => subsequence(&LIMITS[..], 1..=2)],
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.1),
        prop_oneof![4 => Just(Vec::new()), 1 => vec(any::<Index>(), 1..=2)],
    )
        .prop_map(|(agent, project, priority, gate, limits, label, later, after)| Act::Enqueue {
            agent,
            project,
            priority,
            gate,
            limits,
            label,
            later,
            after,
        });
    let any_limit = || prop_oneof![8 => select(&LIMITS[..]), 1 => select(&UNSAID[..])];
    let outcome = || {
        use Outcome::{Failed, Interrupted, Succeeded, Transient};
        select(vec![Succeeded, Succeeded, Succeeded, Failed, Failed, Transient, Interrupted])
    };
    let settle =
        (any::<Index>(), outcome(), option::weighted(0.3, (any_limit(), any::<bool>())), prop::bool::weighted(0.8))
            .prop_map(|(run, outcome, closes, resolves)| Act::Settle { run, outcome, closes, resolves });
    let changes = [Change::Hold, Change::Release, Change::Cancel, Change::Retry, Change::Retry];
    // In groups, since a tuple of alternatives has an end.
    let of_jobs = prop_oneof![
        12 => enqueue,
        2 => (any::<Index>(), select(changes.to_vec())).prop_map(|(job, change)| Act::Change { job, change }),
        1 => (any::<Index>(), 0..4_i16).prop_map(|(job, priority)| Act::Priority { job, priority }),
    ];
    let of_runs = prop_oneof![
        8 => (any::<Index>(), 1..5_usize).prop_map(|(replica, slots)| Act::Claim { replica, slots }),
        7 => settle,
        2 => (any::<Index>(), outcome()).prop_map(|(run, outcome)| Act::SettleLate { run, outcome }),
        3 => (any::<Index>(), prop::bool::weighted(0.3)).prop_map(|(run, hold)| Act::Take { run, hold }),
        1 => any::<Index>().prop_map(|ended| Act::Acknowledge { ended }),
    ];
    let of_replicas = prop_oneof![
        2 => (any::<Index>(), prop::bool::weighted(0.2)).prop_map(|(replica, on)| Act::Drain { replica, on }),
        2 => (any::<Index>(), prop::bool::weighted(0.7)).prop_map(|(replica, all)| Act::TakeOver { replica, all }),
        2 => any::<Index>().prop_map(|replica| Act::Die { replica }),
        1 => Just(Act::Tick),
    ];
    let of_rules = prop_oneof![
        4 => (any_limit(), option::of(1..3)).prop_map(|(limit, max)| Act::Bound { limit, max }),
        4 => (any_limit(), any::<bool>()).prop_map(|(limit, passes)| Act::Close { limit, passes }),
        4 => any_limit().prop_map(|limit| Act::Open { limit }),
        1 => select(&UNSAID[..]).prop_map(|what| Act::Pause { what }),
        6 => select(&UNSAID[..]).prop_map(|what| Act::Resume { what }),
        2 => (select(&PROJECTS[..]), 1..4, option::weighted(0.3, any::<bool>()))
            .prop_map(|(project, weight, serial)| Act::Rules { project, weight, serial }),
        1 => any::<bool>().prop_map(|on| Act::Gates { on }),
    ];
    vec(prop_oneof![15 => of_jobs, 15 => of_runs, 4 => of_replicas, 8 => of_rules], 10..60)
}

/// One or two replicas: alike but for their slots, or different.
pub(super) fn places() -> impl Strategy<Value = Vec<Place>> {
    let served = || prop_oneof![3 => Just(vec!["a", "b"]), 1 => Just(vec!["a"]), 1 => Just(vec!["b"])];
    let slots = || prop_oneof![1 => Just(0_usize), 8 => 1..5_usize];
    let alike = (served(), any::<bool>(), vec(slots(), 1..=2))
        .prop_map(|(agents, label, slots)| slots.into_iter().map(|slots| (agents.clone(), label, slots)).collect());
    prop_oneof![2 => alike, 1 => vec((served(), any::<bool>(), slots()), 2..=2)]
}

/// When a limit that is closed opens: in a moment, or when somebody opens it.
pub(super) fn until(passes: bool) -> Option<When> {
    passes.then_some(When::In(Duration::from_millis(1)))
}
