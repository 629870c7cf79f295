"""The suite that every backend must pass, ours and strangers'.

It calls a backend as the library does: with everything that is known, from a thread that is not
the constructor's, rows as the history holds them. Then it compares what arrived.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from experiment_tracking.backends.interface import check_backend
from experiment_tracking.backends.kept_files import known_of_model, newest_save
from experiment_tracking.folder.history import Row, metric_values
from experiment_tracking.folder.values import shown_name

PARTS = frozenset(
    ("params", "rows", "times", "figures", "artifacts", "models", "tags", "removed tags", "status")
)
"""What a backend may keep of a run."""

_NOW = 1763640000.5
_PATIENCE_S = 120.0
_SHOWN = 3
_PARAMS = {
    "lr": 0.1, "model": {"depth": 3, "act": {"name": "relu"}}, "widths": [8, 16], "on": True,
    "seed": None, "words": "a few words",
}  # fmt: skip
_ODD_NAMES = (
    "val/loss", "a b", "β", "acc@5", "lr (group 0)", "x=1", "100%", "metric:time", "metric:step",
    "Ünï/cödé-1.5",
)  # fmt: skip
_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c6368000000820081"
    "77cd72b60000000049454e44ae426082"
)
"""One grey pixel."""

Point = tuple[Any, ...]
"""Step, metric, value and, where times are kept, the time in Unix seconds."""


class Copy(NamedTuple):
    """What arrived of one run; a part that the backend does not keep is None."""

    params: Mapping[str, Any] | None = None
    """Nested or under dotted names; each value as given, or its ``str`` or JSON."""
    rows: Iterable[Point] | None = None
    """``(step, metric, value)`` or ``(step, metric, value, time)`` for every value."""
    figures: Mapping[str, bytes] | None = None
    """Content by the name that was logged."""
    artifacts: Mapping[str, bytes] | None = None
    """Content by the name that was logged; ``name/file`` for the files of a folder."""
    models: Mapping[str, Mapping[str, bytes]] | None = None
    """Content of each file of a model, by the model's name."""
    tags: Mapping[str, str] | None = None
    status: Any = None
    """As :meth:`BackendTests.stored_status` gives it."""


class GivenRun(NamedTuple):
    """A run that a test copies."""

    name: str
    project: str
    id: str
    path: Path
    """Its folder; figures are in ``figures/<name>.png``, artifacts in ``artifacts/<name>``, the
    files of a model in ``models/<name>/``."""
    state: dict[str, Any]
    """What the backend put into the ``state`` of ``start_run``."""


class BackendTests:
    """Tests that every backend must pass; a subclass tells how to make one and what arrived.

    Derive a class whose name begins with ``Test`` and write :meth:`make_backend` and
    :meth:`read`; pytest finds it, with no fixture but its own ``tmp_path``. What a backend does
    not do, a class attribute says, and the test is shown as skipped. Nothing else is passed
    over: a part that arrives although :attr:`keeps` lacks it is a failure, too.

    Examples
    --------
    A backend with a file for each run, and the whole of its test module:

    >>> import json
    >>> from pathlib import Path
    >>> from experiment_tracking.backends import BackendInterface
    >>> from experiment_tracking.testing import BackendTests, Copy

    >>> class JsonBackend(BackendInterface):
    ...     def __init__(self, folder):
    ...         self.folder = Path(folder)
    ...
    ...     def start_run(self, run_name, config, run_id):
    ...         self.file = self.folder / f"{run_id}.json"
    ...         if self.file.exists():
    ...             self.kept = json.loads(self.file.read_text())
    ...         else:
    ...             self.kept = {"params": {}, "rows": [], "status": "running"}
    ...         self.log_params(config)
    ...         return len(self.kept["rows"])
    ...
    ...     def log_params(self, params):
    ...         self.kept["params"].update(params)
    ...         self.save()
    ...
    ...     def log_metrics(self, metrics, step, timestamp):
    ...         self.kept["rows"].append([step, timestamp, metrics])
    ...         self.save()
    ...
    ...     def log_model(self, model, path):
    ...         pass
    ...
    ...     def end_run(self, status):
    ...         self.kept["status"] = status
    ...         self.save()
    ...
    ...     def save(self):
    ...         self.file.write_text(json.dumps(self.kept))

    >>> class TestJsonBackend(BackendTests):
    ...     keeps = frozenset({"params", "rows", "times", "status"})
    ...     many_rows = 250  # each is a file written anew
    ...
    ...     def make_backend(self, folder):
    ...         return JsonBackend(folder)
    ...
    ...     def read(self, backend, folder):
    ...         kept = json.loads((folder / f"{self.run.id}.json").read_text())
    ...         rows = [
    ...             (step, name, value, time)
    ...             for step, time, metrics in kept["rows"]
    ...             for name, value in metrics.items()
    ...         ]
    ...         return Copy(kept["params"], rows, status=kept["status"])
    """

    keeps: frozenset[str] = PARTS
    """The parts of a run that arrive: of ``params``, ``rows``, ``times`` (of rows), ``figures``,
    ``artifacts``, ``models``, ``tags``, ``removed tags`` and ``status``."""

    continues: bool = True
    """Whether an instance made anew goes on with the copy of a run that another one began."""

    several_runs: bool = True
    """Whether two instances can copy a run each at the same time."""

    many_rows: int = 2_500
    """Rows of the largest test."""

    time_resolution_s: float = 0.001
    """By how much a row's time may differ."""

    run: GivenRun
    """The run that :meth:`read` is asked about."""

    def make_backend(self, folder: Path) -> Any:
        """Make a backend that keeps everything in ``folder``, or in a service of yours.

        Called twice with the same folder it must give two instances that share what they keep.
        """
        raise NotImplementedError("Write make_backend(self, folder): it returns the backend.")

    def read(self, backend: Any, folder: Path) -> Copy:
        """Tell what arrived of ``self.run``, which ``backend`` copied and has closed."""
        raise NotImplementedError("Write read(self, backend, folder): it returns a Copy.")

    def make_unreachable(self, folder: Path) -> Any:
        """Make a backend whose service does not answer; None if that cannot be."""
        return None

    def stored_name(self, name: str) -> str:
        """Tell under which name a metric arrives; by default its own."""
        return name

    def stored_value(self, value: float) -> float:
        """Tell as what a value arrives, in another precision for one; by default as itself."""
        return value

    def stored_status(self, status: str) -> Any:
        """Tell as what an end arrives: ``finished``, ``failed``, ``killed`` or ``crashed``."""
        return status

    # ------------------------------------------------------------------ values

    def test_it_can_be_called_as_the_library_calls_it(self, tmp_path: Path) -> None:
        """Its methods have signatures that fit."""
        check_backend(self.make_backend(tmp_path))

    def test_params_arrive_nested_and_late_ones_too(self, tmp_path: Path) -> None:
        """Those of the start and those that are logged before the first row."""
        self._need("params")
        session = self._begin(tmp_path, config=_PARAMS)
        session.call("log_params", {"late": 1})
        session.log([_row(0, loss=1.0)])
        session.end()
        found = _flat(self._copy_of(session).params or {})
        expected = _flat(_PARAMS | {"late": 1})
        _agree("params", expected.keys(), found.keys())
        wrong = {name: found[name] for name in found if not _same(expected[name], found[name])}
        _insist(not wrong, f"params arrived as {wrong!r}, logged were {expected!r}")

    def test_many_rows_arrive_each_once(self, tmp_path: Path) -> None:
        """In batches of several sizes."""
        rows = [_row(step, loss=1 / (step + 1), acc=step) for step in range(self.many_rows)]
        sizes = (1, 2, 997, self.many_rows)
        session = self._begin(tmp_path)
        for size in sizes:
            given = session.given
            session.log(rows[given : given + size])
        session.end()
        self._check_rows(session, rows)

    def test_a_single_row_arrives(self, tmp_path: Path) -> None:
        """By ``log_metrics``, which is there beside ``log_batch``."""
        session = self._begin(tmp_path)
        session.call("log_metrics", {"loss": 0.5, "time": 3.0}, 7, timestamp=_NOW + 7, attempt=1)
        session.end()
        self._check_rows(session, [_row(7, loss=0.5, **{"metric:time": 3.0})])

    def test_nan_and_the_infinities_arrive(self, tmp_path: Path) -> None:
        """Among numbers, and in whole rows."""
        values = ("NaN", "Infinity", "-Infinity", 1.5)
        rows = [_row(step, loss=value, acc=step) for step, value in enumerate(values)]
        rows += [_row(4, loss="NaN"), _row(5, loss=2)]
        self._check_rows(self._copied(tmp_path, rows), rows)

    def test_steps_that_repeat_or_go_back_arrive(self, tmp_path: Path) -> None:
        """No row is dropped for its place."""
        steps = (5, 5, 6, 3, 1_000, 4, 0, 2**40)
        rows = [_row(step, after_s=n, loss=n / 8) for n, step in enumerate(steps)]
        rows.append(_row(5, after_s=99, acc=0.5))
        self._check_rows(self._copied(tmp_path, rows), rows)

    def test_numbers_of_every_size_arrive(self, tmp_path: Path) -> None:
        """Integers and floats of any magnitude, as near as the backend says."""
        values = (0, -1, 2**53, 1e-300, -1e300, 0.1, 1 / 3)
        rows = [_row(step, loss=value) for step, value in enumerate(values)]
        self._check_rows(self._copied(tmp_path, rows), rows)

    def test_metrics_of_odd_names_arrive(self, tmp_path: Path) -> None:
        """Under the names that the backend says, and no two under one."""
        rows = [_row(n, **{name: n, "loss": 0.5}) for n, name in enumerate(_ODD_NAMES)]
        self._check_rows(self._copied(tmp_path, rows), rows)

    # ------------------------------------------------------------------ files and words

    def test_figures_arrive(self, tmp_path: Path) -> None:
        """With a step and without."""
        self._need("figures")
        session = self._begin(tmp_path)
        for name, step in (("confusion", 3), ("val/worst case", None)):
            path = _write(session.run.path / f"figures/{name}.png", _PNG)
            session.call("log_figure", path, name, step, timestamp=_NOW)
        session.end()
        figures = self._copy_of(session).figures or {}
        _agree("figures", {"confusion": _PNG, "val/worst case": _PNG}.items(), figures.items())

    def test_artifacts_arrive_files_and_folders(self, tmp_path: Path) -> None:
        """Byte by byte, and a file that was logged again as it is last."""
        self._need("artifacts")
        session = self._begin(tmp_path)
        files = {
            "notes.txt": b"old",
            "data/a.csv": b"a,b\n1,2\n",
            "data/in/b.bin": bytes(range(256)),
        }
        for name, content in files.items():
            _write(session.run.path / f"artifacts/{name}", content)
        known = {"artifact_type": "artifact", "description": "made by hand", "step": 1}
        for name in ("notes.txt", "data", "notes.txt"):
            session.call("log_artifact", session.run.path / f"artifacts/{name}", name, **known)
            _write(session.run.path / "artifacts/notes.txt", b"new")
        session.end()
        artifacts = self._copy_of(session).artifacts or {}
        _agree("artifacts", (files | {"notes.txt": b"new"}).items(), artifacts.items())

    def test_models_arrive_with_all_their_files(self, tmp_path: Path) -> None:
        """The last of those saved under one name."""
        self._need("models")
        session = self._begin(tmp_path)
        path = session.run.path / "models/net"
        for number in (1, 2):
            _save_model(path, number)
            with newest_save(str(path), str(session.run.path / "given")) as (alone, document):
                files = {file.name: file.read_bytes() for file in alone.iterdir()}
                known = {"name": "net", **known_of_model(document)}
                session.call("log_model", _SavedModel(alone), alone, **known)
        session.end()
        models = self._copy_of(session).models or {}
        _agree("models", ["net"], models)
        _agree("files of the model", files.items(), models["net"].items())

    def test_tags_arrive_and_change(self, tmp_path: Path) -> None:
        """Those of the start, those set later, and words without a text."""
        self._need("tags")
        session = self._begin(tmp_path, tags={"sweep": "a", "first": ""})
        known = {"removed": [], "notes": "by hand"}
        session.call("set_tags", {"sweep": "b", "stage": "late"}, **known)
        session.end()
        expected = {"sweep": "b", "stage": "late", "first": ""}
        _agree("tags", expected.items(), (self._copy_of(session).tags or {}).items())

    def test_removed_tags_go(self, tmp_path: Path) -> None:
        """And the others stay."""
        self._need("removed tags")
        session = self._begin(tmp_path, tags={"sweep": "a", "first": ""})
        session.call("set_tags", {}, removed=["first"], notes="")
        session.end()
        _agree("tags", [("sweep", "a")], (self._copy_of(session).tags or {}).items())

    # ------------------------------------------------------------------ ends

    def test_each_way_to_end_arrives(self, tmp_path: Path) -> None:
        """With rows and params, a run each."""
        self._need("status")
        error = {"type": "ValueError", "message": "bad luck"}
        for status in ("finished", "failed", "killed", "crashed"):
            session = self._begin(tmp_path, name=status, config={"lr": 0.1})
            session.log([_row(0, loss=1.0)])
            session.end(status, error if status == "failed" else None)
            found = self._copy_of(session).status
            expected = self.stored_status(status)
            _insist(found == expected, f"the status is {found!r}, expected was {expected!r}")

    def test_a_run_without_rows_ends(self, tmp_path: Path) -> None:
        """And has none."""
        session = self._begin(tmp_path, config={"lr": 0.1})
        session.end("failed")
        self._check_rows(session, [])

    def test_closing_twice_harms_nothing(self, tmp_path: Path) -> None:
        """Neither behind the end nor without a start."""
        rows = [_row(0, loss=1.0)]
        session = self._begin(tmp_path)
        session.log(rows)
        session.end(closes=2)
        self._check_rows(session, rows)
        unused = check_backend(self.make_backend(tmp_path))
        unused.close()
        unused.close()

    # ------------------------------------------------------------------ several runs

    def test_one_instance_copies_one_run_after_another(self, tmp_path: Path) -> None:
        """As one that is given to a tracker does."""
        backend = self.make_backend(tmp_path)
        copied = [
            (self._copied(tmp_path, rows, name=name, backend=backend), rows)
            for name, rows in _rows_of_two_runs()
        ]
        for session, rows in copied:
            self._check_rows(session, rows)

    def test_runs_copied_at_the_same_time_are_not_mixed(self, tmp_path: Path) -> None:
        """Each by an instance of its own."""
        if not self.several_runs:
            _skip("several_runs is False: it copies one run at a time")
        both = [(self._begin(tmp_path, name=name), rows) for name, rows in _rows_of_two_runs()]
        for session, rows in both:
            session.log(rows[:5])
        for session, rows in both:
            session.log(rows[5:])
        for session, _ in both:
            session.end()
        for session, rows in both:
            self._check_rows(session, rows)

    # ------------------------------------------------------------------ going on

    def test_an_instance_made_anew_goes_on(self, tmp_path: Path) -> None:
        """With the kept state, behind the rows that were given."""
        self._check_going_on(tmp_path, again=0)

    def test_rows_that_are_sent_again_change_nothing(self, tmp_path: Path) -> None:
        """A batch that arrived, of which nobody knows that it did."""
        self._check_going_on(tmp_path, again=50)

    def test_a_further_attempt_adds_its_rows(self, tmp_path: Path) -> None:
        """Those of lower steps as well, and after an end."""
        self._need_to_continue()
        first = [_row(step, loss=step) for step in range(20)]
        later = [_row(step, after_s=100, loss=-step, attempt=2) for step in range(15, 25)]
        session = self._copied(tmp_path, first, status="failed")
        session = self._gone_on(session, tmp_path, 20, first + later, attempt=2)
        self._check_rows(session, first + later)

    def _check_going_on(self, folder: Path, again: int) -> None:
        self._need_to_continue()
        rows = [_row(step, loss=1 / (step + 1), acc=step) for step in range(200)]
        session = self._begin(folder)
        session.log(rows[:50])
        session.log(rows[50:100])
        session.close()
        self._check_rows(self._gone_on(session, folder, 100 - again, rows), rows)

    def _gone_on(
        self, earlier: _Session, folder: Path, given: int, rows: Sequence[Row], attempt: int = 1
    ) -> _Session:
        """Go on as the library does: with the state as JSON gives it back."""
        kept = json.loads(json.dumps(earlier.run.state))
        run = earlier.run._replace(state=kept)
        session = _Session(self.make_backend(folder), run)
        arrived = session.start({}, {}, rows=given, attempt=attempt)
        session.log(rows[arrived if type(arrived) is int else given :])
        session.end()
        return session

    # ------------------------------------------------------------------ being made, being away

    def test_its_options_make_it_anew(self, tmp_path: Path) -> None:
        """In another process, which knows nothing but them."""
        backend = self.make_backend(tmp_path)
        if getattr(backend, "options", None) is None:
            _skip("it has no options: it stays in the process that made it")
        name = getattr(backend, "name", "")
        _insist(bool(name), "it has options but no name, by which another process could make it")
        options = json.loads(json.dumps(dict(backend.options)))
        _insist(options == dict(backend.options), f"options change in JSON: {options!r}")
        made = type(backend)(**options)
        _insist(dict(made.options) == options, f"made anew, it has the options {made.options!r}")
        rows = [_row(0, loss=1.0)]
        self._check_rows(self._copied(tmp_path, rows, backend=made), rows)

    def test_a_service_that_is_away_is_told_by_an_oserror(self, tmp_path: Path) -> None:
        """So that the calls are made again, in place of being left out."""
        backend = self.make_unreachable(tmp_path)
        if backend is None:
            _skip("make_unreachable gives none: it has no service that could be away")
        try:
            session = self._begin(tmp_path, backend=backend)
            session.log([_row(0, loss=1.0)])
            session.end()
        except OSError:
            return
        except Exception as error:
            raise AssertionError(f"raised was {error!r}, expected was an OSError") from error
        raise AssertionError("no call raised, although the service is away")

    # ------------------------------------------------------------------ what they share

    def _begin(
        self,
        folder: Path,
        name: str = "exp7",
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        backend: Any = None,
    ) -> _Session:
        path = folder / "experiments" / "suite" / name
        path.mkdir(parents=True, exist_ok=True)
        run = GivenRun(name, "suite", f"{name:0<16}", path, {})
        session = _Session(backend or self.make_backend(folder), run)
        session.start(config or {}, tags or {})
        return session

    def _copied(
        self,
        folder: Path,
        rows: Sequence[Row],
        name: str = "exp7",
        status: str = "finished",
        backend: Any = None,
    ) -> _Session:
        session = self._begin(folder, name, backend=backend)
        session.log(rows)
        session.end(status)
        return session

    def _copy_of(self, session: _Session) -> Copy:
        self.run = session.run
        # Beside the run's folder, at the top of what make_backend was given.
        copy = self.read(session.backend, session.run.path.parents[2])
        for part in Copy._fields:
            arrived = getattr(copy, part) is not None
            _insist(arrived or part not in self.keeps, f"keeps has {part!r}, read() gave None")
            _insist(not arrived or part in self.keeps, f"{part} arrived; name them in keeps")
        return copy

    def _check_rows(self, session: _Session, rows: Sequence[Row]) -> None:
        copy = self._copy_of(session)
        if "rows" not in self.keeps:
            _skip("declared: it keeps no rows")
        found = sorted(copy.rows or (), key=_order)
        expected = sorted(self._points_of(rows), key=_order)
        _agree("rows", map(_without_time, expected), map(_without_time, found))
        if "times" in self.keeps:
            for one, other in zip(expected, found, strict=True):
                near = len(other) > 3 and abs(one[3] - other[3]) <= self.time_resolution_s
                _insist(near, f"arrived was {other!r}, expected with its time {one!r}")

    def _points_of(self, rows: Sequence[Row]) -> list[Point]:
        return [
            (row["step"], self.stored_name(shown_name(name)), self.stored_value(value), row["time"])
            for row in rows
            for name, value in metric_values(row).items()
        ]

    def _need(self, part: str) -> None:
        if part not in self.keeps:
            _skip(f"declared: it keeps no {part}")

    def _need_to_continue(self) -> None:
        if not self.continues:
            _skip("continues is False: a further process would begin a further copy")


class _Session:
    """One copy of one run, all calls from a thread of its own."""

    def __init__(self, backend: Any, run: GivenRun) -> None:
        self.backend = backend
        self.run = run
        self.given = 0
        self._bound = check_backend(backend)
        self._thread = ThreadPoolExecutor(1)

    def call(self, method: str, *plain: Any, **known: Any) -> Any:
        return self._thread.submit(self._bound.call, method, *plain, **known).result(_PATIENCE_S)

    def start(
        self, config: Mapping[str, Any], tags: Mapping[str, str], rows: int = 0, attempt: int = 1
    ) -> Any:
        self.given = rows
        return self.call(
            "start_run", self.run.name, dict(config), project=self.run.project, run_id=self.run.id,
            path=str(self.run.path), tags=dict(tags), group=None, notes="", parent=None,
            created_at="2025-11-20T12:00:00.500Z", attempt=attempt, rows=rows,
            state=self.run.state,
        )  # fmt: skip

    def log(self, rows: Sequence[Row]) -> None:
        self.call("log_batch", [dict(row) for row in rows])
        self.given += len(rows)

    def end(
        self,
        status: str = "finished",
        error: Mapping[str, str] | None = None,
        closes: int = 1,
    ) -> None:
        known = {"ended_at": "2025-11-20T13:00:00.000Z", "error": error}
        self.call("end_run", status, summary={"loss": {"last": 1.0, "last_step": 0}}, **known)
        self.close(closes)

    def close(self, times: int = 1) -> None:
        for _ in range(times):
            self.call("close")
        self._thread.shutdown()


class _SavedModel:
    """A handle on the files of a model, as backends get it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Any:
        raise NotImplementedError("The suite's model is bytes alone; copy the files at .path.")


def _save_model(path: Path, number: int) -> None:
    """Save a model as a run does, which keeps the save before."""
    names = [f"weights-{n:06d}.safetensors" for n in (number, number - 1)]
    saves = [_saved(name, step) for name, step in zip(names, (number, number - 1), strict=True)]
    _write(path / names[0], bytes([number]) * 64)
    document = saves[0] | {"earlier": saves[1:] if number > 1 else []}
    _write(path / "model.json", json.dumps(document).encode())


def _saved(name: str, step: int) -> dict[str, Any]:
    weights = {"file": name, "format": "safetensors", "size_bytes": 64}
    files = {"weights": weights}
    return {"format": 1, "name": "net", "step": step, "metadata": {"acc": 0.5}, "files": files}


def _row(step: int, after_s: float | None = None, **metrics: Any) -> Row:
    """Make a row as the history holds it."""
    return {"step": step, "time": _NOW + (step % 1_000 if after_s is None else after_s), **metrics}


def _rows_of_two_runs() -> list[tuple[str, list[Row]]]:
    return [(name, [_row(step, loss=step + n) for step in range(10)])
            for n, name in enumerate(("one", "two"))]  # fmt: skip


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _same(given: Any, arrived: Any) -> bool:
    return arrived == given or arrived in (str(given), json.dumps(given))


def _order(point: Point) -> tuple[Any, ...]:
    step, name, value, *at = point
    return step, name, repr(float(value)), at


def _without_time(point: Point) -> tuple[Any, ...]:
    return _order(point)[:3]


def _agree(what: str, expected: Iterable[Any], found: Iterable[Any]) -> None:
    """Insist that both hold the same, as often, in any order."""
    one, other = Counter(list(expected)), Counter(list(found))
    missing, extra = list((one - other).elements()), list((other - one).elements())
    _insist(
        not missing and not extra,
        f"{what}: {len(missing)} of {one.total()} are missing {missing[:_SHOWN]}, {len(extra)} "
        f"should not be there {extra[:_SHOWN]}",
    )


def _insist(holds: bool, otherwise: str) -> None:
    # No assert statement: pytest rewrites none here, and ``python -O`` would leave it out.
    if not holds:
        raise AssertionError(otherwise)


def _skip(reason: str) -> None:
    import pytest

    pytest.skip(reason)
