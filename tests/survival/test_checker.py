"""Each rule is broken by hand, and the checker must say so; what is good it must let pass."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from survival.a_history import LANE, good, run, taken_over, version
from survival.checker import RULES, check
from survival.history import Cancel, Effect, History, Letter, Receipt, Try

Break = Callable[[History], object]


def broken(history: History) -> set[str]:
    return {rule for rule, found in check(history).items() if found}


def test_a_good_history_breaks_no_rule() -> None:
    assert broken(good()) == set()
    assert broken(taken_over(frozen=True)) == set()


def drop(history: History, job: str) -> None:
    del history.versions[job]
    history.runs = [one for one in history.runs if one.job != job]
    history.effects = [one for one in history.effects if one.job != job]


def lose_an_accepted_job(history: History) -> None:
    drop(history, "normal-1")
    history.cancels.clear()


def never_end(history: History) -> None:
    del history.versions["normal-2"][-1]


def end_twice(history: History) -> None:
    history.versions["normal-1"].append(version(60, "failed", at=30, order=1, errors=("bad",)))


def change_a_result(history: History) -> None:
    history.versions["normal-1"].append(version(60, "complete", at=30, order=1, result={"fence": 9}))


def miss_a_version(history: History) -> None:
    history.lost_versions = 1


def write_too_often(history: History) -> None:
    history.versions["normal-1"] *= 64


def cancel_by_nobody(history: History) -> None:
    history.asked.discard("normal-4")


def die_without_a_reason(history: History) -> None:
    history.tries["p.3"] = replace(history.tries["p.3"], kind="ok")


def complete_what_was_to_die(history: History) -> None:
    history.tries["p.1"] = replace(history.tries["p.1"], kind="dies")


def count_too_many_attempts(history: History) -> None:
    history.versions["normal-2"][-2:] = [
        replace(history.versions["normal-2"][-2], attempts=4),
        replace(history.versions["normal-2"][-1], attempts=4),
    ]
    history.runs[3] = replace(history.runs[3], attempt=4)


def run_too_often(history: History) -> None:
    last = history.versions["normal-2"].pop()
    fences = range(24, 27)
    history.versions["normal-2"][-1:] = [version(fence, "processing", at=6, attempts=2, order=2) for fence in fences]
    history.versions["normal-2"].append(replace(last, revision=27, result={"fence": 26}))
    history.runs[3:4] = [
        run("normal-2", "p.2", fence, fence / 10 + 4, fence / 10 + 4.05, attempt=2) for fence in fences
    ]
    history.effects += [Effect("normal-2", 26, "final", True)]


def run_without_a_claim(history: History) -> None:
    history.runs.append(run("normal-3", "p.3", 29, 30, 31))


def run_one_claim_twice(history: History) -> None:
    history.runs.append(run("normal-1", "p.1", 10, 30, 31, pid=2))


def let_an_older_effect_land(history: History) -> None:
    history.effects += [Effect("normal-2", 20, "final", True)]


def complete_by_a_stale_attempt(history: History) -> None:
    history.versions["normal-2"][-1] = replace(history.versions["normal-2"][-1], result={"fence": 20})


def complete_without_an_effect(history: History) -> None:
    history.effects = [one for one in history.effects if one.job != "normal-1"]


def do_it_twice_in_effect(history: History) -> None:
    history.effects.append(Effect("normal-1", 10, "final", True))


def overlap_two_jobs(history: History) -> None:
    history.runs[1] = replace(history.runs[1], began=1.5, wall=1001.5)


def begin_before_the_one_before_ended(history: History) -> None:
    history.versions["normal-2"][0] = replace(history.versions["normal-2"][0], revision=9)
    history.runs[1] = replace(history.runs[1], fence=9)


def store_in_another_order(history: History) -> None:
    history.receipts[0], history.receipts[1] = history.receipts[1], history.receipts[0]


def start_early(history: History) -> None:
    history.runs[-1] = replace(history.runs[-1], wall=1019.9)


def give_one_id_to_two(history: History) -> None:
    history.tries["p.7"] = Try("p.7", "q", priority="normal", entity="e3")
    history.receipts.append(Receipt("p.7", "normal-1"))


def store_one_job_twice(history: History) -> None:
    history.versions["normal-9"] = [
        version(70, "processing", at=30, order=9),
        version(71, "complete", at=31, order=9, result={"fence": 70}),
    ]
    history.runs.append(run("normal-9", "p.1", 70, 30.1, 30.9))
    history.effects += [Effect("normal-9", 70, "final", True)]


def run_what_was_refused(history: History) -> None:
    history.versions["normal-9"] = [
        version(70, "processing", at=30, order=9),
        version(71, "complete", at=31, order=9, result={"fence": 70}),
    ]
    history.runs.append(run("normal-9", "p.6", 70, 30.1, 30.9, lane=("normal", "e2")))
    history.effects += [Effect("normal-9", 70, "final", True)]


def duplicate_of_nothing(history: History) -> None:
    history.tries["p.7"] = Try("p.7", "p", door="keyed", key="k7", entity="e3")
    history.receipts.append(Receipt("p.7", "normal-77", duplicate=True))


def run_under_another_name(history: History) -> None:
    history.runs[0] = replace(history.runs[0], uid="p.5", lane=("normal", "e2"))


def cancel_what_completed(history: History) -> None:
    history.cancels.append(Cancel("normal-2", "cancelled", 30))


def deny_what_was_cancelled(history: History) -> None:
    history.cancels.append(Cancel("normal-4", "ended", 30))


def know_nothing_of_a_job(history: History) -> None:
    history.cancels.append(Cancel("normal-4", "NotFound", 30))


def run_on_after_a_cancel(history: History) -> None:
    history.versions["normal-4"] = [
        version(40, "processing", at=11, order=4),
        version(41, "cancelled", at=12, order=4),
    ]
    history.runs.append(run("normal-4", "p.4", 40, 11.1, 13, outcome="interrupted"))
    history.cancels[0] = Cancel("normal-4", "cancelled", 12)


def write_a_letter_twice(history: History) -> None:
    history.letters *= 2


def lose_a_letter(history: History) -> None:
    history.letters.clear()


def dead_letter_of_a_live_job(history: History) -> None:
    history.letters.append(Letter("normal-1", 1, "MaxRetries"))


def tell_other_attempts(history: History) -> None:
    history.letters[0] = replace(history.letters[0], attempts=2)


def leave_a_message(history: History) -> None:
    history.leftovers["JOBS_NORMAL"] = 1


def look_at_nothing(history: History) -> None:
    history.leftovers.clear()


def lose_a_slot(history: History) -> None:
    history.gathered = 39, 40


def forget_a_partition(history: History) -> None:
    history.missed_turns["normal-parallel-0"] = 9.1


def leave_a_request_unanswered(history: History) -> None:
    history.unanswered["normal-parallel-0"] = 5.1


def overlap_two_attempts_of_a_job_without_an_entity(history: History) -> None:
    history.runs = [replace(one, lane=("normal", None)) if one.job == "normal-2" else one for one in history.runs]
    history.runs[2] = replace(history.runs[2], ended=6.5)


def hang_at_the_end(history: History) -> None:
    history.stuck.append("worker-0")


BREAKS: list[tuple[Break, set[str]]] = [
    (lose_an_accepted_job, {"accepted_jobs_end"}),
    (never_end, {"accepted_jobs_end"}),
    (end_twice, {"ends_never_change"}),
    (change_a_result, {"ends_never_change"}),
    (miss_a_version, {"every_version_was_seen"}),
    (write_too_often, {"every_version_was_seen"}),
    (cancel_by_nobody, {"ends_have_a_cause"}),
    (die_without_a_reason, {"ends_have_a_cause"}),
    (complete_what_was_to_die, {"ends_have_a_cause"}),
    (count_too_many_attempts, {"attempts_are_bounded"}),
    (run_too_often, {"attempts_are_bounded"}),
    (run_without_a_claim, {"runs_are_claimed"}),
    (run_one_claim_twice, {"runs_are_claimed"}),
    (let_an_older_effect_land, {"effects_are_fenced"}),
    (complete_by_a_stale_attempt, {"effects_are_fenced"}),
    (complete_without_an_effect, {"effects_are_fenced"}),
    (do_it_twice_in_effect, {"effects_are_fenced"}),
    (overlap_two_jobs, {"runs_do_not_overlap"}),
    (begin_before_the_one_before_ended, {"jobs_begin_in_order"}),
    (store_in_another_order, {"jobs_are_stored_in_the_order_of_submits"}),
    (start_early, {"delayed_jobs_are_never_early"}),
    (give_one_id_to_two, {"receipts_are_true"}),
    (store_one_job_twice, {"receipts_are_true"}),
    (run_what_was_refused, {"receipts_are_true"}),
    (duplicate_of_nothing, {"receipts_are_true", "accepted_jobs_end"}),
    (run_under_another_name, {"receipts_are_true"}),
    (cancel_what_completed, {"cancels_are_true"}),
    (deny_what_was_cancelled, {"cancels_are_true"}),
    (know_nothing_of_a_job, {"cancels_are_true"}),
    (run_on_after_a_cancel, {"cancels_are_true"}),
    (write_a_letter_twice, {"dead_jobs_have_one_letter"}),
    (lose_a_letter, {"dead_jobs_have_one_letter"}),
    (dead_letter_of_a_live_job, {"dead_jobs_have_one_letter"}),
    (tell_other_attempts, {"dead_jobs_have_one_letter"}),
    (leave_a_message, {"nothing_is_left"}),
    (look_at_nothing, {"nothing_is_left"}),
    (lose_a_slot, {"slots_come_back"}),
    (forget_a_partition, {"partitions_take_turns"}),
    (leave_a_request_unanswered, {"requests_are_answered"}),
    (overlap_two_attempts_of_a_job_without_an_entity, {"runs_do_not_overlap"}),
    (hang_at_the_end, {"nothing_is_left"}),
]


@pytest.mark.parametrize(("breaks", "rules"), BREAKS, ids=lambda it: getattr(it, "__name__", ""))
def test_what_breaks_a_rule_is_told_by_that_rule(breaks: Break, rules: set[str]) -> None:
    history = good()
    breaks(history)
    assert broken(history) == rules


def test_every_rule_can_be_broken() -> None:
    assert {rule for _, rules in BREAKS for rule in rules} == {rule.__name__ for rule in RULES}


def test_an_overlap_needs_a_worker_that_stood_still() -> None:
    assert broken(taken_over(frozen=False)) == {"runs_do_not_overlap"}


def test_a_worker_that_stood_still_but_was_not_overtaken_may_not_overlap() -> None:
    history = taken_over(frozen=True)
    overtaken = history.versions["normal-1"]
    overtaken[1] = replace(overtaken[1], revision=9)
    assert "runs_do_not_overlap" in broken(history)


def test_a_deleted_entry_lets_its_job_be_tried_as_often_again() -> None:
    history = good()
    run_too_often(history)
    history.deleted["normal-2"] = 1
    assert broken(history) == set()


def test_jobs_without_an_entity_may_overlap() -> None:
    history = good()
    overlap_two_jobs(history)
    history.runs = [replace(one, lane=("normal", None)) if one.lane == LANE else one for one in history.runs]
    assert broken(history) == set()
