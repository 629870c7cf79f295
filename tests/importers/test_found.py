import errno

import pytest

from experiment_tracking.errors import FormatError
from experiment_tracking.importers.found import FoundRun, Unreadable, reading, reason_of


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EACCES, "Permission denied", "/a/b"), "/a/b: Permission denied"),
        (OSError("went away"), "went away"),
        (FormatError("x has format 3"), "x has format 3"),
        (KeyError("name"), "KeyError: 'name'"),
        (ValueError("two\n  lines"), "ValueError: two lines"),
    ],
)
def test_an_error_is_said_in_a_line_and_a_foreign_one_with_its_kind(error, reason):
    assert reason_of(error) == reason


def test_whatever_a_run_makes_of_its_reader_ends_that_run_alone():
    def fails():
        raise RecursionError("too deep")

    run = FoundRun("csv", "/d", "a", "a", "p")
    assert reading("/d", lambda: run) is run
    assert reading("/d", fails) == Unreadable("/d", "RecursionError: too deep")
