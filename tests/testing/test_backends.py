import doctest
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from experiment_tracking.testing import BackendTests
from experiment_tracking.testing.backends import _agree

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


def outcomes_of(path, report):
    """Have pytest run a module in a process; give passed, failed or skipped by class and test."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-c", "setup.cfg", f"--junitxml={report}", f"--rootdir={REPOSITORY}", str(path)],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    assert report.exists(), done.stdout + done.stderr
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {"failure": "failed", "error": "error", "skipped": "skipped"}
        outcome = next((kinds[child.tag] for child in case if child.tag in kinds), "passed")
        group = outcomes.setdefault(case.get("classname").rpartition(".")[2], {})
        group[case.get("name")] = outcome
    return outcomes


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    report = tmp_path_factory.mktemp("report") / "report.xml"
    return outcomes_of(HERE / "kept_in_files.py", report)


TESTS = {name for name in vars(BackendTests) if name.startswith("test_")}


def test_a_backend_that_keeps_everything_passes_every_test(outcomes):
    assert outcomes["TestHonest"] == dict.fromkeys(TESTS, "passed")


def test_what_a_backend_says_that_it_does_not_do_is_shown_as_skipped(outcomes):
    skipped = {
        name for name, outcome in outcomes["TestDeclaringLittle"].items() if outcome == "skipped"
    }
    assert skipped == {
        "test_params_arrive_nested_and_late_ones_too",
        "test_figures_arrive",
        "test_artifacts_arrive_files_and_folders",
        "test_models_arrive_with_all_their_files",
        "test_tags_arrive_and_change",
        "test_removed_tags_go",
        "test_each_way_to_end_arrives",
        "test_runs_copied_at_the_same_time_are_not_mixed",
        "test_an_instance_made_anew_goes_on",
        "test_rows_that_are_sent_again_change_nothing",
        "test_a_further_attempt_adds_its_rows",
        "test_a_service_that_is_away_is_told_by_an_oserror",
    }
    assert set(outcomes["TestDeclaringLittle"].values()) == {"passed", "skipped"}


FAULTS = {
    "TestLosingNaN": "test_nan_and_the_infinities_arrive",
    "TestDroppingStepsThatGoBack": "test_steps_that_repeat_or_go_back_arrive",
    "TestKeepingOneRowAStep": "test_steps_that_repeat_or_go_back_arrive",
    "TestCuttingLargeBatches": "test_many_rows_arrive_each_once",
    "TestShowingStoredNames": "test_metrics_of_odd_names_arrive",
    "TestDoublingRowsThatComeAgain": "test_rows_that_are_sent_again_change_nothing",
    "TestBeginningAnew": "test_an_instance_made_anew_goes_on",
    "TestMixingRuns": "test_runs_copied_at_the_same_time_are_not_mixed",
    "TestKeepingRowsOfTheRunBefore": "test_one_instance_copies_one_run_after_another",
    "TestNeedingItsOwnThread": "test_a_single_row_arrives",
    "TestClosingOnce": "test_closing_twice_harms_nothing",
    "TestKeepingRemovedTags": "test_removed_tags_go",
    "TestReplacingAllTags": "test_tags_arrive_and_change",
    "TestLeavingFoldersOut": "test_artifacts_arrive_files_and_folders",
    "TestKeepingTheFirstOfAFile": "test_artifacts_arrive_files_and_folders",
    "TestKeepingWeightsOfOlderModels": "test_models_arrive_with_all_their_files",
    "TestLosingFiguresWithoutAStep": "test_figures_arrive",
    "TestLosingNestedParams": "test_params_arrive_nested_and_late_ones_too",
    "TestFinishingAlways": "test_each_way_to_end_arrives",
    "TestRounding": "test_numbers_of_every_size_arrive",
    "TestTakingTheTimeOfNow": "test_many_rows_arrive_each_once",
    "TestRefusingWhenAway": "test_a_service_that_is_away_is_told_by_an_oserror",
    "TestPassingOverThatItIsAway": "test_a_service_that_is_away_is_told_by_an_oserror",
    "TestWithOptionsThatAreNoJson": "test_its_options_make_it_anew",
    "TestWithOptionsThatDoNotMakeIt": "test_its_options_make_it_anew",
    "TestWithSwappedParameters": "test_it_can_be_called_as_the_library_calls_it",
    "TestSayingTooLittle": "test_a_run_without_rows_ends",
    "TestSayingTooMuch": "test_a_run_without_rows_ends",
}


@pytest.mark.parametrize(("fault", "test"), FAULTS.items())
def test_a_backend_with_a_fault_fails_the_test_for_it(outcomes, fault, test):
    assert outcomes[fault][test] == "failed"


def test_every_test_fails_for_some_fault(outcomes):
    assert {*FAULTS, "TestHonest", "TestDeclaringLittle"} == outcomes.keys()
    failed = {test for fault in FAULTS for test, how in outcomes[fault].items() if how == "failed"}
    assert failed == TESTS


def test_the_example_of_its_docstring_is_a_whole_test_module(tmp_path):
    (example,) = doctest.DocTestFinder(recurse=False).find(BackendTests)
    module = tmp_path / "test_example.py"
    module.write_text("".join(line.source for line in example.examples))
    outcomes = outcomes_of(module, tmp_path / "report.xml")["TestJsonBackend"]
    assert outcomes.keys() == TESTS
    assert set(outcomes.values()) == {"passed", "skipped"}
    assert outcomes["test_rows_that_are_sent_again_change_nothing"] == "passed"


def test_importing_it_needs_no_pytest():
    script = "import sys, experiment_tracking.testing.backends; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_a_difference_is_told_with_what_is_missing_and_what_is_too_much():
    with pytest.raises(AssertionError, match=r"rows: 1 of 3 are missing \[2\], 2 should not be"):
        _agree("rows", [1, 2, 3], [3, 1, 1, 4])
