"""MLflow: copies of runs there, and functions for programs that log to it themselves.

The functions are :mod:`experiment_tracking.backends.mlflow_config`'s; both are imported from here.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from experiment_tracking.backends.interface import BackendInterface
from experiment_tracking.backends.mlflow_config import (
    get_mlflow_client,
    is_mlflow_available,
    log_artifacts_from_paths,
    log_common_tags,
    log_config,
    log_metrics,
    register_best_model,
    set_experiment_from_config,
    start_run_with_config,
)
from experiment_tracking.backends.mlflow_files import Files, register
from experiment_tracking.backends.mlflow_names import (
    MAX_EXPERIMENT_CHARS,
    MAX_METRICS,
    MAX_PARAM_CHARS,
    MAX_PARAMS,
    MAX_TAG_CHARS,
    Names,
    allowed_model_name,
    allowed_name,
    allowed_path,
    flatten,
    pieces,
    to_points,
)
from experiment_tracking.backends.mlflow_service import (
    Client,
    RefusedError,
    check_answers,
    check_installed,
    find_experiment,
    follow_quietly,
    public,
    to_address,
)
from experiment_tracking.errors import BackendError, BackendUnavailableError
from experiment_tracking.folder.history import Row
from experiment_tracking.folder.values import stored_name

__all__ = [
    "MLflowBackend",
    "get_mlflow_client",
    "is_mlflow_available",
    "log_artifacts_from_paths",
    "log_common_tags",
    "log_config",
    "log_metrics",
    "register_best_model",
    "set_experiment_from_config",
    "start_run_with_config",
]

_RUN_ID = "experiment_tracking.run_id"
_PARENT = "experiment_tracking.parent"
_MLFLOW_PARENT = "mlflow.parentRunId"
_NOTE = "mlflow.note.content"

_STATUS = {"finished": "FINISHED", "killed": "KILLED"}
"""MLflow's word for an end; every other one is FAILED there."""

_FEWEST_METRICS = 50
_MAX_NOTES = 35
_MAX_NOTE_CHARS = 200


class MLflowBackend(BackendInterface):
    """Copy a run to MLflow: a server, Databricks, or a sqlite database.

    MLflow is imported when the run starts, which takes about 4 s; nothing of this touches its
    global state. A call is not tried twice here: whoever follows a run tries again, for ever.

    What MLflow cannot take as it is becomes a tag ``experiment_tracking.notes``: names it refuses
    (``acc@1`` is ``acc_1`` there), params over 6,000 characters (whole in the artifact
    ``params/<name>.txt``), changed params (MLflow keeps the first value; the present one is the
    tag ``param.<name>``), tags over 8,000 characters, infinite values (kept as ±1.8e308). Points
    that agree in step, millisecond and value are one point there.

    Files stand under the same paths as in the run's folder, ``artifacts.json`` among them with
    their descriptions. Each model is one version of the registered model ``<project>-<name>``
    (or ``metadata["registered_model_name"]``), made when the run ends, with its last files.

    Parameters
    ----------
    tracking_uri
        ``http://…``, ``https://…``, ``sqlite:///…``, ``databricks``, or a folder, in which a
        database ``mlflow.db`` is made. A database's files stand beside it in ``mlartifacts``. By
        default ``$MLFLOW_TRACKING_URI``, else ``sqlite:///mlflow.db``, as MLflow's own.
    experiment_name
        By default the run's project. It is made where there is none.

    Raises
    ------
    MissingPackageError
        If MLflow is not installed.
    BackendError
        For an address of another form. Nothing is connected yet.

    Examples
    --------
    >>> from experiment_tracking import ExperimentTracker
    >>> tracker = ExperimentTracker(
    ...     "pinn", backend=MLflowBackend("http://localhost:5000")
    ... )  # doctest: +SKIP
    """

    name = "mlflow"

    def __init__(
        self,
        tracking_uri: str | os.PathLike[str] | None = None,
        experiment_name: str | None = None,
    ) -> None:
        self._address = to_address(tracking_uri)
        check_installed(self._address)
        self._experiment_name = _checked_experiment(experiment_name)
        self.options = {"tracking_uri": self._address, "experiment_name": experiment_name}
        self.place = " ".join(filter(None, (public(self._address), experiment_name)))
        self._client: Any = None
        self._most_metrics = MAX_METRICS

    def __repr__(self) -> str:
        return f"MLflowBackend({public(self._address)!r}, {self._experiment_name!r})"

    def check_connection(self) -> None:
        """Ask whether the service answers, within 5 s and without importing MLflow.

        Raises
        ------
        BackendUnavailableError
            If it does not, or if the database's folder cannot be written to.
        BackendError
            If it denies us access.
        """
        check_answers(self._address)

    # ------------------------------------------------------------------ the run

    def start_run(
        self,
        run_name: str,
        config: Mapping[str, Any],
        project: str = "default",
        run_id: str = "",
        path: str | os.PathLike[str] | None = None,
        tags: Mapping[str, str] | None = None,
        group: str | None = None,
        notes: str | None = None,
        parent: str | None = None,
        created_at: str | None = None,
        rows: int = 0,
        state: dict[str, Any] | None = None,
    ) -> int | None:
        """Find the run in MLflow or create it; its status there is RUNNING from now on.

        It is found by the id in ``state``, else by the tag ``experiment_tracking.run_id``.
        Returns 0 where the rows given before went to a run that is gone, or elsewhere.
        """
        follow_quietly()
        self._client = Client(self._address)
        self._folder = None if path is None else os.path.abspath(path)
        self._project, self._run_id, self._parent = project, run_id, parent
        self._state = state if state is not None else {}
        self._experiment_id = find_experiment(
            self._client, self._address, self._experiment_name or project
        )
        place = {"address": public(self._address), "experiment_id": self._experiment_id}
        if any(self._state.get(key) != value for key, value in place.items()):
            self._state.clear()
            self._state.update(place)
        known = self._state.get("run_id")
        run = self._existing(known)
        created = run is None
        if run is None:
            run = self._created(run_name, created_at)
        goes_on = known == run.info.run_id
        self._go_on_with(run, goes_on)
        if created:
            self._adopt_children()
        if run.info.status != "RUNNING":
            self._client.update_run(self._mlflow_id, status="RUNNING")
        self._find_parent()
        ours = {"experiment_tracking.project": project, "experiment_tracking.group": group}
        self._set(ours | {_PARENT: parent})
        self.set_tags(tags or {}, notes=notes)
        if config:
            self.log_params(config)
        return 0 if rows and not goes_on else None

    def _existing(self, known: str | None) -> Any:
        try:
            run = self._client.get_run(known) if known else self._tagged(_RUN_ID, self._run_id)
        except RefusedError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return self._tagged(_RUN_ID, self._run_id)  # deleted for good
        if run is not None and run.info.lifecycle_stage == "deleted":
            raise BackendError(
                f"The copy of the run in MLflow was deleted there. Restore it (mlflow runs restore "
                f"--run-id {known}), or make a new one: experiments push RUN --to mlflow --again."
            )
        return run

    def _tagged(self, tag: str, value: str | None) -> Any:
        """Return the run in MLflow with a tag, None where there is none."""
        if not value:
            return None
        query = f"tags.`{tag}` = '{value}'"
        found = self._client.search_runs([self._experiment_id], query, max_results=1)
        return found[0] if found else None

    def _created(self, run_name: str, created_at: str | None) -> Any:
        run = self._client.create_run(
            self._experiment_id,
            start_time=_milliseconds(created_at),
            # With the run, not after it: a process that dies in between would make a second one.
            tags={_RUN_ID: self._run_id, "mlflow.source.type": "LOCAL"},
            run_name=run_name,
        )
        # What is remembered belongs to a run that is gone.
        for key in ("names", "notes", "models"):
            self._state.pop(key, None)
        return run

    def _go_on_with(self, run: Any, goes_on: bool) -> None:
        """Take over what MLflow has of the run."""
        self._mlflow_id = self._state["run_id"] = run.info.run_id
        if self._address.startswith("http"):
            page = f"#/experiments/{self._experiment_id}/runs/{self._mlflow_id}"
            # Without it MLflow shows its pages for language models, on which a run has no place.
            self._state["url"] = f"{public(self._address)}/{page}?workflowType=machine_learning"
        self._params: dict[str, str] = dict(run.data.params)
        self._tags: dict[str, str] = dict(run.data.tags)
        kinds = {"metric": run.data.metrics, "param": self._params, "tag": self._tags, "file": ()}
        changed = self._state.setdefault("names", {})
        self._names = {kind: self._names_of(kind, changed.setdefault(kind, {})) for kind in kinds}
        # Where all is sent from the start, each name gets what it got the first time.
        for kind in kinds if goes_on else ():
            self._names[kind].know(kinds[kind])
        self._files = Files(self._client, run, self._folder, self._names["file"], self._note)

    def _names_of(self, kind: str, changed: dict[str, str]) -> Names:
        def note(name: str, key: str) -> None:
            self._note(f"{kind} {name!r} is {key!r} here")

        return Names(changed, note, allowed_path if kind == "file" else allowed_name)

    def _find_parent(self) -> None:
        if self._parent and _MLFLOW_PARENT not in self._tags:
            parent = self._tagged(_RUN_ID, self._parent)
            if parent is not None:
                self._set({_MLFLOW_PARENT: parent.info.run_id})

    def _adopt_children(self) -> None:
        """Bind the children that came to MLflow before this run; later ones find it."""
        query = f"tags.`{_PARENT}` = '{self._run_id}'"
        children = self._client.search_runs([self._experiment_id], query) if self._run_id else []
        for child in children:
            self._client.set_tag(child.info.run_id, _MLFLOW_PARENT, self._mlflow_id)

    # ------------------------------------------------------------------ values

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log params under dotted names, as text; see the class for what MLflow refuses."""
        new: dict[str, str] = {}
        for name, value in flatten(params):
            key = self._names["param"].key(name)
            text = self._param_text(key, str(value))
            if key in self._params:
                self._change_param(key, text)
            else:
                new[key] = text
        from mlflow.entities import Param

        for piece in pieces(new.items(), tuple, MAX_PARAMS):
            self._client.log_batch(self._mlflow_id, params=[Param(*item) for item in piece])
            self._params.update(piece)

    def _param_text(self, key: str, text: str) -> str:
        if len(text) <= MAX_PARAM_CHARS:
            return text
        place = f"params/{key.replace(':', '_')}.txt"
        self._client.log_text(self._mlflow_id, text, place)
        self._note(f"param {key!r} has {len(text)} characters, the whole is {place}")
        end = f" … ({len(text)} characters, the whole is the artifact {place})"
        return text[: MAX_PARAM_CHARS - len(end)] + end

    def _change_param(self, key: str, text: str) -> None:
        tag = self._names["tag"].key(f"param.{key}")
        if text != self._tags.get(tag, self._params[key]):
            self._set({tag: text})
            self._note(f"param {key!r} changed, its present value is the tag {tag!r}")

    def log_metrics(
        self, metrics: Mapping[str, float], step: int, timestamp: float | None = None
    ) -> None:
        """Log the metrics of one row."""
        at = datetime.now().timestamp() if timestamp is None else timestamp
        named = {stored_name(name): value for name, value in metrics.items()}
        self.log_batch([{"step": step, "time": at} | named])

    def log_batch(self, rows: Sequence[Row]) -> None:
        """Log rows, up to 1,000 points a request; a batch that is sent again changes nothing."""
        from mlflow.entities import Metric

        key = self._names["metric"].key
        points = [point for row in rows for point in to_points(row, key)]
        for point in points:
            if point.value in (float("inf"), float("-inf")):
                self._note(f"metric {point.key!r} has infinite values, kept as ±1.797e308")
        for piece in pieces(points, lambda point: (point.key,), self._most_metrics):
            self._send([Metric(*point) for point in piece])

    def _send(self, metrics: list[Any]) -> None:
        """Send metrics, and fewer at once to a service that is too slow for so many."""
        try:
            self._client.log_batch(self._mlflow_id, metrics=metrics)
        except BackendUnavailableError:
            self._most_metrics = max(_FEWEST_METRICS, self._most_metrics // 2)
            raise
        self._most_metrics = min(MAX_METRICS, self._most_metrics * 2)

    # ------------------------------------------------------------------ tags

    def set_tags(
        self, tags: Mapping[str, str], removed: Iterable[str] = (), notes: str | None = None
    ) -> None:
        """Set tags, take away those that are gone, and show the run's notes."""
        self._set({self._names["tag"].key(name): value for name, value in tags.items()})
        if notes or (notes is not None and _NOTE in self._tags):
            self._set({_NOTE: notes})
        for key in map(self._names["tag"].key, removed):
            if key in self._tags:
                self._client.delete_tag(self._mlflow_id, key)
                del self._tags[key]

    def log_environment(self, environment: Mapping[str, Any]) -> None:
        """Set the tags by which MLflow shows who ran which code."""
        git = environment.get("git") or {}
        script = environment.get("entry_script") or {}
        notebook = environment.get("notebook")
        remotes = git.get("remotes") or {}
        dirty = git.get("dirty")
        self._set(
            {
                "mlflow.user": environment.get("user"),
                "mlflow.source.name": notebook or script.get("module") or script.get("path"),
                "mlflow.source.type": "NOTEBOOK" if notebook else "LOCAL",
                "mlflow.source.git.commit": git.get("commit"),
                "mlflow.source.git.branch": git.get("branch"),
                "mlflow.source.git.dirty": None if dirty is None else str(dirty).lower(),
                "mlflow.source.git.repoURL": remotes.get("origin")
                or next(iter(remotes.values()), None),
                "experiment_tracking.python_version": environment.get("python_version"),
                "experiment_tracking.hostname": environment.get("hostname"),
            }
        )

    def _set(self, tags: Mapping[str, str | None]) -> None:
        """Set tags by their names in MLflow; those that are None, or are so already, are not."""
        from mlflow.entities import RunTag

        new = {
            key: self._tag_text(key, text)
            for key, text in tags.items()
            if text is not None and self._tags.get(key) != text
        }
        for piece in pieces(new.items(), tuple, MAX_PARAMS):
            self._client.log_batch(self._mlflow_id, tags=[RunTag(*item) for item in piece])
            self._tags.update(piece)

    def _tag_text(self, key: str, text: str) -> str:
        if len(text) <= MAX_TAG_CHARS:
            return text
        self._note(f"tag {key!r} has {len(text)} characters and is cut")
        return text[: MAX_TAG_CHARS - 1] + "…"

    def _note(self, text: str) -> None:
        """Keep for people what MLflow could not take as it is."""
        notes = self._state.setdefault("notes", [])
        text = text if len(text) <= _MAX_NOTE_CHARS else text[: _MAX_NOTE_CHARS - 1] + "…"
        if len(notes) < _MAX_NOTES and text not in notes:
            notes.append(text if len(notes) < _MAX_NOTES - 1 else "and more of these")

    # ------------------------------------------------------------------ files

    def log_artifact(self, path: str | os.PathLike[str], name: str) -> None:
        """Upload a file or a folder, to where it stands in the run's folder."""
        self._files.upload(path, "artifacts")

    def log_figure(self, path: str | os.PathLike[str], name: str, step: int | None = None) -> None:
        """Upload a figure, to where it stands in the run's folder."""
        self._files.upload(path, "figures")

    def log_model(
        self,
        model: Any,
        path: str | os.PathLike[str],
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Upload a model's folder in place of its earlier state; the end registers it."""
        name = name or os.path.basename(os.fspath(path))
        place = self._files.upload_model(path, name)
        registered = (metadata or {}).get("registered_model_name")
        self._state.setdefault("models", {})[name] = {
            "place": place,
            "registered_name": registered or allowed_model_name(f"{self._project}-{name}"),
        }

    # ------------------------------------------------------------------ the end

    def end_run(
        self,
        status: str,
        ended_at: str | None = None,
        error: Mapping[str, str] | None = None,
    ) -> None:
        """Register the models, show what is to be noted, and set status and time of the end."""
        for task in (self._find_parent, self._register_models, self._files.upload_list):
            try:
                task()
            except BackendError as refused:  # the status is set whatever else was refused
                self._note(str(refused))
        if self._parent and _MLFLOW_PARENT not in self._tags:
            self._note(f"the parent run {self._parent} is not in this experiment yet")
        reason = ": ".join(filter(None, (error or {}).values()))
        self._set(
            {
                "experiment_tracking.status": status,
                "experiment_tracking.error": reason or None,
                "experiment_tracking.notes": "\n".join(self._state.get("notes", ())) or None,
            }
        )
        word = _STATUS.get(status, "FAILED")
        self._client.set_terminated(self._mlflow_id, word, _milliseconds(ended_at))

    def close(self) -> None:
        """Let go of the client."""
        self._client = None

    def _register_models(self) -> None:
        for name, model in self._state.get("models", {}).items():
            try:
                register(self._client, model["registered_name"], self._mlflow_id, model["place"])
            except RefusedError as error:
                self._note(f"model {name!r} is not registered ({error})")


def _checked_experiment(name: object) -> str | None:
    if name is None or (isinstance(name, str) and 0 < len(name.strip()) <= MAX_EXPERIMENT_CHARS):
        return name
    raise BackendError(
        f"experiment_name is {name!r:.80}. Write 1 to {MAX_EXPERIMENT_CHARS} characters, or leave "
        "it out to have the run's project."
    )


def _milliseconds(moment: str | None) -> int | None:
    return None if moment is None else round(datetime.fromisoformat(moment).timestamp() * 1000)
