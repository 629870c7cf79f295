"""A mirror: the copy of one run in one service, made from the run's folder alone.

It may be made by any process, at any time, in as many goes as it takes: how far it has come
stands in ``backends/<name>.json``, which is replaced behind every piece that the service has
taken. A piece that was sent and not noted, because this process died in between, is sent again.
"""

import contextlib
import copy
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from experiment_tracking.backends.catalog import Target, make
from experiment_tracking.backends.claim import Claim
from experiment_tracking.backends.interface import BoundBackend, check_backend
from experiment_tracking.backends.kept_files import KeptFile, kept_files, known_of_model
from experiment_tracking.backends.progress import (
    Progress,
    begun_state,
    fresh_state,
    progress_of,
    read_progress,
    read_state,
)
from experiment_tracking.errors import (
    BackendBusyError,
    DamagedError,
    in_words,
)
from experiment_tracking.folder.cursor import HistoryCursor, Place, PlacedRow, mark
from experiment_tracking.folder.digest import Digest
from experiment_tracking.folder.documents import Document, read_document, utc_now
from experiment_tracking.folder.history import START, HistoryReader
from experiment_tracking.folder.layout import RunFolder, check_format
from experiment_tracking.folder.liveness import FINAL, status_of
from experiment_tracking.folder.values import from_stored, shown_name

_NO_ERROR = {"error": None, "error_since": None, "failed_at": None}
_LOOK_S = 0.5
_PAUSES_S = (0.5, 60.0)
_GRAIN_S = 1.0
_SAVE_S = 1.0
_GOES = 3
"""How often a call is made that the service refuses, and how often a push tries in all."""
_GIVEN = (
    "offset", "rows", "left_out", "last_row", "params", "tags", "notes", "environment", "files",
    "refused", "refused_more", "status", "complete",
)  # fmt: skip
"""What a state says of what the service has."""

_BATCH_ROWS = 1000
_BATCH_ROWS_ONE_BY_ONE = 100
_FILES_AT_ONCE = 10
_REFUSED_KEPT = 100


class Ending(NamedTuple):
    """How a run ends."""

    status: str
    error: Mapping[str, str] | None = None
    """Type and message of what ended it."""
    ended_at: str | None = None
    """None: now."""


_Give = Callable[[BoundBackend], object]


class Orders:
    """What whoever started mirrors tells them while they run, from any thread."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._changes = 0
        self._ending: Ending | None = None
        self._stopped = False
        self._deadline = math.inf

    @property
    def ending(self) -> Ending | None:
        """How the run ends, once that is known."""
        return self._ending

    @property
    def deadline(self) -> float:
        """Until when to go on, on :func:`time.monotonic`'s clock; never, unless set."""
        return self._deadline

    @deadline.setter
    def deadline(self, at: float) -> None:
        """Set until when to go on; whoever waits for an order is woken."""
        self._deadline = at
        self._tell()

    @property
    def over(self) -> bool:
        """Whether to stop now."""
        return self._stopped or time.monotonic() >= self._deadline

    def end(
        self,
        status: str,
        error: Mapping[str, str] | None = None,
        ended_at: str | None = None,
    ) -> None:
        """Tell that the run's history is sealed, and what its summary is about to say."""
        self._ending = Ending(status, error, ended_at)
        self._tell()

    def stop(self) -> None:
        """Have mirrors stop behind the call they are in; what is owed stays owed."""
        self._stopped = True
        self._tell()

    def _tell(self) -> None:
        with self._condition:
            self._changes += 1
            self._condition.notify_all()

    def wait(self, timeout_s: float, seen: int) -> int:
        """Wait for an order behind the ``seen`` first ones; return how many there are."""
        timeout_s = min(timeout_s, max(0.0, self._deadline - time.monotonic()))
        with self._condition:
            self._condition.wait_for(lambda: self._changes != seen, timeout_s)
            return self._changes


class Mirror:
    """Copy one run to one backend, and go on where an earlier process stopped.

    Rows of the run's own process are copied, params, tags, notes, environment and kept files.
    Samples of the system and the rows of further processes (ranks) are not.

    Parameters
    ----------
    folder
        The run. What is copied, and when it ends, is read there.
    target
        The backend, the arguments it is made with, and the name of the mirror.
    redact
        Takes credentials off texts before they are kept.
    model_handle
        Makes of a model's folder what backends get as ``model``.
    orders
        From whoever started it.
    """

    def __init__(
        self,
        folder: RunFolder,
        target: Target,
        *,
        redact: Callable[[str], str] = str,
        model_handle: Callable[[Path], object] = Path,
        orders: Orders | None = None,
    ) -> None:
        self.folder = folder
        self.target = target
        self.orders = orders or Orders()
        self._redact = redact
        self._model_handle = model_handle
        self._documents = _Documents(folder, self._refuse_once)
        self._claim: Claim | None = None
        self._follows = False
        self._state = Document(None, fresh_state())
        self._backend: BoundBackend | None = None
        self._is_started = False
        self._cursor: HistoryCursor | None = None
        self._listed: tuple[object, tuple[list[KeptFile], list[str]]] = (None, ([], []))
        self._looked_at: dict[str, str] = {}
        self._goes: dict[str, int] = {}
        self._told: set[str] = set()
        self._failures = 0
        self._seen_orders = 0

    @property
    def progress(self) -> Progress:
        """How far it has come; may be asked from any thread."""
        state = self._state.snapshot()
        if self._state.path is None:  # not begun
            with contextlib.suppress(OSError, DamagedError):
                return read_progress(self.folder, self.target.name).failed_by(state["error"])
        return progress_of(self.folder, state)

    def run(self, follow: bool) -> Progress:
        """Copy what is there, and with ``follow`` go on until the run has ended.

        A run whose writer is dead ends as ``crashed``. A run that is being written, and is not
        followed, stays open in the service. What the service refuses three times is left out and
        noted. While it does not answer, or cannot be begun with (an address, a permission), it is
        asked again: with ``follow`` until the orders say stop, with pauses of 0.5 s to 60 s;
        without it three times in all. Where nothing is new, the service is not asked at all.

        Raises
        ------
        BackendBusyError
            If a living process is at this mirror, or has taken it over.
        """
        self._follows = follow
        try:
            while not self.orders.over and not self._go():
                pass
        finally:
            self._let_go()
        return self.progress

    def _go(self) -> bool:
        """Copy the next pieces; tell whether that is all."""
        if self._is_succeeded():
            return True
        try:
            self._begin()
            # Asked first: what comes with the end is still copied.
            ending = self._ending()
            moved = self._step(ending)
            self._recover()
        except BackendBusyError:
            raise
        except Exception as error:
            # Begun anew: a connection, or a service's own process, may be beyond repair.
            self._disconnect()
            self._fail(error)
            if not self._follows and self._failures >= _GOES:
                return True
            first, longest = _PAUSES_S
            if self._wait(min(first * 2 ** (self._failures - 1), longest)):
                self._failures = 0  # Whoever gives an order waits: short pauses again.
            return False
        if moved:
            return False
        if self._follows and not ending:
            self._wait(_LOOK_S)
            return False
        return True

    def _step(self, ending: Ending | None) -> bool:
        """Copy the next piece of each kind, or the end behind them; tell if there was a piece."""
        if ending and not self._is_started and self._is_up_to_date(ending, self._made()):
            return False
        backend, settled = self._started(), ending is not None
        moved = self._give_documents(backend)
        moved |= self._give_rows(backend, settled)
        moved |= self._give_files(backend, settled)
        if ending and not moved:
            self._end(backend, ending)
        return moved

    # ------------------------------------------------------------------ beginning

    def _begin(self) -> None:
        if self._claim is None:
            self._summary()  # raises if the folder is gone
            claim = Claim.take(self.folder, self.target.name)
            try:
                self._state = self._load(claim)
            except BaseException:
                claim.release()  # without its state nothing may be given
                raise
            self._claim = claim
            # At once: whoever looks sees who is at it and where to, should the service hang.
            self._state.save()
        attempt = self._attempt()
        if self._state.value["attempt"] != attempt:
            self._disconnect()
            self._save(attempt=attempt, complete=False, status=None)

    def _is_succeeded(self) -> bool:
        """Tell whether our own process is gone and another has resumed the run, to copy it."""
        if self._claim is None or self.orders.deadline == math.inf:
            return False
        with contextlib.suppress(OSError, DamagedError):
            return bool(self._attempt() != self._state.value["attempt"])
        return False

    def _load(self, claim: Claim) -> Document:
        path = self.folder.backend(self.target.name)
        ours = {"number": claim.number, **claim.writer._asdict(), "claimed_at": utc_now()}
        # An error of an earlier process is not ours; whoever waits for ours must not see it.
        begun = begun_state(self.target, self._redact) | {"claim": ours} | _NO_ERROR
        return Document(path, read_state(path) | begun)

    def _summary(self) -> dict[str, Any]:
        return self._documents.read("summary")

    def _attempt(self) -> int:
        attempts = self._summary().get("attempts")
        return max(len(attempts), 1) if isinstance(attempts, list) else 1

    def _ending(self) -> Ending | None:
        if self.orders.ending:
            return self.orders.ending
        status = self._status()
        if status == "crashed":
            # It may have written its end and gone between our looks at summary and heartbeat.
            status = self._status()
        if status == "running":
            return None
        if status == "crashed" and self._state.value["status"]:
            # It was about to end as we were told.
            return Ending(self._state.value["status"])
        summary = self._summary()
        return Ending(status, summary.get("error"), summary.get("ended_at"))

    def _status(self) -> str:
        return status_of(self._summary(), self.folder.heartbeat)[0]

    def _is_up_to_date(self, ending: Ending, backend: BoundBackend) -> bool:
        """Tell whether an earlier process has copied all that is there now."""
        state, summary = self._state.value, self._summary()
        # What the writer says counts above what we were told, or took from its silence.
        said = summary.get("status")
        status = said if said in FINAL else state["status"]
        return bool(
            state["complete"]
            and state["place"] == backend.place
            and state["status"] == status
            and (self.orders.ending is None or ending.status == state["status"])
            and not self._new_documents()
            and not self._owed_files()
            and not self._rows().next(1, settled=True)
        )

    def _made(self) -> BoundBackend:
        if self._backend is None:
            self._backend = check_backend(make(self.target.backend, self.target.options))
        return self._backend

    def _started(self) -> BoundBackend:
        backend = self._made()
        if not self._is_started:
            self._start(backend)
        return backend

    def _start(self, backend: BoundBackend) -> None:
        state, summary = self._state.value, self._summary()
        if state["place"] != backend.place:
            self._forget()
        given = state["rows"] - state["left_out"]
        arrived = backend.start_run(
            self.folder.name,
            copy.deepcopy(self._documents.read("params")),
            project=self.folder.project,
            run_id=summary.get("id", ""),
            path=self.folder.path,
            tags=_tags(summary),
            group=summary.get("group"),
            notes=_notes(summary),
            parent=summary.get("parent"),
            created_at=summary.get("created_at"),
            attempt=state["attempt"],
            rows=given,
            state=state["state"],
        )
        if arrived == 0 and given:  # The copy is gone, files and all.
            self._forget()
        elif type(arrived) is int and arrived != given:
            self._go_to_row(arrived)
        self._cursor = None
        self._is_started = True
        self._save(complete=False, place=backend.place)

    def _forget(self) -> None:
        """Give all of it again; what the backend itself keeps stays."""
        state, fresh = self._state.value, fresh_state()
        state |= {key: fresh[key] for key in _GIVEN}
        self._cursor = None

    def _go_to_row(self, arrived: int) -> None:
        """Go back, or on, to the row behind those that are there; some were left out."""
        left_out = sorted(one["row"] for one in self._state.value["refused"] if "row" in one)
        rows = arrived
        for row in left_out:
            rows += row <= rows + 1
        refused = [one for one in self._state.value["refused"] if one.get("row", 0) <= rows]
        self._state.value |= {
            "rows": rows, "left_out": rows - arrived, "refused": refused,
            "offset": START, "last_row": None,
        }  # fmt: skip

    # ------------------------------------------------------------------ documents

    def _new_documents(self) -> dict[str, tuple[_Give, dict[str, Any]]]:
        """Name what is not as it was given: how to give it, and what to note then."""
        state, documents = self._state.value, self._documents
        params, environment = documents.digest("params"), documents.digest("environment")
        tags, notes = _tags(self._summary()), _notes(self._summary())
        new: dict[str, tuple[_Give, dict[str, Any]]] = {}
        if params != state["params"]:
            give: _Give = partial(_give_params, documents.read("params"))
            new["params"] = (give, {"params": params})
        if (tags, notes) != (state["tags"], state["notes"]):
            give = partial(_give_tags, state["tags"], tags, notes)
            new["tags"] = (give, {"tags": tags, "notes": notes})
        if environment != state["environment"]:
            give = partial(_give_environment, documents.read("environment"))
            new["environment"] = (give, {"environment": environment})
        return new

    def _give_documents(self, backend: BoundBackend) -> bool:
        new = self._new_documents()
        for what, (give, noted) in new.items():
            if self._try(what, partial(give, backend)):
                self._save(**noted)
        return bool(new)

    # ------------------------------------------------------------------ rows

    def _rows(self) -> HistoryCursor:
        if self._cursor is None:
            state = self._state.value
            place = Place(state["offset"], state["rows"], state["last_row"])
            self._cursor = HistoryCursor(self.folder.history(), place)
        return self._cursor

    def _give_rows(self, backend: BoundBackend, settled: bool) -> bool:
        most = _BATCH_ROWS if backend.takes_batches else _BATCH_ROWS_ONE_BY_ONE
        rows = self._rows().next(most, settled=settled)
        try:
            self._give_batch(backend, rows)
        except BaseException:
            self._cursor = None  # What was not given is read again.
            raise
        return bool(rows)

    def _give_batch(self, backend: BoundBackend, rows: Sequence[PlacedRow]) -> None:
        """Give rows all at once; those of a batch that is refused in ever smaller ones."""
        if not rows:
            return
        if len(rows) == 1 or not backend.takes_batches:
            self._give_one_by_one(backend, rows)
            return
        try:
            backend.log_batch([placed.row for placed in rows])
        except OSError:
            raise
        except Exception:
            half = len(rows) // 2
            self._give_batch(backend, rows[:half])
            self._give_batch(backend, rows[half:])
        else:
            self._pass_over(rows)
            self._save()

    def _give_one_by_one(self, backend: BoundBackend, rows: Sequence[PlacedRow]) -> None:
        save_at = time.monotonic() + _SAVE_S
        for row in rows:
            self._give_row(backend, row)
            if time.monotonic() > save_at:
                self._save()
                save_at = time.monotonic() + _SAVE_S
        self._save()

    def _give_row(self, backend: BoundBackend, placed: PlacedRow) -> None:
        number = self._state.value["rows"] + 1
        what = f"row {number:,} (step {placed.row['step']})"
        give = partial(backend.log_batch, [placed.row])
        while not self._try(what, give, row=number):
            pass
        self._pass_over([placed])

    def _pass_over(self, rows: Sequence[PlacedRow]) -> None:
        state = self._state.value
        place = {"offset": rows[-1].end, "last_row": rows[-1].mark}
        state |= {"rows": state["rows"] + len(rows), **place}

    # ------------------------------------------------------------------ files

    def _owed_files(self) -> list[KeptFile]:
        document = self._documents.read("artifacts")
        if document is not self._listed[0]:
            self._listed = document, kept_files(document.get("artifacts"))
        found, foreign = self._listed[1]
        for entry in foreign:
            self._refuse_once(f"entry {entry} of artifacts.json", "it names no file of the run")
        given = self._state.value["files"]
        return [kept for kept in found if given.get(kept.path) != kept.mark]

    def _give_files(self, backend: BoundBackend, settled: bool) -> bool:
        """Give some files, those first that have been tried least; tell whether to go on."""
        owed = self._owed_files()
        seen, self._looked_at = self._looked_at, {kept.path: kept.mark for kept in owed}
        # A folder's files come one after another: it is given once it stays as it is.
        sure = settled or not self._follows
        ready = [k for k in owed if sure or k.is_one_file or seen.get(k.path) == k.mark]
        ready.sort(key=lambda kept: self._goes.get(_what(kept), 0))
        # One that is refused while the run goes on may be about to be listed anew: it has time.
        moved = sure and bool(ready)
        for kept in ready[:_FILES_AT_ONCE]:
            if self._try(_what(kept), partial(self._give_file, backend, kept)):
                self._save(files={**self._state.value["files"], kept.path: kept.mark})
                moved = True
        return moved

    def _give_model(self, backend: BoundBackend, kept: KeptFile) -> None:
        # The claim keeps others from this name.
        above = os.path.join(self.folder.backends, f".{self.target.name}-model")
        with kept.newest_save(self.folder, above) as (path, document):
            model, known = self._model_handle(path), known_of_model(document)
            backend.log_model(model, path, name=kept.last["name"], **known)

    def _give_file(self, backend: BoundBackend, kept: KeptFile) -> None:
        if kept.method == "log_model":
            self._give_model(backend, kept)
            return
        path, last = kept.check(self.folder), kept.last
        name, step = last["name"], last.get("step")
        if kept.method == "log_figure":
            backend.log_figure(path, name, step, timestamp=_unix_time(last.get("logged_at")))
        else:
            backend.log_artifact(
                path,
                name,
                artifact_type=last.get("kind"),
                description=last.get("description"),
                step=step,
            )

    # ------------------------------------------------------------------ the end

    def _end(self, backend: BoundBackend, ending: Ending) -> None:
        summary = self._summary()
        known = {
            "summary": _metrics(self.folder, summary),
            "ended_at": ending.ended_at or utc_now(),
            "error": ending.error,
        }
        while not self._try("the end", partial(backend.end_run, ending.status, **known)):
            pass
        self._save(complete=True, status=ending.status)

    def _let_go(self) -> None:
        self._disconnect()
        claim, self._claim = self._claim, None
        if claim is not None:
            with contextlib.suppress(OSError):  # the folder is gone
                if claim.holds():
                    self._note(claim=None)
            claim.release()

    def _disconnect(self) -> None:
        backend, self._backend = self._backend, None
        self._is_started, self._cursor = False, None
        if backend is not None:
            try:
                backend.close()
            except Exception as error:
                self._refuse("closing it", error)

    # ------------------------------------------------------------------ trouble

    def _try(self, what: str, call: Callable[[], object], **place: int) -> bool:
        """Call; tell whether that is done with: taken, or refused for the third time."""
        try:
            call()
        except OSError:
            raise  # The service is away. Nothing is wrong with what it was given.
        except Exception as error:
            self._goes[what] = self._goes.get(what, 0) + 1
            if self._goes[what] < _GOES:
                return False
            self._refuse(what, error, **place)
        self._goes.pop(what, None)
        return True

    def _refuse_once(self, what: str, reason: str) -> None:
        known = {one["what"] for one in self._state.value["refused"]} | self._told
        if self._redact(what) not in known:
            self._told.add(self._redact(what))
            self._refuse(what, DamagedError(reason))

    def _refuse(self, what: str, error: Exception, **place: int) -> None:
        state = self._state.value
        reason = self._redact(in_words(error))
        noted = {"what": self._redact(what), "reason": reason, "at": utc_now(), **place}
        if len(state["refused"]) < _REFUSED_KEPT:
            state["refused"] = [*state["refused"], noted]
        else:
            state["refused_more"] += 1
        if place:
            state["left_out"] += 1

    def _fail(self, error: Exception) -> None:
        """Note what keeps the mirror from going on."""
        self._failures += 1
        told = self._redact(in_words(error))
        now = utc_now()
        since = self._state.value["error_since"] or now
        self._note(error=told, error_since=since, failed_at=now)

    def _recover(self) -> None:
        self._failures = 0
        if self._state.value["error"] is not None:
            self._save(**_NO_ERROR)

    def _wait(self, timeout_s: float) -> bool:
        """Wait for an order; tell whether one came."""
        seen = self._seen_orders
        self._seen_orders = self.orders.wait(timeout_s, seen)
        return self._seen_orders != seen

    def _save(self, **changes: Any) -> None:
        """Note what is so now; nothing is given behind it before that stands in the folder."""
        if self._claim is None or not self._claim.holds():
            raise BackendBusyError(
                f"Run {self.folder.name!r}: another process has taken over copying it to "
                f"{self.target.name}, having seen no sign of life of this one, or the run's folder "
                "was made anew."
            )
        changes["updated_at"] = utc_now()
        self._state.update(lambda state: state.update(changes))

    def _note(self, **changes: Any) -> None:
        # The folder may be what has failed, or what the backend keeps in its state.
        with contextlib.suppress(OSError, TypeError):
            self._state.update(lambda state: state.update(changes, updated_at=utc_now()))


class _Documents:
    """The documents of a run, read again when they have been replaced.

    Parameters
    ----------
    folder
        The run.
    on_damage
        Called with the name of a document that is damaged, and with what is wrong.
    """

    def __init__(self, folder: RunFolder, on_damage: Callable[[str, str], object]) -> None:
        self._folder = folder
        self._on_damage = on_damage
        self._paths = {
            "summary": folder.summary,
            "params": folder.params,
            "environment": folder.environment,
            "artifacts": folder.artifact_list,
        }
        self._kept: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {}

    def read(self, name: str) -> dict[str, Any]:
        """Return a document; a missing or damaged one is empty, unless it is the summary."""
        path = self._paths[name]
        try:
            found = os.stat(path)
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
            if self._kept.get(name, ((), {}))[0] != seen:
                value = read_document(path)
                # Within the grain of its clock a file can change and look the same.
                is_old = abs(time.time() - found.st_mtime) > _GRAIN_S
                self._kept[name] = (seen if is_old else (), value)
        except (FileNotFoundError, NotADirectoryError):
            if name == "summary":
                raise FileNotFoundError(f"there is no run in {self._folder.path} now") from None
            return {}
        except DamagedError as error:
            if name == "summary":
                raise
            self._on_damage(os.path.basename(path), str(error))
            return {}
        value = self._kept[name][1]
        if name == "summary":
            check_format(self._folder, value)
        return value

    def digest(self, name: str) -> str | None:
        """Return what tells a document from an earlier one; None for an empty one."""
        value = self.read(name)
        return mark(repr(value).encode("utf-8", "backslashreplace")) if value else None


def _tags(summary: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in _mapping(summary.get("tags")).items()}


def _notes(summary: Mapping[str, Any]) -> str:
    return str(summary.get("notes") or "")


def _give_params(params: Mapping[str, Any], backend: BoundBackend) -> None:
    backend.log_params(copy.deepcopy(params))


def _give_tags(
    old: Mapping[str, str], tags: Mapping[str, str], notes: str, backend: BoundBackend
) -> None:
    changed = {name: value for name, value in tags.items() if old.get(name) != value}
    backend.set_tags(changed, removed=sorted(old.keys() - tags.keys()), notes=notes)


def _give_environment(environment: Mapping[str, Any], backend: BoundBackend) -> None:
    backend.log_environment(copy.deepcopy(environment))


def _what(kept: KeptFile) -> str:
    return f"{kept.path} of {kept.last.get('logged_at')}"


def _unix_time(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None


def _metrics(folder: RunFolder, summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what each metric came to, by name; rows that its writer had not summed up too."""
    kept = _mapping(summary.get("metrics"))
    digested = _mapping(summary.get("history")).get("digested_bytes")
    digested = digested if type(digested) is int else 0
    reader = HistoryReader(folder.history())
    seen = reader.since(digested)
    if seen.rows:
        # Only what was seen, should the digest have to go through it again.
        reread = partial(reader.rows, seen.offset)
        digest = Digest(reread, kept if digested else None, _mapping(summary.get("goals")))
        digest.update(seen.rows)
        kept = digest.to_dict()
    return {
        shown_name(name): {key: _plain(value) for key, value in values.items()}
        for name, values in kept.items()
        if isinstance(values, dict)
    }


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _plain(value: Any) -> Any:
    number = from_stored(value)
    return value if number is None else number
