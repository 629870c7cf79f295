"""Writers of further processes of a run; they take the same calls as the run's own.

:class:`JoinedWriter` adds rows in a file of its own. :class:`SilentWriter` is a secondary rank's
and writes nothing.
"""

import contextlib
import errno
import threading
from collections.abc import Callable, Mapping
from typing import Any

from experiment_tracking import endings
from experiment_tracking.endings import Ending
from experiment_tracking.errors import RunEndedError
from experiment_tracking.folder.documents import Document
from experiment_tracking.folder.history import HistoryWriter
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.values import Number
from experiment_tracking.notices import notice
from experiment_tracking.writing import read_documents


class _NoFiles:
    """Stands where a run's own process has its files: keeps nothing, and says so once."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell

    def save(self, entry: dict[str, Any], data: bytes, *, durable: bool = False) -> bool:
        """Keep nothing."""
        self._tell()
        return False

    def copy(self, entry: dict[str, Any], source: str) -> None:
        """Keep nothing."""
        self._tell()

    def keeps_models(self) -> bool:
        """Say so."""
        self._tell()
        return False

    def amend(self, kind: str, name: str, old: Any, new: Any) -> None:
        """Keep nothing."""


class JoinedWriter:
    """Rows of a further process of a run, in ``metrics_history.<rank>.json``.

    The file is made with the first row. Params, tags and files belong to the run's own process;
    asked for here they are left out with one notice.
    """

    tensorboard = None

    def __init__(
        self,
        folder: RunFolder,
        rank: str,
        documents: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        self.folder = folder
        self.rank = rank
        self.ended = False
        self.noted_ending: Ending | None = None
        self.thread = threading.current_thread()
        documents = documents or read_documents(folder)
        self.summary = Document(None, documents["summary"])
        self.params = Document(None, documents["params"])
        self.environment = Document(None, {})
        self.inputs = Document(None, {})
        self._history: HistoryWriter | None = None
        self._opening = threading.RLock()
        self._lost_rows = 0
        self._told = False
        self.files = _NoFiles(self._tell)

    def append(
        self, values: Mapping[str, Number | str], step: int | None, timestamp: float | None
    ) -> None:
        """Append one row."""
        if self.ended:
            raise RunEndedError(
                f"Process {self.rank} has left run {self.folder.name!r}; nothing more can be "
                "logged through it. Join the run again."
            )
        history = self._history or self._first_history()
        if history is not None:
            history.append(values, step, timestamp)

    @property
    def last_step(self) -> int:
        """Step of the last row of this process, -1 before the first."""
        return -1 if self._history is None else self._history.last_step

    def _first_history(self) -> HistoryWriter | None:
        with self._opening:  # one file, however many threads log their first row at once
            try:
                self._history = self._history or self._open()
            except OSError as error:
                self._lost_rows += 1
                if self._lost_rows == 1:
                    notice(
                        f"run {self.folder.name!r}, process {self.rank}: cannot make its file of "
                        f"rows ({error}); what it logs is lost until that works."
                    )
            return self._history

    def _open(self) -> HistoryWriter:
        label = self.rank
        for number in range(2, 1000):
            try:
                return HistoryWriter.create(
                    self.folder.history(label), marks={"rank": label}, on_trouble=self._trouble
                )
            except FileExistsError:
                # An earlier process of the same pid, or a resumed rank: its rows stay its own.
                label = f"{self.rank}-{number}"
        raise FileExistsError(errno.EEXIST, f"a thousand files of rank {self.rank}")

    def _trouble(self, error: OSError | None) -> None:
        state = f"cannot write rows ({error}); they wait" if error else "writes rows again"
        notice(f"run {self.folder.name!r}, process {self.rank}: {state}.")

    def change(self, document: Document, edit: Callable[[dict[str, Any]], object]) -> None:
        """Change a document in memory alone."""
        self._tell()
        document.update(edit)

    def to_backends(self, method: str, *args: Any, **known: Any) -> None:
        """Tell no backend: the run's own process does."""

    def to_tensorboard(self, method: str, *args: Any) -> None:
        """Write no events: the run's own process does."""

    def set_goal(self, name: str, goal: str | None) -> None:
        """Keep nothing."""
        self._tell()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            notice(
                f"run {self.folder.name!r}: process {self.rank} has joined it and adds rows only; "
                "params, tags and files are kept by the run's own process."
            )

    def abandon(self) -> None:
        """Do nothing: the rows are in the kernel's hands."""

    def close(
        self, status: str, error: dict[str, str] | None = None, *, hurry: bool = False
    ) -> None:
        """Flush the rows; the run itself goes on."""
        if self.ended:
            return
        self.ended = True
        if self._lost_rows:
            notice(f"run {self.folder.name!r}, process {self.rank}: lost {self._lost_rows} rows.")
        if self._history is not None:
            self._history.seal()
            with contextlib.suppress(OSError):
                self._history.sync()
            self._history.close()
        endings.ended(self)

    def continue_in_child(self) -> None:
        """Let go of the file in a forked child."""
        self.ended = True
        if self._history is not None:
            self._history.abandon_in_child()


class SilentWriter(JoinedWriter):
    """A secondary rank's writer: the whole interface, and nothing is written."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.rank = ""
        self.ended = False
        self.noted_ending = None
        self.thread = threading.current_thread()
        self.summary = Document(None, {"id": "", "status": "running", "tags": {}, "notes": ""})
        self.params = Document(None, {})
        self.environment = Document(None, {})
        self.inputs = Document(None, {})
        self._history = None
        self._told = True
        self.files = _NoFiles(self._tell)

    def append(
        self, values: Mapping[str, Number | str], step: int | None, timestamp: float | None
    ) -> None:
        """Write nothing."""

    def close(
        self, status: str, error: dict[str, str] | None = None, *, hurry: bool = False
    ) -> None:
        """Note the status in memory."""
        self.ended = True
        self.summary.value["status"] = status
