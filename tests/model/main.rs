//! The protocol of ownership, searched: every order of events that two replicas, their crashes, a lossy network and an
//! outage allow. What is modelled, and what is not: `docs/architecture/model.md`.

mod calm;
mod choices;
mod database;
mod machine;
mod properties;
mod replica;
mod state;
mod world;

use std::{collections::BTreeSet, io::Write as _, time::Instant};

use properties::{
    ADOPTED, ALL_END, GIVEN_UP, LATE_END, NO_ROBBERY, ONE_LATE, ONE_PROCESS, OUTLIVED, RETRIED, RUNS_AGAIN,
};
use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::world::{Broken, World};

/// One job, which may run twice, and no fault but silence: renewals that are not sent or not heard, claims whose reply is
/// lost, and clocks that go on.
const QUIET: World = World {
    broken: Broken::Nothing,
    jobs: 1,
    runs: 2,
    crashes: [false, false],
    handovers: false,
    outage: false,
    clock_jump: false,
    stray_claims: false,
    retry: false,
    slow_answers: false,
    calms_down: false,
    shows: &[ALL_END, RUNS_AGAIN, LATE_END],
};
const A_CRASH: World = World { crashes: [true, false], shows: BY_CRASH, ..QUIET };

/// What a world without the fault can not show.
const BY_CRASH: &[&str] = &[ALL_END, RUNS_AGAIN, LATE_END, ADOPTED, GIVEN_UP];

/// To standard error also where the test harness captures output: what was searched belongs into the log of every run.
fn say(line: &str) {
    // There is nobody to tell that nobody can be told.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Looks at every state that can be reached, and says how many there were.
fn search(name: &str, world: World) {
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = world.checker().threads(threads).spawn_bfs().join();
    let discoveries = checker.discoveries();
    say(&format!(
        "{name}: {} states, {} steps, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64()
    ));
    for property in world.properties() {
        let found = discoveries.get(property.name);
        match property.expectation {
            Expectation::Always | Expectation::Eventually => {
                assert!(found.is_none(), "{}: {:#?}", property.name, found.map(|path| path.clone().into_actions()));
            }
            Expectation::Sometimes => {
                assert!(found.is_some(), "never seen: {}", property.name);
            }
        }
    }
    // A search that stopped because every property has its discovery would have found a violation above.
    assert!(checker.is_done(), "the search has not finished");
}

/// Looks for the shortest way to break this property.
fn finds(broken: Broken, world: World, property: &'static str) {
    let wanted = HasDiscoveries::AllOf(BTreeSet::from([property]));
    let checker = World { broken, ..world }.checker().finish_when(wanted).spawn_bfs().join();
    let Some(path) = checker.discovery(property) else {
        panic!("{broken:?} is not found in {} states", checker.unique_state_count());
    };
    let actions = path.into_actions();
    let (steps, states) = (actions.len(), checker.unique_state_count());
    say(&format!("{broken:?}: \"{property}\" is broken in {steps} steps, found in {states} states"));
    // The way there, for who asks with --nocapture.
    println!("{actions:?}");
}

const BOTH_CRASH: World = World { crashes: [true, true], ..A_CRASH };
const TWO_JOBS: World = World { jobs: 2, runs: 1, shows: &[ALL_END, LATE_END], ..QUIET };

#[test]
fn a_crash_or_a_planned_stop() {
    search("a crash, or a planned stop", World { handovers: true, ..A_CRASH });
}

#[test]
fn slow_answers_to_renewals() {
    search("slow answers", World { slow_answers: true, ..QUIET });
}

#[test]
fn claims_that_are_executed_when_nobody_waits_for_them() {
    search("stray claims", World { stray_claims: true, ..QUIET });
}

#[test]
fn an_outage_of_the_database() {
    search("an outage", World { outage: true, shows: &[ALL_END, RUNS_AGAIN, LATE_END, OUTLIVED], ..QUIET });
}

#[test]
fn a_clock_of_the_database_that_jumps_ahead() {
    search("a jump of the clock", World { clock_jump: true, ..QUIET });
}

#[test]
fn an_operator_who_retries() {
    search("a retry", World { retry: true, shows: &[ALL_END, RUNS_AGAIN, LATE_END, RETRIED], ..QUIET });
}

#[test]
fn two_jobs_under_the_same_leases() {
    search("two jobs", TWO_JOBS);
}

#[test]
fn every_job_ends_once_nothing_fails_any_more() {
    search("calm", World { calms_down: true, ..QUIET });
}

#[test]
#[ignore = "part of the long run: minutes, and gigabytes unless built with --release"]
fn every_job_ends_once_nothing_fails_any_more_after_a_crash_too() {
    search("calm after a crash", World { calms_down: true, handovers: true, ..A_CRASH });
}

#[test]
#[ignore = "part of the long run: minutes, and gigabytes unless built with --release"]
fn every_job_ends_once_nothing_fails_any_more_after_an_outage_too() {
    search("calm after an outage", World { calms_down: true, outage: true, ..QUIET });
}

#[test]
#[ignore = "part of the long run: minutes, and gigabytes unless built with --release"]
fn both_crash() {
    search("both crash, or stop as planned", World { handovers: true, ..BOTH_CRASH });
}

#[test]
#[ignore = "part of the long run: minutes, and gigabytes unless built with --release"]
fn two_jobs_and_a_crash_each() {
    search(
        "two jobs and a crash each",
        World { crashes: [true, true], shows: &[ALL_END, LATE_END, ADOPTED, GIVEN_UP], ..TWO_JOBS },
    );
}

#[test]
fn without_the_fence_a_frozen_replicas_run_lives_beside_the_next() {
    finds(Broken::NoFence, QUIET, ONE_PROCESS);
}

#[test]
fn a_clock_that_is_read_after_the_reply_promises_more_than_was_granted() {
    finds(Broken::ClockReadAfterReply, World { slow_answers: true, clock_jump: true, ..QUIET }, ONE_PROCESS);
}

#[test]
fn without_grace_a_clock_that_jumps_ahead_reaps_what_lives() {
    finds(Broken::ReapWithoutGrace, World { clock_jump: true, ..QUIET }, ONE_PROCESS);
}

#[test]
fn a_settle_by_run_id_alone_takes_an_adopted_run_from_its_live_owner() {
    finds(Broken::SettleWithoutReplicaId, A_CRASH, NO_ROBBERY);
}

#[test]
fn one_lease_file_for_all_boots_lets_a_successor_renew_what_it_does_not_own() {
    finds(Broken::OneLeaseFile, A_CRASH, ONE_PROCESS);
}

#[test]
fn a_late_result_that_leaves_its_run_as_it_was_counts_twice() {
    finds(Broken::LateResultTwice, QUIET, ONE_LATE);
}

#[test]
fn an_adopted_run_outlives_a_successor_whose_lease_was_not_raised() {
    finds(Broken::AdoptionWithoutRaise, World { handovers: true, ..A_CRASH }, ONE_PROCESS);
}

#[test]
fn an_adoption_that_does_not_lock_its_successor_gives_a_live_run_to_a_dead_one() {
    finds(Broken::AdoptionByTheDead, World { handovers: true, ..A_CRASH }, ONE_PROCESS);
}

#[test]
fn a_run_that_is_given_up_without_void_starts_after_all() {
    finds(Broken::GiveUpWithoutVoid, A_CRASH, ONE_PROCESS);
}

#[test]
fn a_run_that_is_settled_while_its_lock_is_held_lives_beside_the_next() {
    finds(Broken::RequeueWhileLocked, A_CRASH, ONE_PROCESS);
}
