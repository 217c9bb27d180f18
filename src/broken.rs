//! Engines that are broken on purpose, so that the tests can prove that they would notice.
//!
//! A switch is a defect that such systems ship with. It is off unless this crate is built with the feature `broken`, which
//! only its own tests do, and the environment variable `QUEUE_BROKEN` names it. Defects of what stores do for the engine are
//! in a wrapper around the store.

/// `broken!(Name)`: whether the engine is to be broken so.
macro_rules! broken {
    ($name:ident) => {
        $crate::broken::is($crate::broken::Broken::$name)
    };
}

#[cfg(feature = "broken")]
mod store;

#[cfg(feature = "broken")]
pub(crate) use store::around;

/// The store as it is.
#[cfg(not(feature = "broken"))]
pub(crate) const fn around(
    store: std::sync::Arc<dyn queue_core::JobStore>,
) -> std::sync::Arc<dyn queue_core::JobStore> {
    store
}

/// Declares the switches: each with the rule that it breaks, the test that must fail then, and what it does.
macro_rules! switches {
    ($($name:ident: $rule:literal, $killer:literal, $sentence:literal;)*) => {
        /// A defect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        // Some stand in parts that are switched off by their features.
        #[cfg_attr(not(feature = "broken"), allow(dead_code))]
        pub enum Broken {
            $(#[doc = $sentence] $name,)*
        }

        #[cfg(feature = "broken")]
        impl Broken {
            /// All of them.
            pub const ALL: &[Switch] = &[$(Switch {
                broken: Broken::$name,
                name: stringify!($name),
                rule: $rule,
                killer: $killer,
                sentence: $sentence,
            },)*];
        }
    };
}

switches! {
    RetriesForEver: "22", "retries::memory::e2_only_the_failing_step_is_repeated_as_often_as_its_task_says",
        "A step whose retries are used up is tried again.";
    EmptyNames: "3", "errors::memory::no_name_or_message_is_ever_empty",
        "An error whose maker gave it no name or message is stored without.";
    OneBadJobRejectsTheRun: "1", "unknown::memory::e8_an_unknown_kind_fails_alone_where_the_worker_says_so",
        "A pass fails as a whole when one of its jobs cannot be run.";
    LimitZeroIsUnlimited: "9", "passes::memory::a_limit_of_zero_is_refused",
        "A pass with the limit 0 takes everything.";
    UnstartedClaimsAreStranded: "12", "hardening::memory::a_pass_that_is_dropped_gives_back_what_it_did_not_start",
        "A job that was claimed and not started is left to its lease.";
    ClaimsBeyondFreeSlots: "12", "bounds::memory::a_worker_claims_no_more_jobs_than_it_has_free_slots",
        "A worker claims as many jobs as it has slots, free or not.";
    PassesClaimBeyondTheirSlots: "12", "passes::memory::a_pass_claims_no_more_than_it_can_start",
        "A pass claims its whole limit, whatever its concurrency.";
    PassesRunRetriesAtOnce: "11", "passes::memory::a_retry_that_goes_first_waits_for_the_next_pass_too",
        "A pass that claims a job anew runs it again.";
    BufferDisablesRenewal: "18", "leases::memory::a_lease_that_cannot_be_kept_is_refused",
        "A renewal interval beyond the lease is taken as it is.";
    CeilingIsIgnored: "21", "retries::memory::a_workflow_ceiling_bounds_tasks_that_ask_for_more",
        "A workflow's retries do not bound its tasks.";
    UnrestoredIsUnbounded: "22", "restoring::memory::a_step_whose_restoring_is_off_is_bounded_by_its_retries",
        "A step whose restoring is off forgets how often it failed.";
    FirstRetryIsDoubled: "23", "backoff::memory_by_the_clock::the_first_retry_waits_exactly_the_delay_and_later_ones_twice_as_long",
        "The wait before the first retry is doubled already.";
    JitterExceedsTheCap: "23", "backoff::memory_by_the_clock::jitter_is_the_same_for_one_failure_and_bounded_by_the_cap",
        "Jitter lengthens the capped wait.";
    EarliestRetryWins: "23", "backoff::memory_by_the_clock::of_several_failed_steps_the_latest_date_wins",
        "Of several failed steps the earliest date counts.";
    ErrorIsLoggedTwice: "24", "errors::memory::a_failed_step_is_logged_once_and_written_once",
        "A failed step is logged as itself and once more as the attempt.";
    ErrorIsWrittenTwice: "24", "errors::memory::a_failed_step_is_logged_once_and_written_once",
        "A failed step is written by itself, and then the release.";
    StepsAreNotRestored: "25", "restoring::memory::a_step_whose_restoring_is_off_runs_in_each_run",
        "A completed step runs again in each run.";
    RetryIsShownToTheBody: "25", "combining::memory::a_failure_that_will_be_retried_is_not_shown_to_the_body",
        "A failure that will be retried is returned to the body.";
    ReleasedWhileSiblingsRun: "28", "steps::memory::siblings_of_a_failing_step_settle_and_are_not_run_again",
        "The job is given back as soon as one step has failed.";
    FinalFailureDropsSiblings: "28", "steps::memory::siblings_of_a_step_that_fails_for_good_settle_before_the_body_sees_it",
        "A final failure is shown while siblings run.";
    LaterFailureUncompletes: "30", "restoring::memory::failures_after_a_success_count_and_do_not_uncomplete",
        "A step that fails after it has completed is not complete.";
    CallbackErrorLosesTheRun: "33", "callbacks::memory::what_goes_wrong_in_a_callback_is_logged_and_changes_nothing",
        "An error of a callback is one of the run.";
    CallbackBeforeTheRecord: "33", "callbacks::memory::a_success_is_told_after_it_is_recorded",
        "A success is told before it is recorded.";
    OnlyTheLastFailureIsTold: "33", "callbacks::memory::each_failed_attempt_is_told_and_whether_it_was_the_last",
        "A failed attempt that is to be retried is not told.";
    CancelLetsStepsStart: "36", "cancelling::memory::e15_a_job_cancelled_by_id_stops_after_the_running_step",
        "Steps start although the job is to be cancelled.";
    ParentIsForgotten: "29", "steps::memory::nested_steps_carry_their_parent_and_finished_children_are_restored",
        "A nested step is logged as if it stood alone.";
    KeysMayRepeat: "26", "unknown::memory::a_step_used_twice_is_an_error_that_names_it",
        "Two steps of one run share a key, and an output.";
    StepIdsAreNotChecked: "3", "errors::memory::a_step_id_that_cannot_be_stored_is_refused_with_the_reason",
        "A step may have an empty name.";
    BodyErrorIsNotLogged: "24", "errors::memory::an_error_of_the_body_names_no_step",
        "An attempt that failed outside any step leaves nothing in the log.";
    CallbacksAreNotChecked: "33", "callbacks::memory::a_callback_that_cannot_be_called_is_refused_when_the_worker_is_built",
        "A callback without a handler is never called.";
    CancelFromInsideFails: "36", "cancelling::memory::a_task_cancels_its_job_from_inside",
        "A task that cancels its job has failed.";
    SleepHoldsItsSlot: "D18", "sleeping::memory_by_the_clock::a_sleeping_job_holds_no_lane",
        "A job is held while it sleeps.";
    SleepEndsInAnotherRun: "D18", "sleeping::memory_by_the_clock::a_sleep_beside_a_running_step_ends_in_the_same_run",
        "A sleep beside a running step ends only when the step has ended.";
    SleepsAreWrittenAtOnce: "D18", "sleeping::memory_by_the_clock::a_sleep_that_is_over_when_it_begins_costs_nothing",
        "The end of each sleep is a write of its own.";
    DroppedSleepsWake: "D18", "sleeping::memory_by_the_clock::a_step_within_its_time_limit_does_not_wait_for_it",
        "A sleep that was dropped wakes the job.";
    StopWaitsForSleeps: "13", "sleeping::memory_by_the_clock::a_stopped_worker_gives_back_at_once_what_had_more_to_do_than_sleep",
        "A job that is stopped beside a sleep is given back for its end.";
    SleepBeginsAnew: "D18", "sleeping::memory_by_the_clock::the_end_of_a_sleep_stands_over_crashes_and_other_workers",
        "A sleep begins anew in each run.";
    LooksGrowTheLog: "D18", "sleeping::memory_by_the_clock::waking_a_sleeping_job_early_only_makes_it_look",
        "Each look at a sleep is logged.";
    SleepUsesAnAttempt: "D18", "sleeping::memory_by_the_clock::a_sleep_gives_the_job_back_and_uses_no_attempt",
        "A sleep is a retry.";
    LastSleepWakes: "D18", "sleeping::memory_by_the_clock::of_several_sleeps_the_first_wakes_the_job",
        "Of several sleeps the last one wakes the job.";
    SleepIsRecordedAtTheRelease: "D18", "sleeping::memory_by_the_clock::a_sleep_that_began_beside_a_running_step_survives_its_worker",
        "The beginning of a sleep is recorded only when the job is given back.";
    SleepPutsOffRetries: "D18", "sleeping::memory_by_the_clock::a_retry_is_not_put_off_by_a_longer_sleep",
        "A job that sleeps and is to be retried waits for the later of both.";
    RetryIdFresh: "5", "retry_by_hand::memory::any_number_of_clicks_make_one_job",
        "Retrying by hand makes a job with a fresh id, so two clicks make two.";
    OrderSwapped: "8", "passes::memory::e6_sequential_passes_run_the_first_enqueued_first",
        "FIFO is LIFO.";
    NoIdsMeanAll: "9", "passes::memory::a_pass_by_no_ids_no_kinds_or_no_queues_runs_nothing",
        "A pass by an empty list of ids is not filtered by ids.";
    ClaimsAhead: "12", "serving::memory::a_worker_claims_no_more_than_it_can_start",
        "A worker claims more jobs than it has free slots.";
    HookRefusesInVain: "34", "hooks::memory::a_refused_change_is_not_made",
        "A change that a hook refuses is made all the same.";
    HooksMissJoinedWrites: "34", "hooks::memory::a_write_that_shares_its_trip_with_a_claim_is_announced_and_reported",
        "Hooks are not told of the writes that share a trip with a claim.";
    HookEndsTheCall: "34", "hooks::memory::a_hook_that_fails_afterwards_changes_nothing",
        "A hook that panics after a change takes the call with it.";
    DropsFailed: "38", "keeping::memory::e7_only_a_completed_job_is_deleted_on_completion",
        "A job that is to be deleted when it completes is deleted when it fails.";
    SweepLive: "38", "retention::memory::a_sweep_never_deletes_a_job_that_waits_or_runs",
        "A sweep takes the jobs that wait for such as have ended.";
    SweepByCount: "38", "retention::memory::sweeps_at_once_leave_exactly_the_newest",
        "A sweep deletes as many of the oldest as it counted too many.";
    FlowUnchecked: "48", "data::memory::a_flow_whose_steps_need_each_other_is_refused_by_name",
        "Steps that need each other are not noticed when the flow is read.";
    EditUnguarded: "52", "editing::memory::an_edit_that_meets_another_one_is_made_on_top_of_it",
        "An edit is written whatever the version is by then.";
    ScheduledJobsHaveFreshIds: "44", "schedules::memory_by_the_clock::of_five_schedulers_that_race_for_a_slot_one_enqueues_its_job",
        "Two schedulers enqueue twice: the id of a job is not made of its slot.";
    SchedulesShareStatistics: "44", "schedules::memory_by_the_clock::schedules_of_two_queues_do_not_share_slots_or_statistics",
        "Statistics of one queue overwrite another's.";
    SlotsAreStampedWithThePass: "44", "schedules::memory_by_the_clock::a_slot_is_stamped_with_itself_and_not_with_the_time_of_the_pass",
        "The stamp is the time of the pass, so a slot is fired twice.";
    AFailingScheduleStopsTheOthers: "47", "schedules::memory_by_the_clock::a_failing_schedule_does_not_stop_the_others",
        "A failing schedule stops the others.";
    ASlowScheduleHoldsUpTheOthers: "47", "schedules::memory_by_the_clock::a_slow_hook_holds_up_no_other_schedule",
        "The next look at the schedules waits until all of them are done.";
    PassesEnqueueSchedules: "46", "schedules::memory_by_the_clock::passes_run_what_is_queued_and_enqueue_no_schedule",
        "A pass enqueues schedules too.";
    ForgetsSteps: "17", "processes::sqlite::e11_after_a_kill_another_process_repeats_only_the_step_in_flight",
        "What the log says of finished steps is not read.";
    ClaimsAreHeldLate: "14", "blocking::memory_by_the_clock::jobs_that_are_claimed_while_a_handler_blocks_keep_their_leases",
        "The leases of claimed jobs are renewed only when the worker takes them in.";
    IgnoresLoss: "15", "leases::memory::a_worker_that_stalled_writes_nothing_into_the_next_attempt",
        "A worker that is told that it lost a job believes that its write was made.";
    RenewsAmongHandlers: "14",
        "blocking::memory_by_the_clock::handlers_that_block_a_runtime_of_one_thread_for_three_leases_keep_their_leases",
        "Leases are renewed on the runtime of the handlers.";
    WaitsForEver: "56", "stalls::memory::a_write_that_is_never_answered_holds_up_no_other_job",
        "A call of the store is waited for as long as it takes.";
    ListensOnce: "56", "stalls::memory::hints_are_listened_to_again_when_their_stream_ends",
        "A stream of hints that ended is not replaced.";
    IgnoresNextDue: "10", "serving::memory::an_idle_worker_comes_back_when_the_next_job_falls_due",
        "An idle worker does not heed when the next job falls due, and only polls.";
    DeafToTheStore: "10", "serving::memory::an_idle_worker_hears_the_store",
        "An idle worker does not heed the store's hints, and only polls.";
    DeafToItself: "10", "serving::memory::an_idle_worker_hears_its_own_process_where_the_store_gives_no_hints",
        "An idle worker of a store without hints only polls, also for what its own process enqueues.";
    LoopsEndForGood: "56", "stalls::memory::a_look_for_expired_leases_that_never_ends_is_made_again",
        "A loop of the engine that stalled is not begun anew.";
    LeasesTogether: "56", "stalls::memory::a_lease_that_cannot_be_renewed_takes_no_other_with_it",
        "Leases are always renewed by one call for all.";
    PanicsEscape: "57", "stalls::memory::a_handler_whose_future_panics_when_it_is_dropped_fails_its_job",
        "A panic outside the polls of a handler is not caught.";
    HeartbeatsDropProgress: "2", "leases::memory::a_heartbeat_carries_the_progress_also_after_one_that_failed",
        "What a handler says of its progress is stored with other writes only.";
    ProgressIsDropped: "2", "steps::memory::progress_and_lines_reach_the_store",
        "What a handler says of its progress is forgotten.";
    CancelReopens: "4", "cancelling::memory::cancelling_a_finished_job_says_so_and_changes_nothing",
        "Cancelling a finished job by its id un-completes it.";
    InputIsRetried: "6", "unknown::memory::an_input_of_another_shape_fails_the_job_with_the_reason",
        "An input that does not fit is a failure like any other.";
    SequentialIsParallel: "7", "serving::memory::a_sequential_worker_runs_one_job_after_the_other_in_order",
        "A worker that is to run one job after the other runs two.";
    DueIsLater: "10", "passes::memory_by_the_clock::a_job_is_due_at_its_very_instant",
        "A job that is due now is taken a microsecond later.";
    NothingRemains: "11", "passes::memory::a_pass_says_how_many_jobs_remain",
        "A pass counts what it ran instead of what is left.";
    ClaimsWhileStopping: "13", "leases::memory::a_worker_that_stops_takes_no_further_job",
        "A worker goes on claiming until the grace time is over.";
    GraceIsSkipped: "13", "leases::memory::a_graceful_stop_lets_jobs_finish_within_the_grace_time",
        "Running jobs are given back at once when the worker stops.";
    StopUsesAnAttempt: "13",
        "leases::memory::a_graceful_stop_gives_running_jobs_back_without_using_an_attempt",
        "A job that is given back has failed once.";
    PoisonIsRecovered: "16", "poison::memory_by_the_clock::a_job_whose_workers_vanish_fails_once_it_is_over_its_cap",
        "A job that kills its workers is taken back for ever.";
    CrashesUseRetries: "16", "poison::memory_by_the_clock::a_crash_uses_no_retry",
        "A crash counts as a failed attempt.";
    RetriesByDefault: "19", "retries::memory::e3_without_retries_there_is_one_execution",
        "What says nothing of retries is retried once.";
    CeilingIsPerStep: "21", "retries::memory::a_workflow_ceiling_is_one_for_all_tasks_of_the_job",
        "The workflow's ceiling bounds each step by itself.";
    QueueOrderBeforeCall: "8",
        "passes::memory::the_order_of_a_call_goes_before_that_of_a_queue_and_that_before_the_worker_s",
        "The order of a pass does not count where queues have their own.";
    GlobalOrderIsIgnored: "8",
        "passes::memory::the_order_of_a_call_goes_before_that_of_a_queue_and_that_before_the_worker_s",
        "A worker's own order is forgotten.";
    LossIsNotTold: "15", "leases::memory::a_handler_is_told_that_another_worker_has_its_job",
        "A worker whose renewal is refused goes on with the job.";
    HeartbeatCancelIsIgnored: "35", "cancelling::memory::a_handler_sees_its_token_with_the_next_heartbeat",
        "What a renewal says of a cancellation is not heard.";
    PassConcurrencyIsIgnored: "7", "passes::memory::a_pass_runs_at_most_as_many_jobs_at_once_as_it_is_told",
        "A pass runs all that it claimed at once.";
    CompletedCanBeRetried: "5", "retry_by_hand::memory::only_failed_and_cancelled_jobs_can_be_retried_by_hand",
        "A completed job can be retried by hand.";
    RetryForgetsLabels: "5",
        "retry_by_hand::memory::a_failed_job_is_retried_by_hand_as_a_new_job_linked_to_the_old_one",
        "A job that retries another has none of its labels.";
    SchedulingOffIsIgnored: "46",
        "schedules::memory_by_the_clock::e21_a_worker_with_scheduling_off_runs_jobs_and_enqueues_none",
        "A worker whose scheduling is off fires its schedules.";
    WorkflowBeforeTask: "20", "retries::memory::e4_a_task_with_zero_retries_fails_the_job_whatever_the_workflow_allows",
        "The workflow's retries go before those of the task.";
    TheLastEntryWins: "27", "steps::memory::e16_two_hundred_parallel_steps",
        "Of entries that are written at the same time the last one stays.";
    EntriesAreDoubled: "27", "steps::memory::e16_twenty_instant_parallel_steps",
        "An entry that is written again has a new id.";
    OrderIsAlwaysOne: "31", "steps::memory::entries_keep_one_order_and_are_read_from_any_place",
        "Every entry is number one.";
    LogIsSentAgain: "32", "trips::memory::every_entry_is_sent_once",
        "The final write of a job sends the whole log again.";
    CancelIsNotTold: "35", "cancel_races::memory::a_cancel_outlives_a_heartbeat_a_retry_and_a_lost_lease",
        "A running job does not hear that it is to be cancelled.";
    CancelIsCleared: "37", "cancel_races::memory::a_cancel_outlives_a_heartbeat_a_retry_and_a_lost_lease",
        "A retry clears the request to cancel.";
    LanesWithinAWorker: "39", "lanes::memory::e18_a_newcomer_waits_for_the_running_job_of_its_key",
        "Lanes are not kept by the store.";
    SupersedeTakesTheStarted: "40", "lanes::memory::supersede_cancels_only_what_has_never_been_started",
        "Superseding takes whatever has the key and has not ended.";
    BackoffHoldsTheLane: "41",
        "lanes::memory_by_the_clock::a_job_that_waits_for_its_backoff_does_not_hold_its_lane",
        "A job that waits for its backoff keeps others out of its lane.";
    UniqueLooksFirst: "42", "lanes::memory::of_racing_enqueues_of_one_key_exactly_one_makes_a_job",
        "An insert looks whether its key is free, and then inserts.";
    SlotsOverlap: "43",
        "schedules::memory_by_the_clock::no_slot_is_fired_while_a_scheduled_job_of_its_kind_and_queue_waits_or_runs",
        "A slot is fired whatever became of the one before.";
    AllMissedSlotsFire: "45",
        "schedule_missed::memory_by_the_clock::what_was_missed_is_skipped_or_caught_up_with_once_or_up_to_a_number",
        "Every missed slot is fired, whatever the policy.";
    NeglectedStepsHoldTheRun: "Wf", "neglected::memory::a_run_ends_although_the_body_leaves_a_running_step_alone",
        "A step that the body does not poll any more holds up the end of the run.";
    TroubleIsRetriedAtOnce: "56", "serving::memory::a_worker_waits_before_it_asks_a_failing_store_again",
        "A worker whose claim fails asks again at once.";
    TroubleEndsTheWorker: "56", "serving::memory::e22_a_worker_goes_on_after_the_store_failed",
        "A worker whose claim fails takes no more jobs.";
    UnknownTasksAreNotNamed: "1", "unknown::memory::e9_a_workflow_that_calls_an_unregistered_task_fails_with_its_name",
        "A workflow that calls an unknown task fails without its name.";
    PlacesAreLost: "13", "hardening::memory::a_job_that_is_given_back_keeps_its_place",
        "A job that is given back stands at the end of the queue.";
    RestoreRulesAreIgnored: "25", "restoring::memory::a_function_of_the_input_and_the_status_decides",
        "A completed step is restored whatever a function says of it.";
    ConditionsAreIgnored: "48", "data::memory::a_step_that_completes_the_job_ends_it",
        "A step of a data workflow runs whether or not its condition holds.";
    CompletesJobIsIgnored: "48", "data::memory::a_step_that_completes_the_job_ends_it",
        "A data workflow goes on after the step that completes its job.";
    BackoffRetriesForEver: "22", "retries::memory_by_the_clock::a_backoff_without_a_number_of_retries_is_no_retry",
        "A backoff without a number of retries is one without end.";
    BodyErrorsAreNotRetried: "21", "retries::memory::e10_an_error_of_the_body_is_repeated_as_often_as_the_workflow_says",
        "An error of the body is final whatever the workflow says.";
    TaskBeforeCall: "20", "retries::memory::the_budget_of_a_call_goes_before_that_of_its_task",
        "The retries of a task go before those of its call.";
    StepWaitsByTheJobsFailures: "23", "backoff::memory_by_the_clock::a_step_waits_by_its_own_failures_and_not_by_the_jobs",
        "A step waits by how often its job has failed.";
    WorkflowBackoffIsIgnored: "23", "backoff::memory_by_the_clock::the_later_of_the_steps_and_the_jobs_dates_wins",
        "A workflow's backoff does not count where a step failed.";
    FiltersAreIgnored: "9", "passes::memory::e14_a_pass_by_label_runs_only_jobs_with_the_label",
        "A pass takes whatever is due, also what its filter leaves out.";
    SettlesAfterALook: "32", "trips::memory::e23_a_job_with_one_task_costs_three_trips",
        "A job is read once more before its end is written.";
    EntriesNameNoTask: "26", "steps::memory_by_the_clock::an_entry_says_all_that_is_known_of_its_attempt",
        "An entry has the name of its step where that of the task belongs.";
    InlineStepsAreNotMarked: "26", "steps::memory_by_the_clock::an_entry_says_all_that_is_known_of_its_attempt",
        "A closure is logged as if it were a task.";
    EntryIdsHaveNoTime: "26", "steps::memory_by_the_clock::an_entry_says_all_that_is_known_of_its_attempt",
        "The id of an entry does not say when it was made.";
    ConflictsAreShown: "27", "processes::sqlite::e17_two_hundred_parallel_steps_in_eight_jobs_by_four_processes",
        "A write that meets another one fails with the words of the database.";
    StepIsToldBeforeItIsLogged: "33", "callbacks::memory::a_step_is_told_of_when_it_is_logged",
        "A callback is told of a step whose success is not recorded.";
    CallbacksAreCutByALoss: "33", "callbacks::memory::a_callback_of_a_job_whose_end_was_acknowledged_late_is_not_cut_short",
        "A callback is broken off when the lease was renewed in vain after the end of its job.";
    LostHandlersGoOn: "15", "leases::memory::a_handler_that_does_not_heed_the_loss_of_its_job_is_dropped",
        "A handler whose job another worker has goes on for as long as it likes.";
    FlowStepsTellNobody: "48", "data::memory::a_data_workflow_tells_callbacks_of_its_steps_and_of_itself",
        "Nobody is told how the steps of a data workflow end.";
    FlowStepsAreNotRetried: "48", "data::memory::e2_a_failing_step_of_a_data_workflow_is_repeated_as_often_as_its_task_says",
        "The steps of a data workflow are never tried again.";
    ProgramsThroughAShell: "49", "outside::memory::a_program_gets_its_arguments_as_they_are_and_no_shell",
        "The arguments of a program are one line for a shell.";
    ProgramsRunForEver: "49", "outside::memory::a_program_beyond_its_limits_is_ended_and_its_slot_is_free",
        "A program has no time limit.";
    ProgramOutputIsUnlimited: "49", "outside::memory::a_program_beyond_its_limits_is_ended_and_its_slot_is_free",
        "A program may print as much as it likes.";
    ProgramErrorsAreDropped: "49", "outside::memory::a_program_that_fails_is_retried_and_what_it_said_is_kept",
        "What a program says on its standard error is not kept.";
    EndpointRefusalsAreRetried: "49", "outside::memory::trouble_of_an_endpoint_is_retried_and_its_refusal_is_final",
        "A call that an endpoint refuses is tried again.";
    EndpointTroubleIsFinal: "49", "outside::memory::trouble_of_an_endpoint_is_retried_and_its_refusal_is_final",
        "A call that fails for trouble of the server is not tried again.";
    WriteCancelIsIgnored: "35", "cancelling::memory::e15_a_job_cancelled_by_id_stops_after_the_running_step",
        "What the answer to a write says of a cancellation is not heard.";
    CancelKillsTheStep: "36", "cancelling::memory::a_step_that_runs_when_its_job_is_cancelled_is_not_killed",
        "A step is dropped when its job is cancelled.";
    QueueRetentionIsIgnored: "38", "retention::memory::what_is_said_for_a_queue_counts_before_what_is_said_for_all",
        "What is said of keeping for one queue does not count beside what is said for all.";
    SupersedeLooksFirst: "40", "lanes::memory::of_racing_enqueues_that_supersede_exactly_one_job_waits",
        "Superseding looks for earlier jobs, and then inserts.";
    SupersedeDeletesTheFailed: "40", "lanes::memory::supersede_cancels_only_what_has_never_been_started",
        "Superseding deletes the failed jobs of the key.";
    ManualJobsAreNotCounted: "43", "schedules::memory_by_the_clock::jobs_enqueued_by_hand_count_where_that_is_asked_for",
        "A slot is fired beside jobs that were enqueued by hand, also where these count.";
    HandlingIsOfAllQueues: "46", "schedules::memory_by_the_clock::e20_schedules_are_handled_by_hand_for_one_queue_or_for_all",
        "Handling the schedules of one queue handles those of all.";
    SchedulerEndsWithTrouble: "46", "schedules::memory_by_the_clock::a_scheduler_that_meets_trouble_fires_the_slot_afterwards",
        "A worker fires no more schedules when they could not be read once.";
    AcknowledgesBeforeItWrites: "58", "serving::memory::an_enqueue_that_was_not_written_is_not_acknowledged",
        "Enqueuing is acknowledged before the store has the job.";
}

/// What is known of a switch.
#[cfg(feature = "broken")]
#[derive(Clone, Copy, Debug)]
pub struct Switch {
    /// The switch.
    pub broken: Broken,
    /// How `QUEUE_BROKEN` names it.
    pub name: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
    /// The test that must fail.
    pub killer: &'static str,
    /// What it does.
    pub sentence: &'static str,
}

/// Whether this defect is switched on.
#[cfg(not(feature = "broken"))]
pub(crate) const fn is(_: Broken) -> bool {
    false
}

/// Whether this defect is switched on.
#[cfg(feature = "broken")]
pub(crate) fn is(broken: Broken) -> bool {
    static ON: std::sync::LazyLock<Option<Broken>> = std::sync::LazyLock::new(|| {
        let asked = std::env::var("QUEUE_BROKEN").ok()?;
        let known = Broken::ALL.iter().find(|switch| switch.name == asked);
        assert!(known.is_some(), "QUEUE_BROKEN names {asked:?}, which is no switch");
        known.map(|switch| switch.broken)
    });
    *ON == Some(broken)
}
