"""The examples in docstrings are so."""

import doctest
import importlib
import pkgutil

import pytest

import experiment_tracking

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def names():
    """Every module of the package but the one that is a command when it is imported."""
    found = pkgutil.walk_packages(experiment_tracking.__path__, "experiment_tracking.")
    return sorted(["experiment_tracking", *(module.name for module in found)])


def examples_in(name):
    tests = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    return [test for test in tests if test.examples]


WITH_EXAMPLES = [n for n in names() if not n.endswith("__main__") and examples_in(n)]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_hold(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    told = []
    for test in examples_in(name):
        runner.run(test, out=told.append)
    assert not told, "".join(told)


def test_there_are_examples():
    assert "experiment_tracking.folder.digest" in WITH_EXAMPLES
