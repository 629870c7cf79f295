"""A run: what a training loop logs to, turned into the files of one folder."""

import copy
import os
import threading
import time
from collections.abc import Iterable, Mapping
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from experiment_tracking import endings
from experiment_tracking.errors import (
    InvalidNameError,
    InvalidTypeError,
    InvalidValueError,
    RunEndedError,
    WriteError,
)
from experiment_tracking.folder import layout, values
from experiment_tracking.folder.documents import utc_now
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.joining import JoinedWriter, SilentWriter
from experiment_tracking.logs import Logs, check_file_name, to_params, to_status, to_text
from experiment_tracking.notices import notice
from experiment_tracking.settings import Identity, Settings
from experiment_tracking.writing import RunWriter, export_to_children

if TYPE_CHECKING:
    from pathlib import Path

    from experiment_tracking.formats.models.saved import SavedModel

AnyWriter = RunWriter | JoinedWriter


_NUMBERS = frozenset((int, float))
_TOO_HIGH = 2**63


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
        folder = self._writer.folder
        if isinstance(self._writer, SilentWriter):
            return (silent_run, (folder.root, folder.project, folder.name))
        return (join, (folder.path,))

    # ------------------------------------------------------------------ who it is

    @property
    def path(self) -> "Path":
        """Folder of the run, absolute."""
        from pathlib import Path

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
        return copy.deepcopy(self._writer.params.snapshot())

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
        """Replace the text; ``summary.json`` has it when this returns."""
        self._check_open()
        notes = {"notes": to_text(text, "notes")}
        self._writer.change(self._writer.summary, lambda summary: summary.update(notes))
        self._writer.to_backends("set_tags", {}, removed=[], **notes)

    @property
    def last_step(self) -> int | None:
        """Step of the last row, those of earlier attempts included; None before the first.

        A resumed loop goes on at ``last_step + 1``.
        """
        step: int = self._writer.last_step
        return step if step >= 0 else None

    # ------------------------------------------------------------------ logging

    def log_metrics(
        self, metrics: Mapping[str, Any], step: int | None = None, timestamp: float | None = None
    ) -> None:
        """Log one row of numbers; see :meth:`Logs.log_metrics`."""
        # The way of nearly every call: known names, plain finite numbers. A few quick looks
        # stand in for checking each entry again: a sum within 64 bits has no NaN or infinity in
        # it, nor an integer that JSON cannot hold.
        if (
            type(metrics) is dict
            and metrics
            and self._known_names.issuperset(metrics)
            and _NUMBERS.issuperset(map(type, metrics.values()))
            and (step is None or (type(step) is int and -_TOO_HIGH <= step < _TOO_HIGH))
            and timestamp is None
        ):
            # Nothing of the append stands in a try: what a signal handler raises comes out of it.
            try:
                total: float = sum(metrics.values())
            except OverflowError:  # an integer beyond all floats, which is refused below
                total = inf
            if -_TOO_HIGH <= total < _TOO_HIGH:
                self._append(metrics, step, None)
                return
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
        for name in row.keys() - self._known_names:
            self._learn_name(name)

    def _learn_name(self, name: str) -> None:
        self._known_names.add(name)
        shown = values.shown_name(name)
        if shown != name:
            notice(f"metric {shown!r} is stored as {name!r}; the name is a row's own key.")

    def _log_params(self, params: Any) -> None:
        self._check_open()
        plain = to_params(params)
        old = self._writer.params.value
        replaced = {
            name: old[name]
            for name, value in plain.items()
            # True is not 1, nor is 1.0, to whoever reads the params.
            if name in old and (old[name] != value or type(old[name]) is not type(value))
        }
        for name, value in replaced.items():
            self._writer.files.amend("param", name, value, plain[name])
        self._writer.change(self._writer.params, lambda kept: kept.update(plain))
        self._writer.to_backends("log_params", plain)

    def _set_tags(self, tags: dict[str, str]) -> None:
        self._check_open()
        self._writer.change(self._writer.summary, lambda summary: summary["tags"].update(tags))
        self._writer.to_backends("set_tags", tags, removed=[], notes=self.notes)

    def _remove_tags(self, names: Iterable[str]) -> None:
        self._check_open()
        gone = set(names)

        def remove(summary: dict[str, Any]) -> None:
            summary["tags"] = {k: v for k, v in summary["tags"].items() if k not in gone}

        removed = sorted(gone & self._writer.summary.value["tags"].keys())
        self._writer.change(self._writer.summary, remove)
        self._writer.to_backends("set_tags", {}, removed=removed, notes=self.notes)

    def _define_metric(self, name: str, goal: str | None) -> None:
        self._check_open()
        self._writer.set_goal(name, goal)

    def _save_picture(
        self, data: bytes, suffix: str, kind: str, name: str, step: int | None
    ) -> "Path":
        step = _optional_step(step)
        path = self._save(f"figures/{_file_name(name, suffix, step)}", data, kind, name, step)
        self._writer.to_tensorboard("log_figure", path, name, step)
        self._writer.to_backends("log_figure", path, name, step, timestamp=time.time())
        return path

    def _save_value(
        self, data: bytes, suffix: str, kind: str, name: str, step: int | None
    ) -> "Path":
        step = _optional_step(step)
        path = self._save(f"artifacts/{_file_name(name, suffix, step)}", data, kind, name, step)
        known = {"artifact_type": kind, "description": None, "step": step}
        self._writer.to_backends("log_artifact", path, name, **known)
        return path

    def _show(self, method: str, value: Any, name: str, step: int | None) -> None:
        self._writer.to_tensorboard(method, value, name, _optional_step(step))

    def _save(self, place: str, data: bytes, kind: str, name: str, step: int | None) -> "Path":
        self._check_open()
        self._writer.files.save({"path": place, "kind": kind, "name": name, "step": step}, data)
        return self.path / place

    def _log_artifact(
        self,
        path: str | os.PathLike[str],
        kind: str | None,
        description: str | None,
        name: str | None,
        step: int | None,
    ) -> "Path":
        self._check_open()
        source = _readable(path)
        place = f"artifacts/{check_file_name(name or os.path.basename(source))}"
        entry = {
            "path": place,
            "kind": to_text(kind or "artifact", "artifact_type"),
            "name": name or os.path.basename(source),
            "step": _optional_step(step),
            "description": None if description is None else to_text(description, "description"),
        }
        if os.path.isdir(source):
            for file in _files_below(source):
                inner = os.path.relpath(file, source).replace(os.sep, "/")
                self._writer.files.copy(entry | {"path": f"{place}/{inner}"}, file)
        else:
            self._writer.files.copy(entry, source)
        kept = self.path / place
        known = {key: entry[key] for key in ("description", "step")}
        self._writer.to_backends(
            "log_artifact", kept, entry["name"], artifact_type=entry["kind"], **known
        )
        return kept

    def _log_input(self, entry: dict[str, Any]) -> None:
        self._check_open()
        entry = {**entry, "logged_at": utc_now()}

        def replace(inputs: dict[str, Any]) -> None:
            others = [i for i in inputs.get("inputs", []) if i["name"] != entry["name"]]
            inputs["inputs"] = [*others, entry]

        self._writer.change(self._writer.inputs, replace)

    def _keep_seeds(self, seeds: dict[str, Any]) -> None:
        self._check_open()
        self._writer.change(self._writer.environment, lambda kept: kept.update(seeds=seeds))

    def saved_model(
        self, name: str = "model", step: int | None = None, best: str | None = None
    ) -> "SavedModel":
        """Return the handle on a model of this run: to go on from it, say, after a resume.

        ``run.saved_model("last").load(into=net)`` fills the module; see
        :class:`~experiment_tracking.formats.models.saved.SavedModel`.
        """
        from experiment_tracking.formats.models.saved import SavedModel

        return SavedModel(self.path / "models" / check_file_name(name), step, best)

    def _log_model(self, model: Any, name: str, registered_as: str | None, **asked: Any) -> "Path":
        from experiment_tracking.formats.models.saved import SavedModel
        from experiment_tracking.publishing import publish, to_request

        self._check_open()
        check_file_name(name)
        if asked["step"] is None:
            asked["step"] = self.last_step
        request = to_request(registered_as=registered_as, **asked)
        if registered_as is not None:  # before the work: a wrong name must not cost a save
            from experiment_tracking.models.references import check_alias, check_model_name

            check_model_name(registered_as)
            for alias in request.aliases:
                check_alias(alias)
        document = None
        if self._writer.files.keeps_models() and isinstance(self._writer, RunWriter):
            document = publish(self._writer, model, name, request)
        folder = self.path / "models" / name  # now, for the run may have been moved
        if document is None:
            return folder
        known = {"name": name, "metadata": document["metadata"], "step": document["step"]}
        self._writer.to_backends("log_model", SavedModel(folder), folder, **known)
        if registered_as is not None:
            self._register(name, registered_as, request.aliases)
        return folder

    def _register(self, name: str, registered_as: str, aliases: tuple[str, ...]) -> None:
        from experiment_tracking.models.registry import ModelRegistry

        try:
            registry = ModelRegistry(self._writer.folder.root)
            registry.register(self, name, name=registered_as, aliases=aliases)
        except OSError as error:
            if error.errno is None or not isinstance(self._writer, RunWriter):
                raise
            self._writer.files_lost(error)  # the model itself is saved

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

    def finish(self, status: str = "FINISHED") -> None:
        """End the run, as :meth:`end_run` does: the word that a tracker has for it."""
        self.end_run(status)

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
        documents = {"summary": parent.summary.value, "params": parent.params.value}
        self._writer = JoinedWriter(parent.folder, f"p{os.getpid()}", documents)
        self._append = self._writer.append
        endings.opened(self._writer, self)


def open_run(
    root: str,
    project: str,
    name: str | None,
    identity: Identity,
    settings: Settings,
) -> Run:
    """Make a new folder and open its run.

    Raises
    ------
    WriteError
        If the file system refuses. Nothing is left behind.
    """
    if name is not None and endings.interactive():
        _finish_earlier(root, project, name)
    folder = None
    try:
        folder = layout.allocate(root, project, name)
        writer = RunWriter.create(folder, identity, settings)
    except OSError as error:
        if folder is not None:
            import shutil

            shutil.rmtree(folder.path, ignore_errors=True)
        raise WriteError(
            f"A run cannot be opened in {os.path.join(root, project)} ({error}). Pass a root that "
            f"can be written to, or set {layout.ROOT_VARIABLE}."
        ) from error
    writer.requested_name = name or folder.name
    taken = name is not None and name != folder.name
    return _opened(writer, f" ({name!r} was taken)" if taken else "")


def adopt_run(identity: Identity, settings: Settings) -> Run | None:
    """Go on with the run that a launcher opened for this process; None where none waits."""
    if layout.HANDOVER_VARIABLE not in os.environ:
        return None
    from experiment_tracking import handover

    offered = handover.claim(endings.runs_opened() + 1)
    if offered is None:
        return None
    identity = identity._replace(params={**offered.params, **identity.params})
    writer = RunWriter.adopt(offered.folder, identity, settings)
    return _opened(writer, None)  # The launcher has told of it.


def resume_run(folder: RunFolder, identity: Identity, settings: Settings, *, force: bool) -> Run:
    """Open a further attempt of a run."""
    if endings.interactive():
        _finish_earlier(folder.root, folder.project, folder.name)
    writer = RunWriter.resume(folder, identity._replace(params={}), settings, force=force)
    attempt, step = len(writer.summary.value["attempts"]), writer.history.last_step
    behind = "before its first row" if step < 0 else f"its last step was {step}"
    run = _opened(writer, f" (resumed, attempt {attempt}, {behind})")
    if identity.params:
        run._log_params(identity.params)
    return run


def _opened(writer: RunWriter, remark: str | None) -> Run:
    run = Run(writer)
    endings.opened(writer, run)
    export_to_children()
    if remark is not None:
        notice(f"run {run.project}/{run.name} in {writer.folder.path}{remark}")
    return run


def _finish_earlier(root: str, project: str, name: str) -> None:
    """In a notebook, the same cell run again means the earlier run is over."""
    for writer in endings.open_writers():
        if (
            isinstance(writer, RunWriter)
            and (writer.folder.root, writer.folder.project) == (root, project)
            and name in (writer.requested_name, writer.folder.name)
            and writer.thread is threading.current_thread()
        ):
            writer.close(*endings.present_ending(writer))
            notice(f"run {project}/{writer.folder.name} was still open; it has been finished.")


def join(path: str, rank: str | None = None) -> Run:
    """Open a second writer of the run in ``path``: this process's own file of rows.

    Where this process writes the run already, that is what is returned.
    """
    run: Run
    for run in endings.open_runs():
        writer = run._writer
        ours = isinstance(writer, RunWriter) or rank in (None, writer.rank)
        if ours and writer.folder.path == path:
            return run
    # A pool's worker unpickles the run with every task and drops it again.
    for joined in endings.open_writers():
        if isinstance(joined, JoinedWriter) and joined.folder.path == path and rank in (
            None, joined.rank,
        ):  # fmt: skip
            return Run(joined)
    run = Run(JoinedWriter(RunFolder(path), rank or f"p{os.getpid()}"))
    endings.opened(run._writer, run)
    return run


def silent_run(root: str, project: str, name: str | None) -> Run:
    """Open a secondary rank's run, which writes nothing."""
    folder = RunFolder(os.path.join(root, project, name or time.strftime("%Y%m%d-%H%M%S")))
    return Run(SilentWriter(folder))


def _file_name(name: str, suffix: str, step: int | None) -> str:
    stem = check_file_name(name).removesuffix(suffix) or name
    return stem + ("" if step is None else f"-{step:06d}") + suffix


def _optional_step(step: Any) -> int | None:
    return None if step is None else values.to_step(step)


def _readable(path: str | os.PathLike[str]) -> str:
    try:
        source = os.path.abspath(path)
    except TypeError:
        raise InvalidTypeError(f"log_artifact takes a path, found {path!r:.60}.") from None
    if not (os.path.isfile(source) or os.path.isdir(source)):
        raise InvalidValueError(f"log_artifact: there is no file or folder at {source}.")
    if not os.access(source, os.R_OK):
        raise InvalidValueError(f"log_artifact: {source} may not be read. Change its permissions.")
    return source


def _files_below(folder: str) -> list[str]:
    found = []
    inside = os.path.realpath(folder) + os.sep
    for above, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            file = os.path.join(above, name)
            if not (os.path.realpath(file) + os.sep).startswith(inside):
                raise InvalidValueError(
                    f"log_artifact: {file} is a link out of {folder}. Log its target by itself."
                )
            if file != values.to_plain(file, "path"):
                raise InvalidNameError(f"log_artifact: {file!r} is not UTF-8. Rename the file.")
            if os.path.isfile(file):
                found.append(file)
    return sorted(found)
