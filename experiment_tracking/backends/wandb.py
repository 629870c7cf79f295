"""Weights & Biases: for each of our runs one of theirs, online or in a folder that is sent later.

W&B sends through a process of its own, ``wandb-core``, and its ``log`` returns before anything
has left this machine. What has truly arrived is asked for when a run is begun again: online of the
service, offline of the ``.wandb`` files themselves (`wandb_log`). For that to be exact, everything
that enters W&B's history gets the next number as W&B's internal step, in one order that the kept
state can name again: rows by their place in our history, figures behind the rows that had been
given when they came. Checked against wandb 0.31.0.
"""

from __future__ import annotations

import contextlib
import glob
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiment_tracking.backends import wandb_service as service
from experiment_tracking.backends.catalog import is_installed
from experiment_tracking.backends.interface import BackendInterface
from experiment_tracking.backends.kept_files import (
    known_of_model,
    stage_newest_save,
)
from experiment_tracking.backends.wandb_log import Artifact, WandbLog
from experiment_tracking.backends.wandb_service import Doing, core, translated
from experiment_tracking.errors import (
    BackendError,
    BackendUnavailableError,
    DamagedError,
    MissingPackageError,
)
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import read_document
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.values import stored_name

_STEP = "step"
_OWN_KEYS = ("_step", "_timestamp", "_runtime", "_wandb")
_EXIT_CODES = {"finished": 0, "failed": 1, "killed": 255, "crashed": 137}
"""W&B itself says 255 for Ctrl-C; 137 is what a shell says of a process killed by SIGKILL."""

_TAG_CHARS = 64
_NAME_CHARS = 128
_ASK_AGAIN_S = 30.0
_FINISH_S = 60.0
_CLOSE_S = 4.0
_MODEL_INTERVAL_S = 600.0

_leaving: dict[str, Doing | None] = {}
"""By id, runs that were let go of while W&B was still sending them."""

_Entry = dict[str, Any]


class WandbBackend(BackendInterface):
    """Copy a run to Weights & Biases.

    - Every row is logged; our step is the key ``step``, the x-axis of all charts, and steps may
      repeat or go back. W&B's own ``_step`` counts rows and figures. A metric called like a key of
      W&B's own (``_step``, ``_timestamp``, ``_runtime``, ``_wandb``) is ``metric:_step`` there.
    - Params are the config, nested; the group, or else the parent's id, is the group; tags are
      words ``key`` or ``key=value`` of at most 64 characters, and one called ``job_type`` is the
      job type as well.
    - Figures and images are media under ``figures/<name>``; tables, texts, histograms and other
      files are artifacts ``run-<id>-<name>``, W&B's own way to name them.
    - A model is an artifact of the type ``model``. Of one that is saved over and over, a version is
      logged at most every ten minutes, and the last one always.
    - At the end the summary has ``best/<metric>`` and ``best_step/<metric>`` where the metric has a
      goal, else ``min/<metric>`` and ``max/<metric>``, beside the last values that W&B keeps.

    The run's folder holds what W&B writes, in ``backends/wandb``, unless ``$WANDB_DIR`` says
    otherwise. Online it is removed when the run has ended. Offline it is what
    ``wandb sync <run>/backends/wandb/offline-run-*`` sends. A run whose copying was interrupted has
    several such folders, which hold every row once between them when it has been completed: where
    the copying process itself was killed, run ``experiments push`` before ``wandb sync``. Once a
    run has been copied online they are removed: nobody is to send them over it.

    W&B tells runs and folders by the run's id, so a run has one copy there. In another mode, entity
    or project it is made anew, by the same mirror.

    Parameters
    ----------
    project
        Default ``$WANDB_PROJECT``, else the project of the run.
    entity
        User or team; default ``$WANDB_ENTITY``, else W&B's default for the login.
    mode
        ``online``, ``offline`` or ``disabled``. Default ``$WANDB_MODE``, else ``online`` where
        there is a login (``$WANDB_API_KEY`` or netrc), else ``offline``, with a notice. A disabled
        one copies nothing: it can be made, and not begun.

    Raises
    ------
    MissingPackageError
        If wandb is not installed.
    BackendError
        For another mode, for ``online`` without a login, and for names that W&B cannot have.
    """

    name = "wandb"

    place = ""
    """Where it copies to, as decided when it was made: ``offline, project mnist``."""

    advice = ""
    """What people should know who join it."""

    def __init__(
        self, project: str | None = None, entity: str | None = None, mode: str | None = None
    ) -> None:
        if not is_installed("wandb"):
            raise MissingPackageError("Backend 'wandb'", "wandb", "'experiment_tracking[wandb]'")
        self._project = service.decide_name("project", project)
        self._entity = service.decide_name("entity", entity)
        self.mode = service.decide_mode(mode)
        """``online``, ``offline`` or ``disabled``, as it was decided."""
        given = {"project": self._project, "entity": self._entity, "mode": mode}
        self.options: Mapping[str, Any] = {k: v for k, v in given.items() if v}
        self.place = service.place(self.mode, self._entity, self._project)
        self.advice = service.offline_advice(mode)
        self._run: Any = None
        self._id, self._folder, self._home = "", "", ""
        self._state: _Entry = {}
        self._tags: dict[str, str] = {}
        self._rows = self._figures = self._ahead = 0
        self._ending: Doing | None = None
        self._ask_at = 0.0

    def __repr__(self) -> str:
        return f"WandbBackend({self.place})"

    def check_connection(self) -> None:
        """Ask the service whether it answers and takes the key, for at most 10 s.

        Raises
        ------
        BackendUnavailableError
            If it does not answer.
        BackendError
            If it refuses the key.
        """
        if self.mode == "online":
            service.ask_service()

    def start_run(
        self,
        run_name: str,
        config: Mapping[str, Any],
        *,
        project: str = "",
        run_id: str = "",
        path: str = "",
        tags: Mapping[str, str] | None = None,
        group: str | None = None,
        notes: str = "",
        parent: str | None = None,
        state: dict[str, Any] | None = None,
    ) -> int | None:
        """Open the run in W&B, or go on with it; return how many rows W&B has of it."""
        if self.mode == "disabled":
            raise BackendError("W&B is disabled (WANDB_MODE, or mode=): nothing is copied there")
        self.close()
        self._state = {} if state is None else state
        self._id, self._folder = run_id, path
        above = os.environ.get("WANDB_DIR") or RunFolder(path).backends
        self._home = os.path.join(os.path.expanduser(above), "wandb")
        self._tags = dict(tags or {})
        service.end_orphans(self._state.get("process"))
        if self._has_moved():
            self._check_alone()
            # Files are given anew. Where figures are among the rows is what it was: the service may
            # have been sent the offline folders.
            self._state.pop("artifacts", None)
        self.check_connection()
        service.say_once(self.advice)
        facts = {
            "id": run_id,
            "name": run_name,
            "project": self._project or service.plain_name(project),
            "entity": self._entity,
            "group": group or parent,
            "job_type": self._tags.get("job_type"),
            "tags": _words(self._tags),
            "notes": notes or None,
            "config": dict(config),
        }
        sent = self._open(facts)
        self._resume(sent, config)
        return self._rows

    def _has_moved(self) -> bool:
        """Tell whether what is kept is of another place, or there is nothing."""
        return bool(self._state.get("place") != self.place)

    def _check_alone(self) -> None:
        """Insist that no other mirror copies this run to W&B."""
        if "place" in self._state:
            return
        backends = glob.escape(RunFolder(self._folder).backends)
        for path in sorted(glob.glob(os.path.join(backends, "*.json"))):
            kept: Mapping[str, Any] = {}
            with contextlib.suppress(OSError, DamagedError):
                kept = read_document(path)
            place = (kept.get("state") or {}).get("place")
            if kept.get("backend") == self.name and place:
                name = os.path.basename(path).removesuffix(".json")
                raise BackendError(
                    f"W&B has a copy of this run already ({place}), and would mix it with this one "
                    f"({self.place}): it tells runs by their id. To have this one instead: "
                    f"experiments push RUN --forget --to {name}"
                )

    def _open(self, facts: Mapping[str, Any]) -> int:
        """Open W&B's run; return how many rows and figures W&B has."""
        leaving = _leaving.get(self._id)
        if leaving is not None and leaving.is_under_way:
            raise BackendUnavailableError("W&B is still sending what it was given before")
        online = self.mode == "online"
        has = 0 if online else self._written()
        os.makedirs(self._home, exist_ok=True)
        wandb = core.enter()
        try:
            with translated("wandb.init"):
                self._run = wandb.init(
                    **facts,
                    dir=os.path.dirname(self._home),
                    mode=self.mode,
                    resume="allow",
                    reinit="create_new",
                    settings=_settings(wandb, self._folder),
                )
        except BaseException:
            core.leave()
            raise
        folder = _folder_of(self._run)
        self._state |= {"process": core.noted(), "url": self._run.url if online else folder}
        if online:
            has = self._run.starting_step
            self._clear("run", keep=folder)
        elif self._has_moved():
            self._clear("offline-run", keep=folder)
        return has

    def _resume(self, sent: int, config: Mapping[str, Any]) -> None:
        """Go to the row and the figure behind the first ``sent``; send what else is missing."""
        figures = self._state.setdefault("figures", [])
        places = [figure["rows"] + number for number, figure in enumerate(figures)]
        self._figures = sum(place < sent for place in places)
        self._state |= {"place": self.place, "sent": sent}
        self._rows, self._ahead = sent - self._figures, 0
        self._run.define_metric(_STEP, hidden=True)
        self._run.define_metric("*", step_metric=_STEP)
        # What the service knows of an earlier attempt is laid over what wandb.init was given.
        self._run.config.update(dict(config), allow_val_change=True)
        self._send_missing_artifacts()

    # ------------------------------------------------------------------ what offline folders hold

    def _offline_logs(self) -> list[str]:
        # The names of W&B's folders begin with their time.
        return sorted(
            glob.glob(os.path.join(*self._folders("offline-run"), f"run-{self._id}.wandb"))
        )

    def _folders(self, kind: str) -> tuple[str, str]:
        return glob.escape(self._home), f"{kind}-*-{self._id}*"

    def _written(self) -> int:
        """Return how many rows and figures the offline folders hold.

        Where some are missing between others, a file was damaged; the folders are derived from
        ours, and written anew. Where all folders are gone, they were sent and cleaned up.
        """
        if self._has_moved():
            return 0
        paths = self._offline_logs()
        if not paths:
            return int(self._state.get("sent", 0))
        steps = []
        with contextlib.suppress(DamagedError):
            steps = [step for path in paths for step in _whole_steps(path)]
        is_whole = steps == list(range(steps[0], steps[0] + len(steps))) if steps else False
        # What was sent is not written anew: the service would have it twice.
        if is_whole or (steps and any(os.path.exists(f"{path}.synced") for path in paths)):
            return steps[-1] + 1
        for path in paths:
            _remove(os.path.dirname(path))
        return 0

    def _logged_offline(self) -> set[str]:
        """Return the digests of the artifacts in the offline folders."""
        records = (one for path in self._offline_logs() for one in WandbLog(path).records())
        return {record.digest for record in records if isinstance(record, Artifact)}

    # ------------------------------------------------------------------ rows and figures

    def log_metrics(self, metrics: Mapping[str, float], step: int, timestamp: float = 0.0) -> None:
        """Copy one row."""
        stored = {stored_name(name): value for name, value in metrics.items()}
        self.log_batch([{**stored, "step": step, "time": timestamp}])

    def log_batch(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Copy rows, each as one row of W&B's history."""
        self._check_open()
        self._look_for_service()
        # Of a batch that broke off, those before the break are given a second time.
        behind, self._ahead = self._ahead, 0
        with translated("run.log"):
            for number, row in enumerate(rows):
                if number >= behind:
                    self._ahead = number
                    self._log_row(row)
        self._ahead = max(0, behind - len(rows))
        self._state |= {"sent": self._rows + self._figures, "step": rows[-1]["step"]}

    def _log_row(self, row: Mapping[str, Any]) -> None:
        self._log_figures()
        self._log(_their_row(row))
        self._rows += 1

    def _log(self, values: dict[str, Any]) -> None:
        self._run.log(values, step=self._rows + self._figures)

    def log_figure(
        self, path: Path, name: str, step: int | None, timestamp: float | None = None
    ) -> None:
        """Note a figure, to be logged behind the rows given so far when more of the run comes.

        Later than it is noted in the kept state: what is not known there can not be told from
        rows when W&B says how much it has.
        """
        self._check_open()
        relative = os.path.relpath(path, self._folder)
        figures = self._state["figures"]
        # One that is given again stays where it is: what was sent is counted by that.
        if any(
            (one["path"], one["name"], one["time"]) == (relative, name, timestamp)
            and step in (None, one["step"])
            for one in figures
        ):
            return
        entry = {
            "rows": self._rows,
            "path": relative,
            "name": name,
            "step": self._state.get("step", 0) if step is None else step,
            "time": timestamp,
        }
        figures.append(entry)

    def _log_figures(self, *, is_end: bool = False) -> None:
        """Log the figures that come here, at the end all that are left."""
        for figure in self._state["figures"][self._figures :]:
            if figure["rows"] > self._rows and not is_end:
                return
            values = {_STEP: figure["step"], f"figures/{figure['name']}": self._medium(figure)}
            if figure["time"] is not None:
                values["_timestamp"] = figure["time"]
            self._log(values)
            self._figures += 1

    def _medium(self, figure: Mapping[str, Any]) -> Any:
        """Return what W&B shows, or a text that says why not: its place must be taken."""
        import wandb

        path = os.path.join(self._folder, figure["path"])
        try:
            if path.endswith((".html", ".htm")):
                with open(path, encoding="utf-8") as file:
                    return wandb.Html(file.read(), inject=False)
            if is_installed("PIL"):
                return wandb.Image(path)
        except Exception as error:  # gone since it was noted, or no picture
            return f"{type(error).__name__}: {error}"
        self.log_artifact(Path(path), figure["name"], artifact_type="figure")
        return "It is an artifact: W&B needs Pillow to show it."

    # ------------------------------------------------------------------ artifacts and models

    def log_artifact(
        self,
        path: Path,
        name: str,
        artifact_type: str | None = None,
        description: str | None = None,
        step: int | None = None,
    ) -> None:
        """Copy a file or folder as an artifact; online wait until the service has it."""
        self._check_open()
        metadata = {} if step is None else {"step": step}
        kind = artifact_type or "artifact"
        self._send(self._note_artifact(path, name, kind, description, metadata))

    def log_model(self, model: Any, path: Path, name: str = "model") -> None:
        """Copy a model as an artifact, unless a version of it was copied a short while ago.

        What is sent in the end is the newest save in the run's folder, with what its
        ``model.json`` says: metadata, step, aliases.
        """
        self._check_open()
        # Not the path given, which is there for the time of this call.
        path = Path(RunFolder(self._folder).models, *name.split("/"))
        self._note_artifact(path, name, "model", None, {})
        self._send_due_models()

    def _note_artifact(
        self, path: Path, name: str, kind: str, description: str | None, metadata: _Entry
    ) -> _Entry:
        entries = self._state.setdefault("artifacts", {})
        earlier = entries.get(f"{kind}:{name}") or {"artifact": self._free_name(name)}
        entry: _Entry = {
            "artifact": earlier["artifact"],
            "path": os.path.relpath(path, self._folder),
            "type": kind,
            "description": description,
            "metadata": metadata,
            "sent": None,
            "sent_at": earlier.get("sent_at"),
        }
        entries[f"{kind}:{name}"] = entry
        return entry

    def _send_due_models(self) -> None:
        for entry in self._models_to_send():
            if not 0 <= time.time() - (entry["sent_at"] or 0.0) < _MODEL_INTERVAL_S:
                self._send(entry)

    def _send_last_models(self) -> None:
        for entry in self._models_to_send():
            try:
                self._send(entry)
            except (BackendError, DamagedError) as error:  # The run ends all the same.
                entry |= {"sent": "never", "error": str(error)}

    def _models_to_send(self) -> list[_Entry]:
        entries = self._state.get("artifacts", {}).values()
        return [entry for entry in entries if entry["type"] == "model" and not entry["sent"]]

    def _send_missing_artifacts(self) -> None:
        """Write again what was given and did not come as far as the file."""
        entries = self._state.get("artifacts", {}).values()
        entries = [entry for entry in entries if entry["sent"] == "offline"]
        written = self._logged_offline() if entries else set()
        for entry in entries:
            if entry["digest"] not in written:
                # It has been replaced since, or removed.
                with contextlib.suppress(BackendError, DamagedError):
                    self._send(entry)

    def _send(self, entry: _Entry) -> None:
        import wandb

        staged, known = self._stage(entry)
        with translated("run.log_artifact"):
            artifact = wandb.Artifact(
                entry["artifact"],
                type=_artifact_type(entry["type"]),
                description=entry["description"],
                metadata=entry["metadata"] | known.get("metadata", {}),
            )
            for path, inner in _files_in(staged):
                artifact.add_file(path, name=inner, policy="immutable", skip_cache=True)
            logged = self._run.log_artifact(artifact, aliases=known.get("aliases"))
            digest = artifact.digest
            if self.mode == "online":
                logged.wait()
                _remove(staged)
        entry |= {"sent": self.mode, "sent_at": time.time(), "digest": digest}

    def _free_name(self, name: str) -> str:
        """Name an artifact as W&B does, with what it takes; two of ours are never one of theirs."""
        plain = "".join(c if (c.isascii() and c.isalnum()) or c in "-_." else "-" for c in name)
        plain = f"run-{self._id}-{plain}"[:_NAME_CHARS]
        if all(entry["artifact"] != plain for entry in self._state["artifacts"].values()):
            return plain
        mark = f"-{zlib.crc32(name.encode('utf-8', 'backslashreplace')):08x}"
        return plain[: _NAME_CHARS - len(mark)] + mark

    def _stage(self, entry: _Entry) -> tuple[str, _Entry]:
        """Keep the bytes as they are now until W&B has sent them; return where, and what is known.

        Our files are replaced and never changed in place, so links do. (W&B's own staging copies,
        into the home folder.)
        """
        path = os.path.join(self._folder, entry["path"])
        above = self._staging()
        os.makedirs(above, exist_ok=True)
        number = 1 + max((int(n) for n in os.listdir(above) if n.isdigit()), default=0)
        staged = os.path.join(above, str(number))
        os.mkdir(staged)
        if entry["type"] == "model":
            return staged, _known_of_model(stage_newest_save(path, staged))
        for source, inner in _files_in(path):
            target = os.path.join(staged, inner)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            io.link_or_copy(source, target)
        return staged, {}

    def _staging(self) -> str:
        return os.path.join(self._home, f"staged-{self._id}")

    # ------------------------------------------------------------------ what else is known

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Copy params into the config; a changed value replaces the earlier one."""
        self._check_open()
        with translated("run.config.update"):
            self._run.config.update(dict(params), allow_val_change=True)

    def set_tags(
        self,
        tags: Mapping[str, str],
        removed: Sequence[str] = (),
        notes: str | None = None,
    ) -> None:
        """Set tags and notes."""
        self._check_open()
        kept = {key: value for key, value in self._tags.items() if key not in removed}
        self._tags = kept | dict(tags)
        with translated("run.tags"):
            self._run.tags = _words(self._tags)
            if notes is not None and notes != (self._run.notes or ""):
                self._run.notes = notes

    def log_environment(self, environment: Mapping[str, Any]) -> None:
        """Copy commit and remote of the code, where they were not known at the start."""
        self._check_open()
        new = {k: v for k, v in _git(environment).items() if getattr(self._run.settings, k) != v}
        if new:
            # There is no public way after wandb.init; they are published with the tags.
            for key, value in new.items():
                setattr(self._run._settings, key, value)
            with translated("run.tags"):
                self._run.tags = self._run.tags

    # ------------------------------------------------------------------ the end

    def end_run(self, status: str, summary: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """End the run; returns when W&B has sent everything.

        Raises
        ------
        BackendUnavailableError
            If that takes more than a minute. W&B goes on sending, and a further call waits on.
        """
        self._check_open()
        if self._ending is None:
            self._look_for_service(now=True)
            with translated("run.log"):
                self._log_figures(is_end=True)
                self._run.summary.update(_best(summary or {}))
            self._state["sent"] = self._rows + self._figures
            self._send_last_models()
            self._finish(_EXIT_CODES.get(status, 1))
        self._wait(_FINISH_S)
        if self.mode == "online":
            # Sent now, what was written offline would bring back an earlier state of the run.
            _remove(self._staging())
            self._clear("offline-run")

    def _finish(self, exit_code: int) -> None:
        run = self._run
        self._ending = Doing(lambda: run.finish(exit_code=exit_code))

    def _wait(self, timeout_s: float) -> None:
        """Wait for W&B's finish, which itself waits for ever, and let go of the run."""
        assert self._ending is not None
        try:
            with translated("run.finish"):
                is_done = self._ending.wait(timeout_s)
        except Exception:
            self._let_go()
            raise
        if not is_done:
            raise BackendUnavailableError("W&B is still sending; the service may be away")
        if self.mode == "online":
            self._clear("run")
        else:
            core.wait_until_written(self._state["url"])
        self._let_go()

    def _let_go(self) -> None:
        self._run = self._ending = None
        core.leave()

    def close(self) -> None:
        """Let go of W&B's run and, with the last one of this process, of W&B's own process.

        A run that has not ended is left as ``preempted``: interrupted, and going on later.
        """
        if self._run is None:
            return
        try:
            if self._ending is None:
                with translated("run.mark_preempting"):
                    self._run.mark_preempting()
                self._finish(1)
            self._wait(_CLOSE_S)
        except OSError:  # away, or its process is dead
            # What W&B has not sent by now is sent anew when the run is begun again.
            if self._run is not None:
                _leaving[self._id] = self._ending
                self._let_go()

    def _clear(self, kind: str, keep: str | None = None) -> None:
        """Remove W&B's folders of this run, which hold only what the service and we have."""
        for path in glob.glob(os.path.join(*self._folders(kind))):
            if os.path.realpath(path) != keep:
                _remove(path)
        for path in (self._staging(), self._home):
            with contextlib.suppress(OSError):  # Others' runs, or offline ones, are in it.
                os.rmdir(path)

    def _look_for_service(self, *, now: bool = False) -> None:
        """Ask now and then whether the service is there: W&B's log does not tell."""
        if now or time.monotonic() > self._ask_at:
            self.check_connection()
            self._ask_at = time.monotonic() + _ASK_AGAIN_S

    def _check_open(self) -> None:
        if self._run is None:
            raise BackendUnavailableError("W&B's run is not open; it has to be started again")


def _their_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Name a row's values as W&B does; what it calls by such a name itself gets a prefix."""
    values = {f"metric:{key}" if key in _OWN_KEYS else key: value for key, value in row.items()}
    values["_timestamp"] = values.pop("time")
    return values


def _words(tags: Mapping[str, str]) -> tuple[str, ...]:
    words = (f"{key}={value}" if value else key for key, value in tags.items())
    short = (w if len(w) <= _TAG_CHARS else w[: _TAG_CHARS - 1] + "…" for w in words)
    return tuple(dict.fromkeys(short))


def _artifact_type(kind: str) -> str:
    plain = "".join("-" if char in "/:" else char for char in kind)[:_NAME_CHARS]
    # W&B keeps these to itself.
    reserved = plain.startswith("wandb-") or plain in ("job", "run_table", "code")
    return f"artifact-{plain}" if reserved else plain


def _settings(wandb: Any, folder: str) -> Any:
    """Return W&B's settings: nothing captured, and of our environment what it has a field for."""
    environment: dict[str, Any] = {}
    with contextlib.suppress(OSError, DamagedError):  # It may not be written yet.
        environment = read_document(RunFolder(folder).environment)
    script = (environment.get("entry_script") or {}).get("path")
    wanted = {**_git(environment), "host": environment.get("hostname")}
    return service.settings(wandb, wanted | {"program": script or "experiment_tracking"})


def _git(environment: Mapping[str, Any]) -> dict[str, str]:
    git = environment.get("git") or {}
    remotes = git.get("remotes") or {}
    remote = remotes.get("origin") or next(iter(remotes.values()), None)
    found = {"git_commit": git.get("commit"), "git_remote_url": remote}
    return {key: value for key, value in found.items() if value}


def _best(summary: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what each metric came to, beside the last value, which W&B has itself."""
    found: dict[str, Any] = {}
    for name, values in summary.items():
        for kind in ("best", "best_step") if "best" in values else ("min", "max"):
            if values.get(kind) is not None and f"{kind}/{name}" not in summary:
                found[f"{kind}/{name}"] = values[kind]
    return found


def _known_of_model(document: Mapping[str, Any]) -> _Entry:
    """Return the artifact's metadata and aliases: those of the very save that is sent."""
    known = known_of_model(document)
    step = {} if known["step"] is None else {"step": known["step"]}
    plain = (service.plain_alias(alias) for alias in document.get("aliases") or [])
    return {"metadata": step | known["metadata"], "aliases": ["latest", *plain]}


def _files_in(path: str) -> Iterator[tuple[str, str]]:
    """Yield each file at or below a path, and its name within it."""
    if not os.path.isdir(path):
        if not os.path.exists(path):
            raise BackendError(f"{path} is gone.")
        yield path, os.path.basename(path)
    for here, _, names in os.walk(path):
        for name in sorted(names):
            source = os.path.join(here, name)
            yield source, os.path.relpath(source, path)


def _remove(path: str) -> None:
    from shutil import rmtree

    rmtree(path, ignore_errors=True)


def _whole_steps(path: str) -> list[int]:
    """Return the steps in a log, and cut off what a kill left of a record.

    ``wandb sync`` sends a file that ends within a record as far as it goes, calls that a failure,
    and sends all of it again the next time.
    """
    log = WandbLog(path)
    steps = list(log.steps())
    if not log.whole_bytes:
        _remove(os.path.dirname(path))
    elif log.torn:
        os.truncate(path, log.whole_bytes)
    return steps


def _folder_of(run: Any) -> str:
    folder: str = os.path.realpath(os.path.dirname(run.dir))
    return folder
