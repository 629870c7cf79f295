"""A run: what a training loop logs to, turned into the files of one folder."""

import contextlib
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from math import fsum
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import orjson

from experiment_tracking import endings
from experiment_tracking.errors import (
    InvalidNameError,
    InvalidTypeError,
    InvalidValueError,
    RunEndedError,
)
from experiment_tracking.folder import io, layout, values
from experiment_tracking.folder.documents import encode
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.joining import JoinedWriter, SilentWriter
from experiment_tracking.notices import notice
from experiment_tracking.writing import Identity, RunWriter, Settings, export_to_children, sha256

AnyWriter = RunWriter | JoinedWriter

_STATUS_WORDS = {
    "finished": "finished", "completed": "finished", "complete": "finished", "success": "finished",
    "succeeded": "finished", "ok": "finished", "done": "finished",
    "failed": "failed", "fail": "failed", "error": "failed", "crashed": "failed",
    "killed": "killed", "interrupted": "killed", "cancelled": "killed", "canceled": "killed",
}  # fmt: skip

_GOAL_WORDS = {
    "minimize": "minimize", "minimise": "minimize", "min": "minimize",
    "maximize": "maximize", "maximise": "maximize", "max": "maximize",
}  # fmt: skip

_NUMBERS = frozenset((int, float))


class PhysicsMetrics(Protocol):
    """What ``log_physics_metrics`` takes: the dataclasses of ``experiment_tracking.scientific``."""

    def to_dict(self, prefix: str | None = None) -> Mapping[str, Any]:
        """Return flat, prefixed names and values."""


class Logs(ABC):
    """The ``log_`` methods, as a run and a tracker both offer them."""

    @abstractmethod
    def _run(self) -> "Run":
        """Return the run that is logged to."""

    def log_param(self, name: str, value: Any) -> None:
        """Keep one hyperparameter; see :meth:`log_params`."""
        self.log_params({name: value})

    def log_params(self, params: Any) -> None:
        """Keep hyperparameters, nested as given.

        Parameters
        ----------
        params
            A mapping, dataclass (:class:`~experiment_tracking.ExperimentConfig`), ``Namespace``
            of argparse, or anything with ``to_dict()``. Paths, enums, dtypes, callables, sets and
            scalars of array packages take a plain form; arrays become shape and dtype.

        Raises
        ------
        InvalidValueError, InvalidNameError
            For containers that hold themselves or are nested deeper than 50, and for names
            that are not text. Nothing is kept then.

        Notes
        -----
        Replaces ``params.json`` before it returns (0.15 ms). A name that had another value is
        replaced, and the old value goes to ``amendments/``.
        """
        self._run()._log_params(params)

    def log_metric(self, name: str, value: Any, step: int | None = None) -> None:
        """Log one number; see :meth:`log_metrics`."""
        self.log_metrics({name: value}, step)

    def log_metrics(
        self, metrics: Mapping[str, Any], step: int | None = None, timestamp: float | None = None
    ) -> None:
        """Log one row of numbers.

        When this returns, the row survives the death of the process. About 2 µs.

        Parameters
        ----------
        metrics
            Names to numbers: Python, numpy, torch or jax scalars of shape ``()`` or ``(1,)``.
            NaN and infinities are kept. ``/`` in a name groups.
        step
            Any whole number; may repeat or go back. By default the last step + 1, or the entry
            ``step`` of ``metrics``.
        timestamp
            Unix seconds, by default now.

        Raises
        ------
        InvalidTypeError, InvalidValueError, InvalidNameError
            For what is no number, no whole step, no name, or milliseconds.
        RunEndedError
            After the end of the run.
        """
        self._run().log_metrics(metrics, step, timestamp)

    def log_physics_metrics(
        self, metrics: PhysicsMetrics, step: int | None = None, prefix: str | None = None
    ) -> None:
        """Log one of the physics dataclasses as a row with names such as ``pinn/pde_residual``.

        ``prefix="val"`` puts ``val/`` in the place of the domain's own prefix.
        """
        if not hasattr(metrics, "to_dict"):
            raise InvalidTypeError(
                f"log_physics_metrics takes PINNMetrics, NeuralOperatorMetrics, L2OMetrics or "
                f"NeuralDFTMetrics, found {type(metrics).__name__}. Log a mapping with log_metrics."
            )
        self._run().log_metrics(metrics.to_dict(prefix), step)

    def log_model(
        self,
        model: Any,
        artifact_path: str = "model",
        metadata: Mapping[str, Any] | None = None,
        save_optimizer_state: bool = False,
        *,
        step: int | None = None,
    ) -> Path:
        """Keep weights: a mapping or nested tree of arrays, such as a ``state_dict()``.

        Parameters
        ----------
        model
            Mappings, lists and tuples of numpy, torch or jax arrays and plain values.
        artifact_path
            Name of the model in the run; saved again, it replaces the former.
        metadata
            Plain values kept beside it.
        save_optimizer_state
            Not available for trees: put the optimizer's state into the tree.

        Raises
        ------
        InvalidTypeError
            For live models of a framework, which this version does not save.

        Notes
        -----
        Writes ``models/<artifact_path>/weights-000001.safetensors``, then ``model.json``, which
        names it with size and sha256 and is what readers go by. No pickle anywhere.
        """
        return self._run()._log_model(model, artifact_path, metadata, save_optimizer_state, step)

    def log_artifact(
        self,
        path: str | os.PathLike[str],
        artifact_type: str | None = None,
        description: str | None = None,
        *,
        name: str | None = None,
        step: int | None = None,
    ) -> Path:
        """Copy a file or a folder into ``artifacts/`` with its sha256; return where it is.

        Parameters
        ----------
        path
            File or folder. Links inside a folder are followed only within that folder.
        artifact_type, description
            Free text, listed in ``artifacts.json``.
        name
            Path below ``artifacts/``, by default the file's own name. Logged again under the
            same name, a file is replaced.
        """
        return self._run()._log_artifact(path, artifact_type, description, name, step)

    def log_figure(self, figure: Any, name: str, step: int | None = None) -> Path:
        """Keep a figure in ``figures/``: matplotlib or anything with ``savefig`` as PNG, Plotly
        as HTML. With a step the name carries it; ``/`` in the name makes folders.
        """  # noqa: D205
        from experiment_tracking.formats.figures import encode_figure

        data, suffix = encode_figure(figure)
        return self._run()._save_picture(data, suffix, "figure", name, step)

    def log_image(self, image: Any, name: str, step: int | None = None) -> Path:
        """Keep an image in ``figures/`` as PNG.

        Takes Pillow images and arrays of shape (H, W), (H, W, 1|3|4) or (1|3|4, H, W): uint8,
        or floats within 0 and 1.
        """
        from experiment_tracking.formats.images import encode_image

        data, suffix = encode_image(image)
        return self._run()._save_picture(data, suffix, "image", name, step)

    def log_table(self, table: Any, name: str, step: int | None = None) -> Path:
        """Keep a table in ``artifacts/``: a DataFrame, a sequence of mappings or a mapping of
        columns. CSV, or JSON where the name ends in ``.json``.
        """  # noqa: D205
        from experiment_tracking.formats.tables import encode_table

        stem, kind = (name[:-5], "json") if name.endswith(".json") else (name, "csv")
        stem = stem.removesuffix(".csv")
        data, suffix = encode_table(table, "json" if kind == "json" else "csv")
        return self._run()._save_value(data, suffix, "table", stem, step)

    def log_text(self, text: str, name: str, step: int | None = None) -> Path:
        """Keep a text in ``artifacts/`` as UTF-8; it shows in TensorBoard as well."""
        if not isinstance(text, str):
            raise InvalidTypeError(f"log_text takes text, found {type(text).__name__}.")
        stem, dot, suffix = name.rpartition(".")
        stem, ending = (stem, dot + suffix) if dot and "/" not in suffix else (name, ".txt")
        data = text.encode("utf-8", "backslashreplace")
        path = self._run()._save_value(data, ending, "text", stem, step)
        self._run()._writer.to_tensorboard("log_text", text, name, step)
        return path

    def log_dict(self, value: Mapping[str, Any], name: str, step: int | None = None) -> Path:
        """Keep a mapping in ``artifacts/`` as JSON; values take the plain forms of params."""
        data = encode(values.to_plain(value, name))
        return self._run()._save_value(data, ".json", "dict", name.removesuffix(".json"), step)

    def log_histogram(
        self, data: Any, name: str, step: int | None = None, *, bins: int = 64
    ) -> Path:
        """Keep the distribution of an array's values: counts and edges as JSON in
        ``artifacts/``, and a histogram in TensorBoard.
        """  # noqa: D205
        from experiment_tracking.formats.histograms import encode_histogram

        histogram = encode_histogram(data, bins)
        run = self._run()
        path = run._save_value(encode(histogram), ".json", "histogram", name, step)
        run._writer.to_tensorboard("log_histogram", histogram, name, step)
        return path

    def set_tags(self, tags: Mapping[str, Any] | Iterable[str] | str) -> None:
        """Set tags: a mapping of text to text, or words. Other tags stay.

        Replaces ``summary.json`` before it returns (0.15 ms).
        """
        self._run()._set_tags(to_tags(tags))

    def remove_tags(self, *names: str) -> None:
        """Remove tags; those that are not there are passed over."""
        self._run()._remove_tags(names)

    def define_metric(self, name: str, goal: str | None = None) -> None:
        """Say whether less (``"minimize"``) or more (``"maximize"``) of a metric is better.

        None takes away the goal that the metric's name would suggest.
        """
        word = _GOAL_WORDS.get(goal.lower()) if isinstance(goal, str) else None
        if goal is not None and word is None:
            raise InvalidValueError(
                f"Metric {name!r}: goal must be 'minimize', 'maximize' or None, found {goal!r}."
            )
        self._run()._define_metric(values.stored_name(values.check_metric_name(name)), word)


class Run(Logs):
    """One run while it is written; made by ``ExperimentTracker.start_run``.

    A context manager: leaving the block ends the run, with the status that the way out says.
    """

    def __init__(self, writer: AnyWriter) -> None:
        self._writer = writer
        self._append = writer.append if not hasattr(writer, "history") else writer.history.append
        self._known_names: set[str] = set()

    def _run(self) -> "Run":
        return self

    def __repr__(self) -> str:
        return f"<Run {self.project}/{self.name} {self.status}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._writer.ended:
            self._writer.close(*endings.ending_of(error))

    def __del__(self) -> None:
        writer = getattr(self, "_writer", None)
        if writer is not None and not writer.ended:
            writer.abandon()

    def __reduce__(self) -> tuple[Any, ...]:
        # A run in another process is a second writer of the same folder.
        return (join, (self._writer.folder.path,))

    # ------------------------------------------------------------------ who it is

    @property
    def path(self) -> Path:
        """Folder of the run, absolute."""
        return Path(self._writer.folder.path)

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits, unique and stable under renaming."""
        return str(self._writer.summary.value["id"])

    @property
    def name(self) -> str:
        """Name of the run, which is its folder's."""
        return self._writer.folder.name

    @property
    def project(self) -> str:
        """Name of the project."""
        return self._writer.folder.project

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``failed`` or ``killed``."""
        return str(self._writer.summary.value["status"])

    @property
    def params(self) -> dict[str, Any]:
        """A copy of the params, in the form they are kept in."""
        return self._writer.params.snapshot()

    @property
    def tags(self) -> dict[str, str]:
        """A copy of the tags."""
        return dict(self._writer.summary.value["tags"])

    @property
    def notes(self) -> str:
        """Free text about the run; assign to change it."""
        return str(self._writer.summary.value["notes"])

    @notes.setter
    def notes(self, text: str) -> None:
        self._check_open()
        with self._writer.changing(self._writer.summary) as summary:
            summary["notes"] = str(text)

    # ------------------------------------------------------------------ logging

    def log_metrics(
        self, metrics: Mapping[str, Any], step: int | None = None, timestamp: float | None = None
    ) -> None:
        """Log one row of numbers; see :meth:`Logs.log_metrics`."""
        # The way of nearly every call: known names, plain finite numbers. A few quick looks
        # stand in for checking each entry again; a finite sum has no NaN or infinity in it.
        if (
            type(metrics) is dict
            and metrics
            and self._known_names.issuperset(metrics)
            and _NUMBERS.issuperset(map(type, metrics.values()))
            and (step is None or type(step) is int)
            and timestamp is None
        ):
            try:
                total = fsum(metrics.values())
                if total - total == 0:
                    self._append(metrics, step, None)
                    return
            except (OverflowError, ValueError, TypeError):
                pass  # Infinities of both signs, or an integer beyond 64 bits: checked below.
        self._log_checked(metrics, step, timestamp)

    def _log_checked(self, metrics: Mapping[str, Any], step: Any, timestamp: float | None) -> None:
        row, own_step = values.to_row(metrics)
        if step is not None:
            step = values.to_step(step)
            if own_step is not None and own_step != step:
                raise InvalidValueError(
                    f"log_metrics got step={step} and an entry 'step' of {own_step}. Give one."
                )
        if timestamp is not None:
            timestamp = values.check_timestamp(timestamp)
        self._append(row, own_step if step is None else step, timestamp)
        if len(row) == len(metrics):
            self._learn_names(row)

    def _learn_names(self, row: Mapping[str, Any]) -> None:
        for name in row:
            shown = values.shown_name(name)
            if shown != name:
                notice(f"metric {shown!r} is stored as {name!r}; the name is a row's own key.")
            else:
                self._known_names.add(name)

    def _log_params(self, params: Any) -> None:
        self._check_open()
        plain = to_params(params)
        old = self._writer.params.value
        replaced = {n: old[n] for n, v in plain.items() if n in old and old[n] != v}
        for name, value in replaced.items():
            self._writer.amend("param", name, value, plain[name])
        with self._writer.changing(self._writer.params) as kept:
            kept.update(plain)
        self._writer.to_backends("log_params", plain)

    def _set_tags(self, tags: dict[str, str]) -> None:
        self._check_open()
        with self._writer.changing(self._writer.summary) as summary:
            summary["tags"] = {**summary["tags"], **tags}
        self._writer.to_backends("set_tags", tags)

    def _remove_tags(self, names: Iterable[str]) -> None:
        self._check_open()
        gone = set(names)
        with self._writer.changing(self._writer.summary) as summary:
            summary["tags"] = {k: v for k, v in summary["tags"].items() if k not in gone}

    def _define_metric(self, name: str, goal: str | None) -> None:
        self._check_open()
        self._writer.set_goal(name, goal)

    def _save_picture(
        self, data: bytes, suffix: str, kind: str, name: str, step: int | None
    ) -> Path:
        path = self._save(f"figures/{_file_name(name, suffix, step)}", data, kind, name, step)
        self._writer.to_tensorboard("log_figure", path, name, step)
        self._writer.to_backends("log_figure", path, name, step)
        return path

    def _save_value(self, data: bytes, suffix: str, kind: str, name: str, step: int | None) -> Path:
        path = self._save(f"artifacts/{_file_name(name, suffix, step)}", data, kind, name, step)
        self._writer.to_backends("log_artifact", path, name, artifact_type=kind)
        return path

    def _save(self, place: str, data: bytes, kind: str, name: str, step: int | None) -> Path:
        self._check_open()
        entry = {"path": place, "kind": kind, "name": name, "step": _optional_step(step)}
        return Path(self._writer.save_file(entry, data))

    def _log_artifact(
        self,
        path: str | os.PathLike[str],
        kind: str | None,
        description: str | None,
        name: str | None,
        step: int | None,
    ) -> Path:
        self._check_open()
        source = os.path.abspath(path)
        if not os.path.exists(source):
            raise InvalidValueError(f"log_artifact: there is no file or folder at {source}.")
        place = "/".join(["artifacts", *_parts(name or os.path.basename(source))])
        entry = {
            "path": place, "kind": kind or "artifact", "name": name or os.path.basename(source),
            "step": _optional_step(step), "description": description,
        }  # fmt: skip
        if os.path.isdir(source):
            for file in _files_below(source):
                inner = os.path.relpath(file, source).replace(os.sep, "/")
                self._writer.copy_file(entry | {"path": f"{place}/{inner}"}, file)
        else:
            self._writer.copy_file(entry, source)
        kept = self.path / place
        known = {"artifact_type": entry["kind"], "description": description}
        self._writer.to_backends("log_artifact", kept, entry["name"], **known)
        return kept

    def _log_model(
        self,
        model: Any,
        name: str,
        metadata: Mapping[str, Any] | None,
        save_optimizer_state: bool,
        step: int | None,
    ) -> Path:
        from experiment_tracking.formats.trees import describe_tree, encode_tree

        self._check_open()
        if save_optimizer_state:
            raise InvalidValueError(
                "save_optimizer_state needs a framework's model, which this version does not "
                "save. Pass one tree: {'model': ..., 'optimizer': ...}."
            )
        parts = _parts(name)
        blob, structure = encode_tree(model)
        plain_metadata = values.to_plain(dict(metadata or {}), "metadata")
        place = "/".join(["models", *parts])
        number = _next_number(self.path / place) if self._writer.folder.path else 1
        weights = f"weights-{number:06d}.safetensors"
        entry = {"kind": "model", "name": name, "step": _optional_step(step)}
        saved = self._writer.save_file(entry | {"path": f"{place}/{weights}"}, blob)
        if not saved:
            return Path(saved)
        io.fsync_file(saved)
        document = {
            "format": layout.FORMAT,
            "name": name,
            "kind": "tree",
            "weights": weights,
            "size_bytes": len(blob),
            "sha256": sha256(blob),
            "step": _optional_step(step),
            "metadata": plain_metadata,
            **describe_tree(structure),
            "structure": structure,
        }
        # model.json is the publication: readers go by what it names, so the older weights
        # may only go once it is replaced.
        path = self._writer.save_file(entry | {"path": f"{place}/model.json"}, encode(document))
        self._writer.remove_files(place, keep={weights, "model.json"})
        folder = Path(path).parent
        self._writer.to_backends("log_model", SavedModel(folder), folder, name=name,
                                 metadata=plain_metadata)  # fmt: skip
        return folder

    # ------------------------------------------------------------------ its end

    def end_run(self, status: str = "FINISHED") -> None:
        """End the run: FINISHED, FAILED or KILLED, in any case; ``completed``, ``success`` and
        ``error`` too.

        Raises
        ------
        RunEndedError
            If it has ended already.

        Notes
        -----
        Flushes rows and documents to the disk and writes the status last. At most 4 flushes
        and 20 ms, plus what followers owe, at most 10 s.
        """  # noqa: D205
        self._check_open()
        self._writer.close(to_status(status))

    def _check_open(self) -> None:
        if self._writer.ended:
            raise RunEndedError(
                f"Run {self.name!r} has ended ({self.status}); nothing more can be logged to it. "
                "Start a new run, or resume this one with resume='must'."
            )

    def continue_in_child(self) -> None:
        """Become a second writer in a forked child; the files of the parent are let go."""
        parent = self._writer
        if parent.ended and not isinstance(parent, SilentWriter):
            return
        parent.continue_in_child()
        if isinstance(parent, SilentWriter):
            return
        with contextlib.suppress(OSError, ValueError):
            writer = JoinedWriter(parent.folder, f"p{os.getpid()}")
            self._writer = writer
            self._append = writer.append
            endings.opened(writer, self)


class SavedModel:
    """A handle on the saved files of a model, as backends get it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        """Folder with ``model.json``."""

    def load(self) -> Any:
        """Read the weights back as the tree they were, arrays as numpy."""
        from experiment_tracking.formats.saved import load_tree

        return load_tree(self.path)


def open_run(
    root: str,
    project: str,
    name: str | None,
    identity: Identity,
    settings: Settings,
) -> Run:
    """Make a new folder and open its run."""
    if name is not None and endings.interactive():
        _finish_earlier(project, name)
    folder = layout.allocate(root, project, name)
    writer = RunWriter.create(folder, identity, settings)
    writer.requested_name = name or folder.name
    return _opened(writer)


def resume_run(folder: RunFolder, identity: Identity, settings: Settings, *, force: bool) -> Run:
    """Open a further attempt of a run."""
    run = _opened(RunWriter.resume(folder, identity._replace(params={}), settings, force=force))
    if identity.params:
        run._log_params(identity.params)
    return run


def _opened(writer: RunWriter) -> Run:
    run = Run(writer)
    endings.opened(writer, run)
    export_to_children()
    notice(f"run {run.project}/{run.name} in {writer.folder.path}")
    return run


def _finish_earlier(project: str, name: str) -> None:
    """In a notebook, the same cell run again means the earlier run is over."""
    for writer in endings.open_writers():
        if (
            isinstance(writer, RunWriter)
            and (writer.folder.project, writer.requested_name) == (project, name)
            and writer.thread == threading.get_ident()
        ):
            writer.close(*endings.present_ending(writer))
            notice(f"run {project}/{writer.folder.name} was still open; it has been finished.")


def join(path: str, rank: str | None = None) -> Run:
    """Open a second writer of the run in ``path``: this process's own file of rows."""
    for writer in endings.open_writers():
        if isinstance(writer, RunWriter) and writer.folder.path == path:
            return Run(writer)
    run = Run(JoinedWriter(RunFolder(path), rank or f"p{os.getpid()}"))
    endings.opened(run._writer, run)
    return run


def silent_run(root: str, project: str, name: str | None) -> Run:
    """Open a secondary rank's run, which writes nothing."""
    folder = RunFolder(os.path.join(root, project, name or time.strftime("%Y%m%d-%H%M%S")))
    return Run(SilentWriter(folder))


def to_status(status: object) -> str:
    """Turn a word for how a run ended into ours; an unknown one is finished, with a warning."""
    word = str(getattr(status, "value", status)).lower()
    if word not in _STATUS_WORDS:
        notice(f"status {status!r} is not known; the run counts as finished. Known: FINISHED, "
               "FAILED, KILLED.")  # fmt: skip
    return _STATUS_WORDS.get(word, "finished")


def to_tags(tags: Mapping[str, Any] | Iterable[str] | str | None) -> dict[str, str]:
    """Turn words or a mapping into the mapping of text to text that is kept."""
    if tags is None:
        return {}
    if isinstance(tags, str):
        tags = [tags]
    if not isinstance(tags, Mapping):
        tags = dict.fromkeys(tags, "")
    plain = values.to_plain(tags, "tags")
    return {
        key: value if isinstance(value, str) else _tag_text(value) for key, value in plain.items()
    }


def _tag_text(value: Any) -> str:
    return "" if value is None else orjson.dumps(value).decode()


def to_params(params: Any) -> dict[str, Any]:
    """Turn what people keep hyperparameters in into a plain mapping."""
    if params is None:
        return {}
    if not isinstance(params, Mapping) and not hasattr(params, "__dataclass_fields__"):
        if hasattr(params, "to_dict"):
            params = params.to_dict()
        elif hasattr(params, "__dict__") and not callable(params):
            params = vars(params)
    plain = values.to_plain(params, "params", _note_cut)
    if not isinstance(plain, dict):
        raise InvalidTypeError(
            f"Params must be a mapping, dataclass or Namespace, found {type(params).__name__}. "
            "Write log_params({'lr': 0.1})."
        )
    return plain


def _note_cut(name: str) -> None:
    notice(f"{name} has a repr of over 1,000 characters; it was cut. Log it as an artifact.")


def _parts(name: str) -> list[str]:
    """Split a name that may hold ``/`` and check each part as a file's name."""
    if not isinstance(name, str) or not name:
        raise InvalidNameError(f"A file's name must be text, found {name!r}. Write 'confusion'.")
    return [layout.check_name(part, f"The part of {name!r}") for part in name.split("/")]


def _file_name(name: str, suffix: str, step: int | None) -> str:
    number = "" if step is None else f"-{values.to_step(step):06d}"
    return "/".join(_parts(name)) + number + suffix


def _optional_step(step: Any) -> int | None:
    return None if step is None else values.to_step(step)


def _next_number(folder: Path) -> int:
    taken = [file.stem.rpartition("-")[2] for file in folder.glob("weights-*.safetensors")]
    return max((int(number) for number in taken if number.isdigit()), default=0) + 1


def _files_below(folder: str) -> list[str]:
    found = []
    inside = os.path.realpath(folder) + os.sep
    for above, _, files in os.walk(folder):
        for name in files:
            file = os.path.join(above, name)
            if not os.path.realpath(file).startswith(inside):
                raise InvalidValueError(
                    f"log_artifact: {file} is a link out of {folder}. Log its target by itself."
                )
            if os.path.isfile(file):
                found.append(file)
    return sorted(found)
