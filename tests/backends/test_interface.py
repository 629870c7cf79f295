import math

import pytest

from experiment_tracking.backends.interface import BackendInterface, BoundBackend, check_backend
from experiment_tracking.errors import BackendError

NOW = 1763640000.5


class Smallest(BackendInterface):
    """The least a backend must be; keeps what it is called with."""

    def __init__(self):
        self.calls = []

    def start_run(self, run_name, config):
        self.calls.append(("start_run", run_name, config))

    def log_metrics(self, metrics, step):
        self.calls.append(("log_metrics", metrics, step))

    def log_model(self, model, path):
        self.calls.append(("log_model", model, path))


def changed(**methods):
    """A Smallest with some methods replaced, or taken away with None."""
    return type("Changed", (Smallest,), methods)()


def message_of(backend):
    with pytest.raises(BackendError) as caught:
        check_backend(backend)
    return str(caught.value)


def test_three_methods_make_a_backend_and_the_rest_does_nothing():
    bound = check_backend(Smallest())
    bound.start_run("exp7", {"lr": 0.1}, project="p", run_id="x", path="here", tags={})
    bound.log_metrics({"loss": 1.0}, 3, timestamp=NOW)
    bound.log_model("handle", "models/m", name="m")
    bound.log_params({"lr": 0.1})
    bound.log_artifact("a.txt", "a", artifact_type="text")
    bound.log_figure("f.png", "f", 3)
    bound.set_tags({"a": ""})
    bound.call("end_run", "finished")
    assert bound.backend.calls == [
        ("start_run", "exp7", {"lr": 0.1}),
        ("log_metrics", {"loss": 1.0}, 3),
        ("log_model", "handle", "models/m"),
    ]
    assert isinstance(bound, BoundBackend)
    assert bound.name == "Smallest"


@pytest.mark.parametrize("method", ["start_run", "log_metrics", "log_model"])
def test_the_base_class_insists_on_exactly_three_methods(method):
    assert BackendInterface.__abstractmethods__ == {"start_run", "log_metrics", "log_model"}
    without = type("Without", (Smallest,), {method: getattr(BackendInterface, method)})
    with pytest.raises(TypeError, match=method):
        without()


def test_a_signature_that_names_more_is_given_more():
    seen = {}

    def start_run(self, run_name, config, project=None, *, path, tags=None):
        seen.update(project=project, path=path, tags=tags)

    def log_metrics(self, metrics, step, timestamp):
        seen.update(timestamp=timestamp)

    bound = check_backend(changed(start_run=start_run, log_metrics=log_metrics))
    bound.start_run("r", {}, project="p", run_id="x", path="here", tags={"a": ""})
    bound.log_metrics({}, 0, timestamp=NOW, attempt=2)
    assert seen == {"project": "p", "path": "here", "tags": {"a": ""}, "timestamp": NOW}


def test_keyword_arguments_of_any_name_are_given_all():
    seen = []

    def log_metrics(self, *args, **everything):
        seen.append((args, everything))

    check_backend(changed(log_metrics=log_metrics)).log_metrics({}, 0, timestamp=NOW, attempt=1)
    assert seen == [(({}, 0), {"timestamp": NOW, "attempt": 1})]


def test_parameters_may_be_called_otherwise():
    def log_metrics(self, values, iteration=None):
        self.calls.append((values, iteration))

    bound = check_backend(changed(log_metrics=log_metrics))
    bound.log_metrics({"loss": 1.0}, 3, timestamp=NOW)
    assert bound.backend.calls == [({"loss": 1.0}, 3)]


def test_an_object_of_no_relation_is_accepted_when_its_methods_fit():
    class Plain:
        def start_run(self, run_name, config): ...
        def log_metrics(self, metrics, step): ...
        def log_model(self, model, path): ...

    bound = check_backend(Plain())
    bound.end_run("finished")
    bound.log_params({"lr": 1})


def test_rows_come_one_by_one_in_file_order_under_the_names_they_were_given():
    seen = []

    def log_metrics(self, metrics, step, timestamp, attempt):
        seen.append((metrics, step, timestamp, attempt))

    bound = check_backend(changed(log_metrics=log_metrics))
    assert not bound.takes_batches
    bound.log_batch(
        [
            {"step": 5, "time": NOW, "loss": "-Infinity"},
            {"step": 2, "time": NOW + 1, "attempt": 2, "metric:time": 3, "loss": 0.5},
        ]
    )
    assert seen == [
        ({"loss": -math.inf}, 5, NOW, 1),
        ({"time": 3, "loss": 0.5}, 2, NOW + 1, 2),
    ]


def test_rows_come_all_at_once_with_real_numbers_where_log_batch_is_written():
    batches = []
    bound = check_backend(changed(log_batch=lambda self, rows: batches.append(rows)))
    assert bound.takes_batches
    bound.log_batch([{"step": 1, "time": NOW, "a": "Infinity"}, {"step": 2, "time": NOW, "a": 1}])
    assert batches == [
        [{"step": 1, "time": NOW, "a": math.inf}, {"step": 2, "time": NOW, "a": 1}],
    ]


def test_a_row_that_fails_leaves_those_before_it_logged():
    def log_metrics(self, metrics, step):
        if step == 2:
            raise ConnectionError("away")
        self.calls.append(step)

    bound = check_backend(changed(log_metrics=log_metrics))
    with pytest.raises(ConnectionError):
        bound.log_batch([{"step": step, "time": NOW, "loss": 1} for step in (1, 2, 3)])
    assert bound.backend.calls == [1]


def test_a_class_is_refused_and_told_to_be_called():
    assert message_of(Smallest) == (
        "Backend Smallest is a class. Pass an instance of it: Smallest(...)."
    )


def test_a_missing_method_is_named_with_the_signature_to_write():
    assert message_of(changed(log_model=None)) == (
        "Backend Changed: log_model is missing. "
        "Write it as: def log_model(self, model, path) (and, if wanted, name, metadata, step)."
    )


def test_a_signature_with_too_few_parameters_is_refused_with_both_sides():
    text = message_of(changed(log_metrics=lambda self, metrics: None))
    assert text == (
        "Backend Changed: log_metrics(metrics) cannot be called as log_metrics(metrics, step): "
        "too many positional arguments. "
        "Write it as: def log_metrics(self, metrics, step) (and, if wanted, timestamp, attempt)."
    )


def test_a_signature_that_requires_what_nobody_knows_is_refused():
    text = message_of(changed(log_metrics=lambda self, metrics, step, epoch: None))
    assert "log_metrics(metrics, step, epoch) cannot be called" in text
    assert "'epoch'" in text


def test_swapped_parameters_are_refused():
    text = message_of(changed(log_metrics=lambda self, step, metrics: None))
    assert "metrics and step would be given something else" in text


def test_parameters_by_keyword_alone_are_refused():
    def log_metrics(self, *, metrics, step): ...

    assert "log_metrics(*, metrics, step) cannot" in message_of(changed(log_metrics=log_metrics))


def test_a_coroutine_is_refused():
    async def log_metrics(self, metrics, step): ...

    assert "log_metrics is a coroutine" in message_of(changed(log_metrics=log_metrics))


def test_what_is_no_method_is_refused():
    assert "end_run is 3, not a method" in message_of(changed(end_run=3))


def test_a_method_that_is_not_required_is_checked_too():
    text = message_of(changed(log_batch=lambda self: None))
    assert "Write it as: def log_batch(self, rows)." in text


def test_all_that_is_wrong_is_said_at_once():
    text = message_of(changed(log_model=None, end_run=lambda self: None))
    assert "log_model is missing" in text
    assert "end_run() cannot be called as end_run(status)" in text


@pytest.mark.parametrize("thing", [None, "wandbb", object()])
def test_things_that_are_no_backends_are_refused_with_our_error(thing):
    assert "start_run is missing" in message_of(thing)


def test_methods_without_a_signature_get_the_plain_arguments():
    rows = {}
    bound = check_backend(changed(log_params=rows.update))
    bound.log_params({"lr": 0.1})
    assert rows == {"lr": 0.1}
