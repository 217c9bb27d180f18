use self::Where::{EveryDatabase, EveryStore, File, Property};

/// A rule and what holds it.
pub struct Rule {
    pub number: &'static str,
    pub part: &'static str,
    pub sentence: &'static str,
    pub tests: &'static [Where],
}

/// Where a test is.
pub enum Where {
    /// In this binary, on every store.
    EveryStore(&'static str),
    /// In this binary, on every store that several processes can open.
    EveryDatabase(&'static str),
    /// In the suite that every store passes.
    Property(&'static str),
    /// Elsewhere: a file, and a function in it.
    File(&'static str, &'static str),
}

/// The table.
pub const RULES: &[Rule] = &[
    Rule {
        number: "1",
        part: "Jobs",
        sentence: "A job runs one workflow or one task; one that cannot run fails alone, with a message that names it.",
        tests: &[
            EveryStore("unknown::e8_an_unknown_kind_is_left_for_others"),
            EveryStore("unknown::e8_an_unknown_kind_fails_alone_where_the_worker_says_so"),
            EveryStore(
                "unknown::e9_a_workflow_that_calls_an_unregistered_task_fails_with_its_name",
            ),
        ],
    },
    Rule {
        number: "2",
        part: "Jobs",
        sentence: "A job shows its fields, its log and the status of each step.",
        tests: &[
            EveryStore("steps::progress_and_lines_reach_the_store"),
            EveryStore("leases::a_heartbeat_carries_the_progress_also_after_one_that_failed"),
            EveryStore(
                "restoring::a_status_says_when_the_latest_attempt_ran_and_within_which_step",
            ),
            Property("INS-1"),
        ],
    },
    Rule {
        number: "3",
        part: "Jobs",
        sentence: "An error says what, where, in which attempt, and whether it was final or a cancellation; no name is empty.",
        tests: &[
            EveryStore("errors::an_error_says_what_where_when_and_whether_it_was_the_last"),
            EveryStore("errors::an_error_of_the_body_names_no_step"),
            EveryStore("errors::a_cancellation_says_that_it_is_one"),
            EveryStore("errors::no_name_or_message_is_ever_empty"),
            EveryStore("errors::a_step_id_that_cannot_be_stored_is_refused_with_the_reason"),
            EveryStore("retries::every_error_names_its_step_and_attempt"),
            EveryStore("retries::a_failure_that_a_lower_budget_makes_the_last_is_final"),
        ],
    },
    Rule {
        number: "4",
        part: "Jobs",
        sentence: "Only the legal transitions happen; an illegal one changes nothing.",
        tests: &[
            EveryStore("cancelling::cancelling_a_finished_job_says_so_and_changes_nothing"),
            Property("UPD-4"),
            Property("UPD-7"),
        ],
    },
    Rule {
        number: "5",
        part: "Jobs",
        sentence: "Retrying a finished job by hand makes one new job, linked to the old one.",
        tests: &[
            EveryStore(
                "retry_by_hand::a_failed_job_is_retried_by_hand_as_a_new_job_linked_to_the_old_one",
            ),
            EveryStore("retry_by_hand::any_number_of_clicks_make_one_job"),
            EveryStore("retry_by_hand::a_cancelled_job_can_be_retried_by_hand"),
            EveryStore("retry_by_hand::only_failed_and_cancelled_jobs_can_be_retried_by_hand"),
            EveryStore("retry_by_hand::a_retry_by_hand_that_failed_can_be_retried_in_turn"),
            EveryStore(
                "retry_by_hand::a_retry_by_hand_makes_nothing_where_another_job_holds_its_key",
            ),
            EveryStore("retry_by_hand::a_retry_by_hand_supersedes_nothing_and_is_not_superseded"),
            EveryStore("retry_by_hand::a_failed_job_that_keeps_its_key_can_be_retried_by_hand"),
        ],
    },
    Rule {
        number: "6",
        part: "Jobs",
        sentence: "Input is checked against the type of its task.",
        tests: &[
            EveryStore("unknown::an_input_of_another_shape_fails_the_job_with_the_reason"),
            File(
                "queue-macros/tests/mistakes.rs",
                "common_mistakes_do_not_compile_and_the_message_says_what_would_work",
            ),
        ],
    },
    Rule {
        number: "7",
        part: "Running",
        sentence: "A pass claims up to its limit, runs, and returns; a worker loops. Queues, order, concurrency, one after the other.",
        tests: &[
            EveryStore("passes::e13_a_pass_runs_ten_jobs_or_as_many_as_its_limit"),
            EveryStore("passes::a_pass_runs_at_most_as_many_jobs_at_once_as_it_is_told"),
            EveryStore("passes::a_concurrency_of_zero_is_refused"),
            EveryStore("passes::all_queues_are_taken_only_where_that_is_said"),
            EveryStore("serving::a_sequential_worker_runs_one_job_after_the_other_in_order"),
            EveryStore("serving::an_idle_worker_runs_what_is_enqueued_later"),
            EveryStore("serving::a_paused_queue_rests_until_it_is_resumed"),
            EveryStore("editing::paused_queues_are_listed_until_they_are_resumed"),
        ],
    },
    Rule {
        number: "8",
        part: "Running",
        sentence: "Priority first, then FIFO on every store; LIFO by option, per call over per queue over global.",
        tests: &[
            EveryStore("passes::e6_sequential_passes_run_the_first_enqueued_first"),
            EveryStore("passes::e6_lifo_by_call_and_by_queue_reverses_the_order"),
            EveryStore("passes::a_pass_takes_the_queues_of_one_order_before_those_of_the_other"),
            EveryStore(
                "editing::priorities_and_queues_are_set_for_all_jobs_that_match_and_have_not_ended",
            ),
            EveryStore(
                "passes::the_order_of_a_call_goes_before_that_of_a_queue_and_that_before_the_worker_s",
            ),
            Property("CLM-3"),
            Property("CLM-4"),
            Property("CLM-5"),
            Property("CLM-6"),
            Property("REA-11"),
        ],
    },
    Rule {
        number: "9",
        part: "Running",
        sentence: "A pass by id, by label, by kind; a limit of 0 is refused.",
        tests: &[
            EveryStore("passes::e14_a_pass_by_id_runs_only_that_job"),
            EveryStore("passes::e14_a_pass_by_label_runs_only_jobs_with_the_label"),
            EveryStore("passes::a_pass_by_kind_runs_only_jobs_of_the_kind"),
            EveryStore("passes::a_pass_by_no_ids_no_kinds_or_no_queues_runs_nothing"),
            EveryStore("passes::a_limit_of_zero_is_refused"),
        ],
    },
    Rule {
        number: "10",
        part: "Running",
        sentence: "A job due now runs now; a worker sleeps until the next due time or a wake-up.",
        tests: &[
            EveryStore("passes::a_job_is_due_at_its_very_instant"),
            EveryStore("serving::delayed_jobs_run_when_they_fall_due"),
            EveryStore("serving::an_idle_worker_comes_back_when_the_next_job_falls_due"),
            EveryStore("serving::an_idle_worker_hears_the_store"),
            EveryStore("editing::a_woken_job_is_due_at_once"),
            EveryStore(
                "serving::an_idle_worker_hears_its_own_process_where_the_store_gives_no_hints",
            ),
        ],
    },
    Rule {
        number: "11",
        part: "Running",
        sentence: "The summary says what became of each job, and how many remain.",
        tests: &[
            EveryStore("passes::a_pass_says_how_many_jobs_remain"),
            EveryStore("passes::what_remains_is_what_the_pass_could_have_taken"),
            EveryStore("passes::a_drain_that_finds_nothing_due_says_how_many_jobs_remain"),
            EveryStore("passes::a_retry_that_is_due_at_once_waits_for_the_next_pass"),
            EveryStore("passes::a_retry_that_goes_first_waits_for_the_next_pass_too"),
            EveryStore("hardening::a_count_that_fails_keeps_the_summary"),
        ],
    },
    Rule {
        number: "12",
        part: "Running",
        sentence: "A claim takes no more than there are free slots; what was not started is given back.",
        tests: &[
            EveryStore("bounds::a_worker_claims_no_more_jobs_than_it_has_free_slots"),
            EveryStore("serving::a_worker_claims_no_more_than_it_can_start"),
            EveryStore("passes::a_pass_claims_no_more_than_it_can_start"),
            EveryStore("hardening::a_pass_that_is_dropped_gives_back_what_it_did_not_start"),
            EveryStore("hardening::a_stop_with_a_claim_in_flight_gives_its_jobs_back"),
            EveryStore("hardening::a_claim_whose_answer_was_lost_is_given_back_at_the_stop"),
        ],
    },
    Rule {
        number: "13",
        part: "Running",
        sentence: "A graceful stop gives running jobs a grace time, then gives them back without using an attempt.",
        tests: &[
            EveryStore("leases::a_graceful_stop_gives_running_jobs_back_without_using_an_attempt"),
            EveryStore("leases::a_graceful_stop_lets_jobs_finish_within_the_grace_time"),
            EveryStore("leases::a_worker_that_stops_takes_no_further_job"),
            EveryStore("leases::running_jobs_are_told_to_stop_although_a_claim_is_never_answered"),
            EveryStore("hardening::a_handler_that_heeds_the_stop_has_not_failed"),
            EveryStore("hardening::a_job_that_is_given_back_keeps_its_place"),
            EveryStore("hardening::a_worker_stops_although_the_store_is_down"),
        ],
    },
    Rule {
        number: "14",
        part: "Leases",
        sentence: "The holder renews its lease; a healthy job, however long it takes or its handler blocks, stays with it.",
        tests: &[
            EveryStore("blocking::jobs_that_are_claimed_while_a_handler_blocks_keep_their_leases"),
            EveryStore("leases::e12_a_healthy_long_job_is_never_taken_over"),
            EveryStore("leases::a_cpu_bound_handler_keeps_its_lease"),
            EveryStore(
                "blocking::handlers_that_block_the_only_worker_thread_for_three_leases_keep_their_leases",
            ),
            EveryStore(
                "blocking::handlers_that_block_a_runtime_of_one_thread_for_three_leases_keep_their_leases",
            ),
        ],
    },
    Rule {
        number: "15",
        part: "Leases",
        sentence: "Every write of an old holder is refused and changes nothing.",
        tests: &[
            EveryStore("leases::a_worker_that_stalled_writes_nothing_into_the_next_attempt"),
            EveryStore("leases::a_handler_is_told_that_another_worker_has_its_job"),
            EveryStore("leases::a_handler_that_does_not_heed_the_loss_of_its_job_is_dropped"),
            EveryStore("races::e26_the_fenced_holder_cannot_complete_a_job_that_failed_elsewhere"),
            EveryStore("hardening::an_attempt_that_lost_its_job_to_its_own_worker_is_told"),
            File("tests/faults/stops.rs", "a_stopped_worker_that_wakes_changes_nothing"),
            Property("LSE-5"),
        ],
    },
    Rule {
        number: "16",
        part: "Leases",
        sentence: "A crash uses no retry, is counted on its own and capped.",
        tests: &[
            EveryStore("poison::a_job_whose_workers_vanish_fails_once_it_is_over_its_cap"),
            EveryStore("poison::a_crash_uses_no_retry"),
            EveryDatabase(
                "poison::a_job_that_kills_its_worker_process_fails_once_it_is_over_its_cap",
            ),
            EveryDatabase(
                "poison::a_job_that_kills_its_worker_process_costs_the_jobs_behind_it_nothing",
            ),
            Property("LSE-8"),
        ],
    },
    Rule {
        number: "17",
        part: "Leases",
        sentence: "Finished steps are restored by the next holder; only the step in flight may run again.",
        tests: &[
            EveryStore("steps::finished_steps_are_restored_by_the_next_worker"),
            EveryDatabase(
                "processes::e11_after_a_kill_another_process_repeats_only_the_step_in_flight",
            ),
            File("tests/faults/kills.rs", "killed_workers_lose_nothing_and_double_nothing"),
        ],
    },
    Rule {
        number: "18",
        part: "Leases",
        sentence: "Renewal and lease are checked against each other when a worker is built.",
        tests: &[
            EveryStore("leases::a_lease_that_cannot_be_kept_is_refused"),
            EveryStore("leases::a_lease_that_would_never_be_over_is_refused"),
        ],
    },
    Rule {
        number: "19",
        part: "Retries",
        sentence: "No retries by default; n retries are at most n+1 executions.",
        tests: &[
            EveryStore("retries::e3_without_retries_there_is_one_execution"),
            EveryStore("retries::e2_only_the_failing_step_is_repeated_as_often_as_its_task_says"),
        ],
    },
    Rule {
        number: "20",
        part: "Retries",
        sentence: "A task's budget: the call's, else the task's, else the workflow's, else 0.",
        tests: &[
            EveryStore(
                "retries::e4_a_task_with_zero_retries_fails_the_job_whatever_the_workflow_allows",
            ),
            EveryStore("retries::the_workflow_is_the_default_budget_of_tasks_that_say_nothing"),
            EveryStore("retries::the_budget_of_a_call_goes_before_that_of_its_task"),
        ],
    },
    Rule {
        number: "21",
        part: "Retries",
        sentence: "A workflow's retries are a ceiling for the whole job; without them an error of the body is final.",
        tests: &[
            EveryStore("retries::a_workflow_ceiling_bounds_tasks_that_ask_for_more"),
            EveryStore("retries::a_workflow_ceiling_of_zero_makes_the_first_failure_final"),
            EveryStore(
                "retries::e10_an_error_of_the_body_is_repeated_as_often_as_the_workflow_says",
            ),
            EveryStore("retries::a_body_error_is_final_at_once_without_workflow_retries"),
            EveryStore("retries::a_workflow_ceiling_is_one_for_all_tasks_of_the_job"),
        ],
    },
    Rule {
        number: "22",
        part: "Retries",
        sentence: "Every path is bounded.",
        tests: &[
            EveryStore("retries::e2_only_the_failing_step_is_repeated_as_often_as_its_task_says"),
            EveryStore("restoring::a_step_whose_restoring_is_off_is_bounded_by_its_retries"),
            EveryStore("retries::a_backoff_without_a_number_of_retries_is_no_retry"),
            EveryStore("bounds::short_sleeps_do_not_keep_the_worker_busy"),
        ],
    },
    Rule {
        number: "23",
        part: "Retries",
        sentence: "Backoff fixed or exponential, with cap and jitter, of the step and of the job; the latest date wins.",
        tests: &[
            EveryStore(
                "backoff::the_first_retry_waits_exactly_the_delay_and_later_ones_twice_as_long",
            ),
            EveryStore("backoff::the_later_of_the_steps_and_the_jobs_dates_wins"),
            EveryStore("backoff::a_step_waits_by_its_own_failures_and_not_by_the_jobs"),
            EveryStore("backoff::of_several_failed_steps_the_latest_date_wins"),
            EveryStore("backoff::a_later_failure_does_not_shorten_the_wait"),
            EveryStore("backoff::jitter_is_the_same_for_one_failure_and_bounded_by_the_cap"),
            EveryStore("backoff::a_wait_beyond_the_calendar_is_the_longest_there_is"),
            EveryStore("backoff::a_failure_of_the_body_waits_by_the_jobs_failures"),
            EveryStore("retries::a_retry_waits_for_its_backoff"),
        ],
    },
    Rule {
        number: "24",
        part: "Retries",
        sentence: "A failed attempt is one write.",
        tests: &[
            EveryStore("trips::e24_a_task_error_is_one_write"),
            EveryStore("trips::e24_a_workflow_error_is_one_write"),
            EveryStore("trips::e24_a_cancel_from_inside_is_one_write"),
            EveryStore("errors::a_failed_step_is_logged_once_and_written_once"),
            EveryStore("errors::several_failed_steps_are_written_at_once"),
        ],
    },
    Rule {
        number: "25",
        part: "Retries",
        sentence: "On a retry finished steps return what is stored, unless restoring is off or a function says so.",
        tests: &[
            EveryStore("restoring::a_step_whose_restoring_is_off_runs_in_each_run"),
            EveryStore("restoring::a_function_of_the_input_and_the_status_decides"),
            EveryStore("restoring::a_task_says_by_itself_whether_it_is_restored"),
            EveryStore(
                "restoring::the_setting_of_the_call_is_over_that_of_the_task_and_that_over_the_workflows",
            ),
            EveryStore("combining::a_failure_that_will_be_retried_is_not_shown_to_the_body"),
        ],
    },
    Rule {
        number: "26",
        part: "Steps and the log",
        sentence: "Each finished attempt of a step appends one entry, with all that is known of it.",
        tests: &[
            EveryStore("steps::an_entry_says_all_that_is_known_of_its_attempt"),
            EveryStore("retries::e1_a_later_step_uses_the_stored_output_of_an_earlier_one"),
            EveryStore("unknown::a_step_used_twice_is_an_error_that_names_it"),
            EveryStore("steps::a_null_output_is_restored_as_such"),
        ],
    },
    Rule {
        number: "27",
        part: "Steps and the log",
        sentence: "Any number of steps at once: no entry lost, none doubled, no conflict shown.",
        tests: &[
            EveryStore("steps::e16_twenty_instant_parallel_steps"),
            EveryStore("steps::e16_fifty_parallel_steps_that_each_write_a_doc"),
            EveryStore("steps::e16_two_hundred_parallel_steps"),
            EveryStore("steps::steps_in_an_unordered_stream_are_logged_once_each"),
            EveryDatabase(
                "processes::e17_two_hundred_parallel_steps_in_eight_jobs_by_four_processes",
            ),
            Property("LOG-1"),
            Property("LOG-4"),
        ],
    },
    Rule {
        number: "28",
        part: "Steps and the log",
        sentence: "When a step fails its siblings settle and are logged before the job is given back.",
        tests: &[
            EveryStore("steps::siblings_of_a_failing_step_settle_and_are_not_run_again"),
            EveryStore(
                "steps::siblings_of_a_step_that_fails_for_good_settle_before_the_body_sees_it",
            ),
            EveryStore("hardening::one_result_too_large_does_not_fail_its_siblings"),
            EveryStore("too_large::steps_whose_failures_are_large_fail_their_job_at_once"),
            EveryStore(
                "too_large::steps_whose_failures_are_large_do_not_keep_their_job_from_being_cancelled",
            ),
            EveryStore("too_large::a_step_after_others_whose_failures_are_large_is_logged"),
            EveryStore("too_large::more_failures_than_a_job_can_log_fail_it_at_once"),
        ],
    },
    Rule {
        number: "29",
        part: "Steps and the log",
        sentence: "Nested steps carry their parent; a child is logged before it, and restored.",
        tests: &[
            EveryStore("steps::nested_steps_carry_their_parent_and_finished_children_are_restored"),
            EveryStore("steps::a_nested_step_that_fails_for_good_fails_its_parent"),
            EveryStore("hardening::a_step_that_outlives_the_one_around_it_is_logged"),
        ],
    },
    Rule {
        number: "30",
        part: "Steps and the log",
        sentence: "The status of a step is derived; a later failure never un-completes it.",
        tests: &[
            EveryStore("restoring::failures_after_a_success_count_and_do_not_uncomplete"),
            EveryStore(
                "restoring::a_status_says_when_the_latest_attempt_ran_and_within_which_step",
            ),
        ],
    },
    Rule {
        number: "31",
        part: "Steps and the log",
        sentence: "Entries keep one order everywhere.",
        tests: &[
            EveryStore("steps::entries_keep_one_order_and_are_read_from_any_place"),
            Property("LOG-8"),
            Property("LOG-15"),
        ],
    },
    Rule {
        number: "32",
        part: "Steps and the log",
        sentence: "The final write of a job does not send the log again.",
        tests: &[
            EveryStore("trips::every_entry_is_sent_once"),
            EveryStore("trips::a_workflow_of_n_steps_costs_at_most_n_plus_three_trips"),
            EveryStore("trips::e23_a_job_with_one_task_costs_three_trips"),
            EveryStore("trips::a_pass_of_one_slot_costs_two_trips_for_each_job"),
        ],
    },
    Rule {
        number: "33",
        part: "Steps and the log",
        sentence: "Callbacks run after the fact; what goes wrong in one changes nothing.",
        tests: &[
            EveryStore("callbacks::a_success_is_told_after_it_is_recorded"),
            EveryStore("callbacks::each_failed_attempt_is_told_and_whether_it_was_the_last"),
            EveryStore(
                "callbacks::steps_that_are_tasks_tell_of_themselves_and_their_workflow_of_itself",
            ),
            EveryStore("callbacks::a_step_is_told_of_when_it_is_logged"),
            EveryStore("callbacks::a_caught_failure_of_a_step_is_told_once_it_is_recorded"),
            EveryStore("callbacks::what_goes_wrong_in_a_callback_is_logged_and_changes_nothing"),
            EveryStore("callbacks::a_callback_that_fails_of_a_deleted_job_changes_nothing"),
            EveryStore("callbacks::of_a_run_that_ends_in_a_cancellation_nothing_is_told"),
            EveryStore("callbacks::a_callback_that_was_cut_short_is_not_called_again"),
            EveryStore(
                "callbacks::a_callback_of_a_job_whose_end_was_acknowledged_late_is_not_cut_short",
            ),
            EveryStore("callbacks::a_dynamic_callback_is_told_of_both_ends_as_json"),
            EveryStore(
                "callbacks::a_callback_that_cannot_be_called_is_refused_when_the_worker_is_built",
            ),
        ],
    },
    Rule {
        number: "34",
        part: "Steps and the log",
        sentence: "Hooks around writes are a wrapper that one opts into.",
        tests: &[
            EveryStore("hooks::every_change_of_a_job_is_announced_and_reported"),
            EveryStore(
                "hooks::a_write_that_shares_its_trip_with_a_claim_is_announced_and_reported",
            ),
            EveryStore("hooks::a_refused_change_is_not_made"),
            EveryStore("hooks::a_hook_that_fails_afterwards_changes_nothing"),
            EveryStore("hooks::a_hook_that_panics_beforehand_refuses_the_change"),
        ],
    },
    Rule {
        number: "Wf",
        part: "Steps and the log",
        sentence: "How steps combine: `join!`, `try_join_all`, `FuturesUnordered`, `select!` (documented on `Wf`).",
        tests: &[
            EveryStore("neglected::a_run_ends_although_the_body_leaves_a_running_step_alone"),
            EveryStore(
                "neglected::a_final_failure_is_shown_although_the_body_leaves_a_running_step_alone",
            ),
            EveryStore("neglected::a_step_starts_although_the_body_leaves_a_failed_one_alone"),
            EveryStore(
                "neglected::a_job_is_cancelled_although_the_body_leaves_a_running_step_alone",
            ),
            EveryStore("neglected::a_step_that_runs_and_was_not_woken_is_waited_for"),
            EveryStore("combining::under_join_outputs_stand_in_their_places_in_every_run"),
            EveryStore(
                "combining::under_try_join_all_no_step_is_lost_or_repeated_by_the_failure_of_another",
            ),
            EveryStore("combining::an_unordered_stream_yields_each_output_once_in_every_run"),
            EveryStore("combining::under_a_biased_select_the_first_branch_that_is_done_wins_again"),
            EveryStore("combining::a_choice_that_is_a_step_stands_whatever_is_done_by_then"),
        ],
    },
    Rule {
        number: "D18",
        part: "Steps and the log",
        sentence: "A sleep holds no slot, survives restarts, and ends when it said.",
        tests: &[
            EveryStore("sleeping::a_sleep_gives_the_job_back_and_uses_no_attempt"),
            EveryStore("sleeping::a_sleep_does_not_end_early_because_a_claim_was_answered_late"),
            EveryStore("sleeping::the_end_of_a_sleep_stands_over_crashes_and_other_workers"),
            EveryStore("sleeping::waking_a_sleeping_job_early_only_makes_it_look"),
            EveryStore("sleeping::waking_a_job_before_it_sleeps_makes_it_look_once_more"),
            EveryStore("sleeping::a_sleep_beside_a_running_step_ends_in_the_same_run"),
            EveryStore("sleeping::a_sleep_that_began_beside_a_running_step_survives_its_worker"),
            EveryStore("sleeping::of_several_sleeps_the_first_wakes_the_job"),
            EveryStore("sleeping::the_instant_given_when_a_sleep_first_began_stands"),
            EveryStore("sleeping::a_sleep_that_is_over_when_it_begins_costs_nothing"),
            EveryStore("sleeping::a_retry_keeps_its_backoff_beside_a_shorter_sleep"),
            EveryStore("sleeping::a_retry_is_not_put_off_by_a_longer_sleep"),
            EveryStore("sleeping::a_cancelled_sleeping_job_ends_at_once"),
            EveryStore("sleeping::a_sleep_inside_a_step_carries_its_parent_and_repeats_it"),
            EveryStore("sleeping::a_sleeping_job_holds_no_lane"),
            EveryStore("sleeping::a_sleep_used_twice_is_an_error_that_names_it"),
        ],
    },
    Rule {
        number: "35",
        part: "Cancelling",
        sentence: "By id, or by filter; waiting jobs end at once, running ones are told.",
        tests: &[
            EveryStore("cancelling::e15_a_job_cancelled_by_id_stops_after_the_running_step"),
            EveryStore("cancelling::e15_jobs_cancelled_by_filter_stop_or_never_start"),
            EveryStore("cancelling::a_handler_sees_its_token_with_the_next_heartbeat"),
            EveryStore("cancelling::a_cancelled_job_stays_cancelled_whatever_its_handler_returns"),
            EveryStore("cancel_races::cancelling_by_queue_leaves_the_other_queues_alone"),
            Property("CAN-2"),
        ],
    },
    Rule {
        number: "36",
        part: "Cancelling",
        sentence: "A running step is not killed, and no later one starts; a job may cancel itself.",
        tests: &[
            EveryStore("cancelling::a_step_that_runs_when_its_job_is_cancelled_is_not_killed"),
            EveryStore("cancelling::a_task_cancels_its_job_from_inside"),
            EveryStore("cancelling::a_body_cancels_its_job_from_inside"),
            EveryStore(
                "hardening::a_step_that_cancels_the_job_is_final_whatever_the_body_makes_of_it",
            ),
            EveryStore("hardening::a_handler_cannot_cancel_its_job_by_its_token"),
        ],
    },
    Rule {
        number: "37",
        part: "Cancelling",
        sentence: "Cancel, complete, retry and reap race: one wins, and a cancel is never cleared.",
        tests: &[
            EveryStore(
                "cancel_races::jobs_that_are_cancelled_while_they_run_end_once_and_stay_ended",
            ),
            EveryStore("cancel_races::a_cancel_outlives_a_heartbeat_a_retry_and_a_lost_lease"),
            EveryStore(
                "cancel_races::a_retry_that_a_cancel_withdrew_is_reported_so_although_its_answer_was_lost",
            ),
            Property("CAN-1"),
            Property("MOD-1"),
            Property("MOD-2"),
            Property("CAN-3"),
            Property("CAN-4"),
            Property("CAN-5"),
            Property("CAN-7"),
            Property("LSE-7"),
        ],
    },
    Rule {
        number: "38",
        part: "Keeping and deleting",
        sentence: "Retention by queue and outcome: at once, for a time, so many, for ever.",
        tests: &[
            EveryStore("keeping::e7_only_a_completed_job_is_deleted_on_completion"),
            EveryStore(
                "retention::a_sweep_keeps_the_newest_of_each_outcome_and_leaves_other_queues_alone",
            ),
            EveryStore("retention::a_sweep_never_deletes_a_job_that_waits_or_runs"),
            EveryStore("retention::sweeps_at_once_leave_exactly_the_newest"),
            EveryStore("retention::a_sweep_deletes_any_number_of_jobs"),
            EveryStore("retention::what_is_said_for_a_queue_counts_before_what_is_said_for_all"),
            EveryStore("retention::a_sweep_with_nothing_to_delete_costs_no_trip"),
            EveryStore("retention::jobs_are_kept_for_a_time_after_their_end"),
            EveryStore("retention::a_worker_sweeps_while_it_serves"),
            Property("DEL-1"),
            Property("DEL-2"),
            Property("DEL-3"),
            Property("DEL-4"),
        ],
    },
    Rule {
        number: "39",
        part: "Concurrency keys",
        sentence: "At most `limit` jobs of a lane run at once, across all workers and queues.",
        tests: &[
            EveryStore("lanes::e18_two_keys_run_in_one_pass"),
            EveryStore("lanes::e18_a_newcomer_waits_for_the_running_job_of_its_key"),
            EveryStore("lanes::e18_a_key_that_contains_the_queue_separates_the_queues"),
            EveryStore("lanes::a_lane_of_two_runs_two_at_once"),
            EveryStore("lanes::a_failed_and_a_cancelled_job_free_their_lane"),
            EveryStore("serving::a_lane_is_never_exceeded_and_always_used"),
            Property("LAN-1"),
            Property("LAN-2"),
            Property("LAN-3"),
            Property("LAN-7"),
            Property("LAN-8"),
        ],
    },
    Rule {
        number: "40",
        part: "Concurrency keys",
        sentence: "Supersede cancels what has never started, and nothing else.",
        tests: &[
            EveryStore("lanes::supersede_cancels_only_what_has_never_been_started"),
            EveryStore("lanes::supersede_in_one_batch_leaves_the_last_job"),
            EveryStore("lanes::of_racing_enqueues_that_supersede_exactly_one_job_waits"),
            Property("LAN-6"),
            Property("INS-12"),
        ],
    },
    Rule {
        number: "41",
        part: "Concurrency keys",
        sentence: "A job that waits for its backoff does not hold its lane.",
        tests: &[EveryStore("lanes::a_job_that_waits_for_its_backoff_does_not_hold_its_lane")],
    },
    Rule {
        number: "42",
        part: "Concurrency keys",
        sentence: "A unique key holds under any number of racing enqueues.",
        tests: &[
            EveryStore("lanes::of_racing_enqueues_of_one_key_exactly_one_makes_a_job"),
            EveryStore("lanes::a_key_is_free_once_its_job_has_ended_or_held_as_long_as_it_says"),
            Property("LAN-4"),
            Property("INS-6"),
            Property("INS-7"),
            Property("INS-8"),
            Property("INS-11"),
        ],
    },
    Rule {
        number: "43",
        part: "Schedules",
        sentence: "Cron with seconds and time zone, on tasks and workflows; by default no slot while a scheduled job waits or runs; hooks.",
        tests: &[
            EveryStore(
                "schedules::no_slot_is_fired_while_a_scheduled_job_of_its_kind_and_queue_waits_or_runs",
            ),
            EveryStore("schedules::jobs_enqueued_by_hand_count_where_that_is_asked_for"),
            EveryStore("schedule_missed::the_hour_that_comes_twice_fires_a_time_of_day_once"),
            EveryStore(
                "schedule_hooks::a_hook_before_the_slot_can_skip_it_or_change_input_and_due_time",
            ),
            EveryStore(
                "schedule_hooks::the_unique_key_of_a_slot_goes_with_the_input_that_a_hook_gave_it",
            ),
            EveryStore("schedule_hooks::a_hook_after_the_slot_hears_what_became_of_it"),
            EveryStore("schedule_hooks::the_input_may_be_made_of_the_slot"),
            EveryStore("schedule_hooks::a_schedule_gives_its_jobs_queue_priority_and_labels"),
        ],
    },
    Rule {
        number: "44",
        part: "Schedules",
        sentence: "One job per schedule and slot, ever; statistics per schedule.",
        tests: &[
            EveryStore("schedules::of_five_schedulers_that_race_for_a_slot_one_enqueues_its_job"),
            EveryStore("schedules::schedulers_that_catch_up_together_fire_each_missed_slot_once"),
            EveryStore("schedules::schedules_of_two_queues_do_not_share_slots_or_statistics"),
            EveryStore(
                "schedules::a_slot_is_stamped_with_itself_and_not_with_the_time_of_the_pass",
            ),
            EveryStore("schedules::a_lost_answer_is_neither_a_lost_slot_nor_a_second_job"),
            EveryStore("schedule_hooks::statistics_say_what_was_fired_and_what_comes_next"),
            EveryDatabase("schedulers::two_schedulers_of_which_one_is_killed_fire_each_slot_once"),
            Property("SCH-1"),
        ],
    },
    Rule {
        number: "45",
        part: "Schedules",
        sentence: "Missed slots: skipped, one, or all up to n.",
        tests: &[
            EveryStore(
                "schedule_missed::what_was_missed_is_skipped_or_caught_up_with_once_or_up_to_a_number",
            ),
            EveryStore(
                "schedule_missed::after_a_long_outage_all_schedules_catch_up_each_in_its_turn",
            ),
            EveryStore("schedule_missed::a_new_schedule_does_not_fire_for_the_past"),
            EveryStore(
                "schedule_missed::a_paused_schedule_rests_for_all_and_does_not_catch_up_with_its_pause",
            ),
        ],
    },
    Rule {
        number: "46",
        part: "Schedules",
        sentence: "By the worker or by a call; passes only run; scheduling off leaves running on.",
        tests: &[
            EveryStore("schedules::e19_a_schedule_of_each_second_runs_each_second"),
            EveryStore("schedules::e20_schedules_are_handled_by_hand_for_one_queue_or_for_all"),
            EveryStore("schedules::e21_a_worker_with_scheduling_off_runs_jobs_and_enqueues_none"),
            EveryStore("schedules::passes_run_what_is_queued_and_enqueue_no_schedule"),
            EveryStore(
                "schedule_missed::handling_by_hand_ends_with_the_slots_that_were_due_when_it_began",
            ),
            EveryStore("schedules::a_scheduler_that_meets_trouble_fires_the_slot_afterwards"),
        ],
    },
    Rule {
        number: "47",
        part: "Schedules",
        sentence: "A failing schedule does not stop the others.",
        tests: &[
            EveryStore("schedules::a_failing_schedule_does_not_stop_the_others"),
            EveryStore("schedules::a_slow_hook_holds_up_no_other_schedule"),
            EveryStore(
                "schedule_hooks::an_input_that_does_not_fit_is_the_schedules_error_and_not_a_job",
            ),
        ],
    },
    Rule {
        number: "48",
        part: "Workflows as data, and handlers outside",
        sentence: "A workflow may be data, with the semantics of code; one that cannot go on fails and names the blocked steps.",
        tests: &[
            EveryStore("data::e1_a_workflow_gives_the_same_as_code_and_as_data"),
            EveryStore(
                "data::e2_a_failing_step_of_a_data_workflow_is_repeated_as_often_as_its_task_says",
            ),
            EveryStore("data::a_data_workflow_tells_callbacks_of_its_steps_and_of_itself"),
            EveryStore("data::a_step_that_completes_the_job_ends_it"),
            EveryStore("data::a_flow_whose_steps_need_each_other_is_refused_by_name"),
            EveryStore(
                "data::a_step_of_a_data_workflow_waits_for_the_backoff_of_its_task_and_logs_each_attempt",
            ),
            EveryStore(
                "data::a_final_failure_ends_a_data_workflow_at_once_although_a_sibling_waits_for_a_retry",
            ),
            EveryStore("data::no_step_of_a_data_workflow_starts_after_a_final_failure"),
            EveryStore(
                "data::no_step_of_a_data_workflow_starts_after_the_one_that_completes_the_job",
            ),
        ],
    },
    Rule {
        number: "49",
        part: "Workflows as data, and handlers outside",
        sentence: "A handler may be a program or an HTTP endpoint, within limits; only what the worker was given is run.",
        tests: &[
            EveryStore("outside::programs_and_endpoints_handle_jobs_and_steps_as_code_does"),
            EveryStore("outside::a_program_gets_its_arguments_as_they_are_and_no_shell"),
            EveryStore("outside::a_program_that_fails_is_retried_and_what_it_said_is_kept"),
            EveryStore("outside::a_program_beyond_its_limits_is_ended_and_its_slot_is_free"),
            EveryStore("outside::trouble_of_an_endpoint_is_retried_and_its_refusal_is_final"),
            EveryStore("outside::nothing_outside_is_run_that_the_worker_was_not_given"),
            File("src/program/tests.rs", "a_program_that_hangs_is_killed_with_its_children"),
            File("src/endpoint/tests.rs", "a_call_that_takes_too_long_is_given_up"),
            File("src/endpoint/tests.rs", "an_answer_that_is_too_long_is_not_read_to_its_end"),
        ],
    },
    Rule {
        number: "52",
        part: "Edits",
        sentence: "Edits carry the version; a stale one changes nothing and says the current one.",
        tests: &[
            EveryStore("races::e25_fifty_racing_editors_lose_no_update"),
            EveryStore("editing::an_edit_that_meets_another_one_is_made_on_top_of_it"),
            EveryStore(
                "editing::an_edit_that_is_always_stale_ends_after_four_tries_with_the_current_version",
            ),
            EveryStore(
                "editing::a_stale_update_is_answered_with_the_current_version_and_changes_nothing",
            ),
            EveryStore("editing::what_a_holder_reports_does_not_make_an_edit_stale"),
            EveryStore("editing::an_edit_of_an_unknown_job_says_so"),
            EveryStore("editing::an_edit_cannot_end_a_job"),
        ],
    },
    Rule {
        number: "56",
        part: "Faults",
        sentence: "A store error never kills a worker; a loop that stalls is started anew and reported.",
        tests: &[
            EveryStore("serving::e22_a_worker_goes_on_after_the_store_failed"),
            EveryStore("serving::a_worker_waits_before_it_asks_a_failing_store_again"),
            EveryStore("hardening::a_panic_in_the_store_does_not_end_the_renewal_of_leases"),
            EveryStore("stalls::a_write_that_is_never_answered_holds_up_no_other_job"),
            EveryStore("stalls::a_claim_that_is_never_answered_is_found_again"),
            EveryStore("stalls::a_renewal_that_is_never_answered_costs_no_lease"),
            EveryStore("stalls::a_lease_that_cannot_be_renewed_takes_no_other_with_it"),
            EveryStore("stalls::a_look_for_expired_leases_that_never_ends_is_made_again"),
            EveryStore("stalls::hints_are_listened_to_again_when_their_stream_ends"),
            EveryStore("stalls::a_store_that_is_silent_for_a_while_loses_and_doubles_nothing"),
            EveryStore("stalls::a_sweep_that_is_never_answered_is_made_again"),
            EveryStore("stalls::a_schedule_whose_call_is_never_answered_fires_all_the_same"),
            EveryStore("stalls::a_worker_whose_runtime_is_blocked_is_reported"),
            EveryStore("stalls::a_store_that_blocks_the_engine_s_thread_is_reported"),
        ],
    },
    Rule {
        number: "57",
        part: "Faults",
        sentence: "A panic in a handler fails that job with the panic's message.",
        tests: &[
            EveryStore("retries::a_panic_fails_the_job_with_its_message"),
            EveryStore("stalls::a_handler_whose_future_panics_when_it_is_dropped_fails_its_job"),
        ],
    },
    Rule {
        number: "58",
        part: "Faults",
        sentence: "What was acknowledged is never lost; what was not is repeated safely.",
        tests: &[
            EveryStore("serving::an_enqueue_that_was_not_written_is_not_acknowledged"),
            EveryStore("races::a_job_that_its_handler_completes_by_its_fence_is_completed_once"),
            EveryStore("serving::lost_answers_are_repeated_without_doubling_anything"),
            EveryStore("serving::two_workers_run_every_job_once"),
            File("tests/faults/kills.rs", "killed_workers_lose_nothing_and_double_nothing"),
            Property("FLT-3"),
            Property("CRA-1"),
        ],
    },
];
