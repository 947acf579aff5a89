//! The rows of the suite, and how one is run: a case of its own, the fault, then the judges; evidence kept on failure.

use std::{panic::AssertUnwindSafe, pin::Pin};

use futures_util::FutureExt as _;
use libtest_mimic::{Failed, Trial};

use crate::{
    case::Case,
    rows,
    support::{Capability, lacking, not_run},
};

type Body = for<'a> fn(&'a mut Case) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// One row, or one way to make its fault.
pub(crate) struct Row {
    name: &'static str,
    /// Runs on every change; the others in the long run.
    gate: bool,
    needs: &'static [Capability],
    body: Body,
}

macro_rules! table {
    ($($module:ident :: $function:ident, $gate:ident, [$($need:ident),*];)*) => {
        &[$(Row {
            name: concat!(stringify!($module), "::", stringify!($function)),
            gate: table!(@ $gate),
            needs: &[$(Capability::$need),*],
            body: |case| Box::pin(rows::$module::$function(case)),
        }),*]
    };
    (@ gate) => { true };
    (@ long) => { false };
}

/// The rows by number. Those that are missing need what this version does not have yet.
const TABLE: &[Row] = table! {
    judges::the_auditor_sees_each_kind_of_wrong_row, gate, [Superuser];
    judges::the_witness_sees_two_of_one_job, gate, [];
    judges::the_proxy_does_what_it_is_told, gate, [Superuser];
    judges::a_container_ends_whole, gate, [Root, PidNamespace];
    r01_incident::repaired_at_startup, gate, [];
    r01_incident::repaired_at_a_tick, gate, [];
    r02_dead_owner::reaped_by_its_lease_and_nothing_is_signalled, gate, [];
    r03_pid_reuse::after_the_container_was_replaced, gate, [Root, PidNamespace];
    r03_pid_reuse::in_one_pid_namespace, gate, [Root, PidNamespace];
    r04_same_pids::two_containers_do_not_meet, gate, [Root, PidNamespace];
    r05_container_restart::with_the_same_state_directory_and_the_same_pids, gate, [Root, PidNamespace];
    r06_random_kills::two_hundred, gate, [PidNamespace, CgroupKill];
    r06_random_kills::two_thousand, long, [PidNamespace, CgroupKill];
    r07_every_step::and_started_again, gate, [];
    r07_every_step::and_replaced_by_another, gate, [];
    r08_frozen_replica::its_trees_end_and_it_writes_nothing_stale, gate, [];
    r09_frozen_machine::ends_right_after_the_thaw_and_is_not_believed, long, [Root, CgroupKill];
    r10_shim_killed::with_a_cgroup, gate, [CgroupKill];
    r10_shim_killed::with_a_pid_namespace, gate, [PidNamespace];
    r10_shim_killed::with_a_sweep, gate, [];
    r11_black_hole::its_trees_end_before_the_deadline_and_another_takes_over, gate, [NetNamespace, InstalledPostgres];
    r12_resets::its_trees_end_before_the_deadline_and_nobody_storms, gate, [NetNamespace, InstalledPostgres];
    r12_resets::fifty_flaps_a_minute_cost_no_run, gate, [NetNamespace, InstalledPostgres];
    r13_lost_answers::and_are_asked_for_again_in_time, gate, [NetNamespace, InstalledPostgres];
    r13_lost_answers::until_others_have_its_jobs, gate, [NetNamespace, InstalledPostgres];
    r14_swallowed_replies::with_the_end_of_the_connection, gate, [];
    r14_swallowed_replies::without_a_word, gate, [];
    r15_long_ways::a_connection_that_takes_longer_than_two_heartbeats_is_waited_for, gate, [];
    r15_long_ways::nobody_is_fenced_at_the_default_timings, long, [];
    r16_database_crash::back_after_a_second_after_half_a_lease_and_after_three, gate, [InstalledPostgres];
    r16_database_crash::all_loops_are_back_with_the_renewals, gate, [InstalledPostgres];
    r16_database_crash::under_three_hundred_live_runs_not_one_is_touched, gate, [InstalledPostgres];
    r17_failover::to_a_synchronous_standby_costs_no_run, gate, [InstalledPostgres];
    r18_lost_commits::a_lost_settlement_runs_again_under_a_new_run, long, [InstalledPostgres];
    r18_lost_commits::a_lost_claim_lives_beside_its_repetition_for_h_and_k, long, [InstalledPostgres];
    r19_skewed_failover::two_minutes_ahead, long, [InstalledPostgres, FakeTime];
    r19_skewed_failover::two_minutes_behind, long, [InstalledPostgres, FakeTime];
    r20_wall_clock::of_two_replicas_is_a_day_off, gate, [FakeTime];
    r21_suspend::is_counted_by_the_lease, gate, [Compiler];
    r22_all_dead::another_machine_comes, gate, [];
    r22_all_dead::one_of_them_comes_back, gate, [];
    r23_daemons::in_a_cgroup, gate, [CgroupKill];
    r23_daemons::in_a_pid_namespace, gate, [PidNamespace];
    r23_daemons::with_a_sweep, gate, [];
    r23_daemons::fenced_in_a_cgroup, gate, [CgroupKill];
    r23_daemons::fenced_in_a_pid_namespace, gate, [PidNamespace];
    r23_daemons::fenced_with_a_sweep, gate, [];
    r24_fork_bomb::in_a_cgroup, long, [CgroupKill, PidsController];
    r24_fork_bomb::in_a_pid_namespace, long, [PidNamespace, PidsController];
    r24_fork_bomb::with_a_sweep, long, [PidsController];
    r25_unkillable::in_a_cgroup, long, [CgroupKill, Freezer];
    r25_unkillable::in_a_pid_namespace, long, [PidNamespace, Freezer];
    r25_unkillable::with_a_sweep, long, [Freezer];
    r25_unkillable::with_a_sweep_and_its_main_process_gone, long, [Freezer];
    r26_no_resources::fork_says_eagain, gate, [Root];
    r26_no_resources::no_descriptor_is_left, gate, [];
    r26_no_resources::descriptors_run_out_in_the_shim, gate, [];
    r27_cannot_start::every_way_ends_the_job_at_once, gate, [];
    r28_zombies::ten_thousand_runs_leave_none, gate, [];
    r28_zombies::a_thousand_dead_children_are_collected, gate, [];
    r29_out_of_memory::in_a_cgroup, long, [CgroupKill, MemoryController];
    r29_out_of_memory::in_a_pid_namespace, long, [PidNamespace, MemoryController];
    r29_out_of_memory::with_a_sweep, long, [MemoryController];
    r30_log_flood::the_cap_holds_and_heartbeats_are_on_time, gate, [];
    r31_open_stdout::a_grandchild_cannot_hold_a_run_open, gate, [];
    r32_disk_full::nothing_is_lost_or_stuck, gate, [Root];
    r33_database_disk_full::an_outage_and_no_more, long, [Root, InstalledPostgres];
    r34_no_connections::renewals_go_on_and_nothing_is_lost, gate, [InstalledPostgres];
    r35_cancelled_task::at_every_point_of_a_claim, gate, [];
    r35_cancelled_task::in_the_middle_of_a_statement, gate, [];
    r36_old_snapshot::claims_stay_quick_and_it_is_named, long, [];
    r37_notify_queue_full::enqueue_claim_and_settle_go_on, long, [SmallNotifyQueue];
    r38_pgbouncer::everything_works_by_polling, gate, [PgBouncer];
    r39_no_transaction_ids::an_outage_and_no_more, long, [InstalledPostgres];
    r40_herd::of_fifty_replicas_asks_for_a_bounded_amount, gate, [InstalledPostgres];
    r41_poison::in_a_cgroup, gate, [CgroupKill];
    r41_poison::with_a_sweep, gate, [];
    r42_deploy::ten_in_a_row_under_load, gate, [];
    r42_deploy::with_the_pids_of_the_boot_before, gate, [Root, PidNamespace];
    r42_deploy::two_hundred_live_runs, gate, [];
    r43_races::only_legal_transitions, gate, [];
    r44_guards_bypassed::replica_role_and_copy_are_still_guarded, gate, [Superuser];
    r44_guards_bypassed::the_doctor_names_what_was_switched_off, gate, [Superuser];
    r44_guards_bypassed::a_data_only_restore_is_refused_or_found, gate, [Superuser];
    r45_restored_dump::starts_paused_and_touches_nothing, gate, [Superuser, PgDump];
    r46_bad_input::sql_refuses_in_one_sentence, gate, [];
    r46_bad_input::the_command_line_refuses_in_one_sentence, gate, [];
    r46_bad_input::the_config_refuses_in_one_sentence, gate, [];
    r46_bad_input::results_that_jsonb_refuses_stick_nowhere, gate, [];
    r47_injection::arguments_are_literal, gate, [];
    r47_injection::what_is_printed_is_escaped, gate, [];
    r47_injection::names_cannot_lead_elsewhere, gate, [];
    r51_bad_row::a_claim_that_the_database_refuses_is_held, gate, [];
    r51_bad_row::a_stale_open_run_stops_nobody, gate, [];
    r51_bad_row::a_result_that_the_database_refuses_stops_nobody, gate, [];
    r52_late_start::a_claim_that_comes_after_it_was_given_up, gate, [];
    r52_late_start::a_claim_whose_reply_comes_after_it_was_given_up, gate, [];
    r52_late_start::a_request_in_a_stopped_spawner_with_a_successor, gate, [];
    r52_late_start::a_request_in_a_stopped_spawner_with_nobody_there, gate, [];
    r53_successors::a_renewal_that_comes_after_the_handover, gate, [];
    r53_successors::nobody_comes_after_the_handover, gate, [];
    r53_successors::a_renewal_whose_reply_is_late, gate, [];
    r53_successors::a_successor_that_renews_and_cannot_adopt, gate, [];
    r53_successors::killed_before_an_adoption_and_again_followed, gate, [];
    r53_successors::killed_after_an_adoption_and_again_followed, gate, [];
    r53_successors::killed_before_an_adoption_for_good, gate, [];
    r53_successors::killed_after_an_adoption_for_good, gate, [];
    r54_crossing::an_adoption_that_holds_the_row_wins, gate, [];
    r54_crossing::a_reap_that_saw_the_former_owner_leaves_the_successors_run, gate, [];
    r54_crossing::a_result_of_a_taken_run_leaves_the_next_run_alone, gate, [];
    r54_crossing::a_reap_that_holds_the_row_wins_and_the_result_comes_late, gate, [];
    r54_crossing::one_late_result_told_twice_at_once_counts_once, gate, [];
    r54_crossing::an_uncommitted_enqueue_with_its_key_keeps_no_batch_waiting, gate, [];
    r54_crossing::settle_batches_cross_reap_batches, gate, [];
    r54_crossing::two_claims_cross_two_gates, gate, [];
    r55_state_dir_elsewhere::copied_beside_the_original, gate, [];
    r55_state_dir_elsewhere::copied_to_another_container, gate, [Root, PidNamespace];
    r55_state_dir_elsewhere::restored_from_a_snapshot, gate, [];
    r55_state_dir_elsewhere::put_beside_another_database, gate, [];
    r56_plain_update::to_queued_waits_for_the_old_process, gate, [];
    r56_plain_update::to_held_ends_the_process, gate, [];
    r56_plain_update::to_a_finished_status_is_refused, gate, [];
    r57_lost_reply::the_retry_runs_whatever_the_old_result_says, gate, [];
    r57_lost_reply::the_retry_runs_whatever_a_late_result_says, gate, [];
    soak::random_mixes_of_faults, long, [Root, PidNamespace, CgroupKill, InstalledPostgres];
};

/// The table as trials.
pub(crate) fn trials() -> Vec<Trial> {
    TABLE.iter().map(|row| Trial::test(row.name, || run(row)).with_ignored_flag(!row.gate)).collect()
}

fn run(row: &'static Row) -> Result<(), Failed> {
    if let Some(why) = lacking(row.needs) {
        return not_run(row.name, &why).map_err(Failed::from);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut case = Case::new(row.name).await;
        let outcome = AssertUnwindSafe(async {
            (row.body)(&mut case).await;
            case.judge().await;
        });
        match outcome.catch_unwind().await {
            Ok(()) => Ok(()),
            Err(panic) => {
                let what = panic.downcast_ref::<String>().cloned();
                let what = what.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                let kept = case.keep_evidence().await;
                Err(Failed::from(format!("{}\nkept: {}", what.unwrap_or_default(), kept.display())))
            }
        }
    })
}
