from experiment_tracking.registry.registry import ExperimentRegistry
from experiment_tracking.registry.samples import without_reruns


def test_a_rerun_of_a_rerun_repeats_the_run_too(track, edit, root):
    first, second, third = (track(name) for name in "abc")
    edit(second, rerun_of=first.id)
    edit(third, rerun_of=second.id)
    runs = ExperimentRegistry(root).list_experiments()
    assert without_reruns(runs).names == ["a"]
    assert without_reruns(runs[1:]).names == ["b"]
    assert without_reruns(runs[2:]).names == ["c"]


def test_runs_without_an_id_repeat_none(track, edit, root):
    for name in "ab":
        edit(track(name), id=None)
    runs = ExperimentRegistry(root).list_experiments()
    assert without_reruns(runs).names == ["a", "b"]
