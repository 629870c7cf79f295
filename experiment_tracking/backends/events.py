"""TensorBoard's event files of a run, kept equal to the folder they are derived from."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from experiment_tracking.backends.following import OutOfTimeError, Tail
from experiment_tracking.backends.tensorboard import TensorBoardBackend
from experiment_tracking.folder.digest import Digest, merge, slices
from experiment_tracking.folder.documents import Document, read_document
from experiment_tracking.folder.history import Row
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import FINAL

_RETRY_AFTER_S = 5.0
_BATCH_ROWS = 1_000


class EventFiles:
    """Write a run's event files; all calls come from the run's own thread.

    Event files cannot take a record back. Where one should not be there (a later attempt went
    back over steps, the disk refused, an ending was interrupted) all are written anew.

    Parameters
    ----------
    folder, params, artifacts, tail, digest
        The run, and what of it is shown.
    on_trouble
        Called with the error when the disk refuses, and with None when all is written again.
    """

    def __init__(
        self,
        folder: RunFolder,
        params: Document,
        artifacts: Document,
        tail: Tail,
        digest: Digest,
        on_trouble: Callable[[OSError | None], None],
    ) -> None:
        self.digest = digest
        self._folder = folder
        self._params = params
        self._artifacts = artifacts
        self._tail = tail
        self._on_trouble = on_trouble
        self._stale = False
        self._retry_at = 0.0
        self._superseded_seen = 0
        self._params_given = False
        self._backend = TensorBoardBackend(folder.tensorboard)
        self._backend.start_run(folder.name)
        self._backend.restart()

    def take(self, rows: list[Row]) -> None:
        """Write rows of the history, thinned where they come too fast to be looked at."""
        self._give_params()
        if self._superseded_seen != self.digest.went_back:
            self._superseded_seen = self.digest.went_back
            self._stale = True
        # Out of time, they stay stale: a later end may still have some.
        with contextlib.suppress(OutOfTimeError), self._watching_the_disk():
            if not self._stale:
                self._backend.log_live(rows)
            elif time.monotonic() >= self._retry_at:
                self._rewrite()

    def flush(self) -> None:
        """Write the rows that were held back."""
        with self._watching_the_disk():
            self._backend.flush()

    def show(self, method: str, *args: Any) -> None:
        """Call a ``log_`` method of the backend with what was kept as a file."""
        self._give_params()
        with self._watching_the_disk():
            getattr(self._backend, method)(*args)

    def show_files(self) -> None:
        """Show once more what was logged as files: their events went with the rows'."""
        self._give_params()
        for entry in _in_order(self._artifacts.value["artifacts"]):
            time.sleep(0)
            _show_file(self._backend, self._folder, entry)

    def move_to(self, folder: RunFolder) -> None:
        """Go on in the folder to which the run was moved."""
        self._folder = folder
        self._backend.move_to(folder.tensorboard)

    def start_over(self, digest: Digest) -> None:
        """Write everything anew when the next rows come, or at the end."""
        self.digest, self._superseded_seen, self._stale = digest, digest.went_back, True

    def end(self, status: str) -> None:
        """Write what is missing and the run's status, and close.

        Raises
        ------
        OutOfTimeError
            If all had to be written anew and that would pass the bound of the run's end.
        """
        self._give_params()
        try:
            if self._stale:
                self._rewrite()
            self._backend.end_run(status)
        finally:
            self._backend.close()

    def _give_params(self) -> None:
        # TensorBoard believes the first hyperparameters it reads of a run, so they are given
        # as late as possible: right before the first record.
        if not self._params_given:
            self._params_given = True
            self._backend.log_params(self._params.snapshot())

    def _rewrite(self) -> None:
        rows = merge(self._tail.rows_so_far)
        self._backend.restart()
        for piece in slices(rows):
            self._backend.log_batch(piece)
            self._tail.breathe()
        self.show_files()
        self._stale = False
        self._on_trouble(None)

    @contextlib.contextmanager
    def _watching_the_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._stale = True
            self._retry_at = time.monotonic() + _RETRY_AFTER_S
            self._on_trouble(error)


def write_again(folder: RunFolder, log_dir: str | None = None) -> int:
    """Write all event files of a run that nobody writes anew, from its folder.

    Every row that no later attempt supersedes, unthinned, with params, figures, images, texts,
    histograms and the status. The old event files stay until the new one is whole. Costs about
    15 µs a row of 4 metrics, and memory for 256 KB of history.

    Parameters
    ----------
    folder
        The run. That it has no live writer is the caller's to see.
    log_dir
        Folder for the event files, of this run alone; default ``tensorboard/`` in the run.

    Returns
    -------
    int
        How many rows were written.

    Raises
    ------
    DamagedError
        If the summary, the params or the list of files cannot be read as what it should be.
    OSError
        If something cannot be read or written now.
    """
    summary = _document(folder.summary)
    files = _document(folder.artifact_list).get("artifacts", [])
    backend = TensorBoardBackend(log_dir or folder.tensorboard)
    backend.start_run(folder.name, _document(folder.params))
    written = 0
    with backend.replacing():
        for rows in slices(merge(lambda: _stored_rows(folder.history()))):
            backend.log_batch(rows)
            written += len(rows)
        for entry in _in_order(files):
            _show_file(backend, folder, entry)
        # Nobody writes it any more, and it has no end: its writer died.
        status = summary.get("status")
        backend.end_run(status if status in FINAL else "crashed")
    return written


def _document(path: str) -> dict[str, Any]:
    try:
        return read_document(path)
    except FileNotFoundError:
        return {}


def _stored_rows(path: str) -> Iterator[Row]:
    # Here: it brings OpenSSL along, 4 ms that a starting run, which never comes here, would wait.
    from experiment_tracking.folder.cursor import HistoryCursor

    cursor = HistoryCursor(path)
    while rows := cursor.next(_BATCH_ROWS, settled=True):
        yield from (placed.row for placed in rows)


def _in_order(files: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Sort kept files by step: where one was logged again, it stands behind later steps' files.

    TensorBoard would drop those when a tag goes back over steps.
    """
    return sorted(files, key=lambda entry: entry.get("step") or 0)


def _show_file(backend: TensorBoardBackend, folder: RunFolder, entry: Mapping[str, Any]) -> None:
    path = folder.file(*entry["path"].split("/"))
    # check() reports files that are gone or damaged.
    with contextlib.suppress(FileNotFoundError, LookupError, ValueError):
        logged_at = datetime.fromisoformat(entry["logged_at"]).timestamp()
        backend.log_artifact(path, entry["name"], entry["kind"], entry["step"], logged_at)
