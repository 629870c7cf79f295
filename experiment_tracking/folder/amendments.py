"""Later corrections of a run: a small file each, and what a run's documents come to with them.

Each is created exclusively and never changed, so that any number of people may correct a run at
once. Those by the run's own process (``by`` is ``"run"``) only keep what a param was before: the
document has the new value. All others are folded into the documents by whoever reads them, until
the run is resumed: then they go into its documents, and a mark says how many did.
"""

import contextlib
import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.digest import Digest, MetricSummary
from experiment_tracking.folder.documents import (
    MAX_BYTES,
    Document,
    encode,
    read_document,
    utc_now,
)
from experiment_tracking.folder.history import HistoryReader, Row
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import status_of
from experiment_tracking.folder.values import RESERVED, from_stored
from experiment_tracking.notices import notice

RUN = "run"
"""Who a correction is by that the documents have already: the run's own process."""

RESUMED = "resumed"
"""Kind of the mark, by the run, that all amendments up to the number ``new`` are taken in."""

Amendment = dict[str, Any]
"""A correction as it is kept: ``at``, ``by``, ``kind``, ``name``; ``old`` and ``new``, absent where
there was or is nothing; ``step`` and ``time`` of a metric."""

_Late = dict[tuple[str, int], Amendment]


def numbers(folder: RunFolder) -> dict[int, str]:
    """Return the files of a run's amendments by their numbers, in order.

    Raises
    ------
    OSError
        If the folder is there and cannot be listed.
    """
    try:
        names = os.listdir(folder.amendments)
    except FileNotFoundError:
        return {}
    digits = ((name.removesuffix(".json"), name) for name in names if name.endswith(".json"))
    found = {int(d): name for d, name in digits if d.isascii() and d.isdigit()}
    return {number: os.path.join(folder.amendments, found[number]) for number in sorted(found)}


def add(
    folder: RunFolder, *amendments: Mapping[str, Any], durable: bool = False
) -> list[Amendment]:
    """Keep amendments under the next free numbers, with the present time; return them so.

    Of several processes that come at once, each gets numbers of its own.

    Parameters
    ----------
    folder
        The run's; it must exist.
    amendments
        All but ``at``.
    durable
        Whether they are to be on the disk when this returns (about 10 ms).

    Raises
    ------
    OSError
        If the disk refuses; the amendments before that one are kept.
    """
    with contextlib.suppress(FileExistsError):
        io.mkdir(folder.amendments)
    number = max(numbers(folder), default=0)
    kept = [{"at": utc_now(), **amendment} for amendment in amendments]
    for each in kept:
        number, path = _create(folder, number + 1, encode(each))
        if durable:
            io.fsync_file(path)
    if durable:
        io.fsync_folder(folder.amendments)
        io.fsync_folder(folder.path)
    return kept


def _create(folder: RunFolder, number: int, data: bytes) -> tuple[int, str]:
    while True:
        path = f"{folder.amendments}/{number:06d}.json"
        try:
            io.create_whole(path, data)
        except FileExistsError:
            number += 1
        else:
            return number, path


def user_name() -> str:
    """Return who is at work, as ``by`` names people; never ``"run"``, whose are not folded."""
    import getpass

    try:
        name = getpass.getuser().encode("utf-8", "backslashreplace").decode()
    except (OSError, KeyError, ImportError):  # A number without a name, as in many containers.
        return f"user {getattr(os, 'getuid', lambda: '?')()}"
    return name if name != RUN else f"user {name}"


def tell_caches(folder: RunFolder) -> None:
    """Give ``summary.json`` the present time, by which caches see that the run has changed.

    Only who may write that file may set its time. Anybody else who may write the folder puts a
    copy in its place, unless a live writer does that every few seconds.

    Raises
    ------
    OSError
        If neither is allowed.
    """
    try:
        os.utime(folder.summary)
    except PermissionError:
        copy_summary(folder)


def copy_summary(folder: RunFolder) -> None:
    """Replace ``summary.json`` by a copy of itself, unless a live process writes it."""
    if status_of(read_document(folder.summary), folder.heartbeat)[0] != "running":
        io.replace_file(folder.summary, io.read(folder.summary, MAX_BYTES), durable=True)


# ---------------------------------------------------------------------- reading


def read(folder: RunFolder) -> tuple[list[Amendment], list[DamagedError | OSError]]:
    """Read a run's amendments in the order of their numbers; one ``listdir`` if there are none.

    Returns
    -------
    list of dict
        The whole ones. A mark stands right behind what is taken in: somebody may have added
        another while the run was being resumed.
    list of Exception
        Why each of the others was passed over.
    """
    found: list[tuple[int, Amendment]] = []
    problems: list[DamagedError | OSError] = []
    try:
        paths = numbers(folder)
    except OSError as error:
        return [], [error]
    for number, path in paths.items():
        try:
            found.append((number, checked(path, read_document(path))))
        except (DamagedError, OSError) as error:
            problems.append(error)
    return _in_order(found), problems


def _in_order(numbered: Iterable[tuple[int, Amendment]]) -> list[Amendment]:
    def place(item: tuple[int, Amendment]) -> tuple[int, bool]:
        number, each = item
        return (each["new"], True) if _is_mark(each) else (number, False)

    return [each for _, each in sorted(numbered, key=place)]


def _is_mark(amendment: Amendment) -> bool:
    return (amendment["kind"], amendment["by"]) == (RESUMED, RUN)


def checked(path: str, document: Amendment) -> Amendment:
    """Return the document if it is an amendment; one of a kind not known here is.

    Raises
    ------
    DamagedError
        With the first part that is missing or not what it should be.
    """
    kind = document.get("kind")
    wrong = [key for key in ("at", "by", "kind", "name") if type(document.get(key)) is not str]
    if kind in ("tag", "notes") and type(document.get("new", "")) is not str:
        wrong.append("new")
    if kind == "metric":
        is_number = {key: from_stored(document.get(key)) is not None for key in ("new", "time")}
        is_number["step"] = type(document.get("step")) is int
        wrong += [key for key, holds in is_number.items() if not holds]
    if kind == RESUMED and type(document.get("new")) is not int:
        wrong.append("new")
    if wrong:
        found = repr(document[wrong[0]]) if wrong[0] in document else "nothing"
        raise DamagedError(f"{path} is no amendment: its {wrong[0]} is {found:.60}.")
    return document


# ---------------------------------------------------------------------- folding


def fold_tags(tags: Mapping[str, str], amendments: Iterable[Amendment]) -> dict[str, str]:
    """Return the tags with their corrections."""
    folded = dict(tags)
    for each in _by_others(amendments, "tag"):
        _put(folded, each["name"], each)
    return folded


def fold_notes(notes: str, amendments: Iterable[Amendment]) -> str:
    """Return the notes, or the last correction of them."""
    return next((e.get("new", "") for e in reversed(_by_others(amendments, "notes"))), notes)


def fold_params(params: Mapping[str, Any], amendments: Iterable[Amendment]) -> dict[str, Any]:
    """Return nested params with their corrections.

    What the run's own process logged after a correction of the same param counts. To fold the
    same corrections once more changes nothing.
    """
    wanted: dict[str, Amendment] = {}
    for each in _waiting(amendments):
        if each["kind"] == "param":
            name = each["name"]
            wanted = {n: e for n, e in wanted.items() if n != name and not n.startswith(name + ".")}
            if each["by"] != RUN:
                wanted[name] = each
    if not wanted:
        return dict(params)
    # Copies: a later correction may go into what an earlier one has put there.
    folded, wanted = copy.deepcopy((dict(params), wanted))
    for name, each in wanted.items():
        _put(*place_of(folded, name), each)
    return folded


def place_of(params: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """Return the object in which a param stands, and its key there.

    ``model.depth`` is the key of that name, else ``depth`` in the object ``model``. No object is
    made: where there is no ``model``, the key is ``model.depth`` itself.

    >>> place_of({"lr": 0.1, "model": {"depth": 2}}, "model.depth")
    ({'depth': 2}, 'depth')
    """
    if name not in params:
        for dot in (place for place, char in enumerate(name) if char == "."):
            inner = params.get(name[:dot])
            if type(inner) is dict:
                return place_of(inner, name[dot + 1 :])
    return params, name


def _put(values: dict[str, Any], name: str, amendment: Amendment) -> None:
    if "new" in amendment:
        values[name] = amendment["new"]
    else:
        values.pop(name, None)


def fold_rows(
    rows: list[Row], amendments: Iterable[Amendment], *, superseding: bool = True
) -> list[Row]:
    """Return rows, superseded attempts left out, with those of late metrics behind them.

    A late value takes the place of what the metric had at that very step, unless not
    ``superseding``. It belongs to the last attempt.
    """
    late = _late(_by_others(amendments, "metric"))
    if not late:
        return rows
    attempt = _attempt(rows[-1]) if rows else 1
    gone: dict[int, set[str]] = {}
    for name, step in late if superseding else ():
        gone.setdefault(step, set()).add(name)
    kept = [left for row in rows if (left := _without(row, gone.get(row["step"])))]
    return kept + [_row(each, attempt) for each in late.values()]


def _without(row: Row, names: set[str] | None) -> Row | None:
    """Return a row without metrics, None where it then has none."""
    if not names or names.isdisjoint(row):
        return row
    left = {key: value for key, value in row.items() if key not in names}
    return left if left.keys() - RESERVED else None


def _row(amendment: Amendment, attempt: int) -> Row:
    row = {"step": amendment["step"], "time": amendment["time"]}
    row |= {"attempt": attempt} if attempt != 1 else {}
    return row | {amendment["name"]: amendment["new"]}


def fold_metrics(
    metrics: Mapping[str, dict[str, Any]],
    amendments: Iterable[Amendment],
    rows: Callable[[], Iterable[Row]],
    goals: Mapping[str, str | None] | None,
) -> Mapping[str, dict[str, Any]]:
    """Return the digest of a history with late metrics, as if they had been logged last.

    Parameters
    ----------
    metrics
        The digest without them.
    amendments
        All of the run's.
    rows
        Gives what :func:`fold_rows` does. Asked only for a metric that has values at or above
        the step of a late one: some may be superseded.
    goals
        As in ``summary.json``.
    """
    late: dict[str, list[Amendment]] = {}
    for (name, _), each in _late(_by_others(amendments, "metric")).items():
        late.setdefault(name, []).append(each)
    if not late:
        return metrics
    digest = Digest(rows, {name: metrics[name] for name in late if name in metrics}, goals)
    reread: list[Row] = []
    for name, added in late.items():
        summary = digest.metrics.setdefault(name, MetricSummary())
        steps, values = [each["step"] for each in added], [each["new"] for each in added]
        if summary.count and (summary.top_step is None or min(steps) <= summary.top_step):
            reread = reread or list(rows())
            has = [row for row in reread if name in row]
            steps, values = [row["step"] for row in has], [row[name] for row in has]
            digest.metrics[name] = MetricSummary()
            digest.metrics[name].attempt = summary.attempt
        digest.metrics[name].add(steps, values)
    return {**metrics, **digest.to_dict()}


def _late(metrics: Iterable[Amendment]) -> _Late:
    """Late metrics by name and step; of several at one step the newest, in its place."""
    late: _Late = {}
    for each in metrics:
        late.pop((each["name"], each["step"]), None)
        late[each["name"], each["step"]] = each
    return late


def _by_others(amendments: Iterable[Amendment], kind: str) -> Sequence[Amendment]:
    return [e for e in _waiting(amendments) if e["kind"] == kind and e["by"] != RUN]


def _waiting(amendments: Iterable[Amendment]) -> list[Amendment]:
    """Return those that are not taken in: what stands behind the last mark."""
    waiting: list[Amendment] = []
    for each in amendments:
        waiting.append(each)
        if _is_mark(each):
            waiting.clear()
    return waiting


# ---------------------------------------------------------------------- taking in


class Corrections:
    """What others have corrected in a run that is resumed, on its way into its documents.

    Otherwise they would hide what the resumed run says of the same tags and steps. First
    :meth:`fold_into`, then :meth:`take_in`. To whoever reads the run, or resumes it once more
    after a kill in between, it is the same before and after each step.

    Parameters
    ----------
    folder
        The run's. Its amendments are read; nothing else is done where there are none.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        found = _until_one_fails(folder)
        self._all = _in_order(found.items())
        self._waiting = any(each["by"] != RUN for each in _waiting(self._all))
        # Not of what was listed: the last may be one that is being written just now.
        self._up_to = max(found, default=0)

    def fold_into(self, summary: dict[str, Any], params: dict[str, Any]) -> None:
        """Put corrected tags, notes and params into the documents as read."""
        if self._waiting:
            summary["tags"] = fold_tags(summary.get("tags") or {}, self._all)
            summary["notes"] = fold_notes(summary.get("notes") or "", self._all)
            corrected = fold_params(params, self._all)
            params.clear()
            params.update(corrected)

    def take_in(self, summary: Document, params: Document) -> None:
        """Write the documents, then the late metrics into the history, then the mark.

        Each is on the disk before the next is written. The summary must not say any more that
        its digest is that of the whole history. A mark that cannot be written is told: readers
        go on folding then.

        Raises
        ------
        OSError
            If the disk refuses the documents or the history.
        """
        if not self._waiting:
            return
        if _by_others(self._all, "param"):
            params.save(durable=True)
        summary.save(durable=True)
        if late := _late(_by_others(self._all, "metric")):
            take_in_rows(self._folder.history(), late.values())
        mark = {"by": RUN, "kind": RESUMED, "name": "", "new": self._up_to}
        try:
            add(self._folder, mark, durable=True)
        except OSError as error:  # The folder may be that of another user who corrected the run.
            notice(
                f"run {self._folder.name!r}: {self._folder.amendments} cannot be written "
                f"({error}). Corrections by others go on hiding the tags and notes that the run "
                "sets now, and what it logs at the same steps. Ask for the right to write there."
            )

    def last_step(self, step: int) -> int:
        """Return the step of the last row that the run itself has logged, -1 if it has none.

        ``step`` is that of the very last row. Reads the history if a metric was ever logged late:
        a correction of step 3 must not have the next row at step 4.
        """
        metrics = (each for each in self._all if each["kind"] == "metric" and each["by"] != RUN)
        late = {(each["step"], each["time"]) for each in metrics}
        if not late:
            return step
        rows = reversed(HistoryReader(self._folder.history()).rows())
        return next((r["step"] for r in rows if (r["step"], r["time"]) not in late), -1)


def _until_one_fails(folder: RunFolder) -> dict[int, Amendment]:
    """Read amendments up to the first that cannot be read now: others may be able to."""
    found: dict[int, Amendment] = {}
    with contextlib.suppress(OSError):
        for number, path in numbers(folder).items():
            with contextlib.suppress(DamagedError):
                found[number] = checked(path, read_document(path))
    return found


def take_in_rows(path: str, late: Iterable[Amendment]) -> None:
    """Put late metrics into a history, behind its rows, in one replacement of the file.

    Each gets the latest attempt that has its metric, so that it supersedes nothing. What the metric
    had at that very step goes. If that was the first of a further attempt, on which hangs what the
    attempt supersedes, it becomes the new value there. To do it once more changes nothing.

    Costs memory for the rows.
    """
    lines, _ = HistoryReader(path).whole_rows()
    rows: list[Row] = [orjson.loads(line) for line in lines]
    for each in late:
        rows = _with_late(rows, each)
    body = b",\n".join(map(orjson.dumps, rows))
    io.replace_file(path, b"[\n" + body + b"\n]\n", durable=True)


def _with_late(rows: list[Row], late: Amendment) -> list[Row]:
    name, step = late["name"], late["step"]
    firsts: dict[int, Row] = {}
    for row in rows:
        if name in row:
            firsts.setdefault(_attempt(row), row)
    added = _row(late, max(firsts, default=_attempt(rows[-1]) if rows else 1))
    if added in rows:
        return rows
    kept: list[Row] = []
    for row in rows:
        if name not in row or row["step"] != step or _is_superseded(row, firsts):
            kept.append(row)
        elif row is firsts[_attempt(row)] and _attempt(row) > min(firsts):
            kept.append({**row, name: late["new"]})
            added = {}
        elif left := _without(row, {name}):
            kept.append(left)
    return [*kept, added] if added else kept


def _is_superseded(row: Row, firsts: Mapping[int, Row]) -> bool:
    later = (first for number, first in firsts.items() if number > _attempt(row))
    return any(first["step"] <= row["step"] for first in later)


def _attempt(row: Row) -> int:
    attempt = row.get("attempt", 1)
    return attempt if type(attempt) is int else 1
