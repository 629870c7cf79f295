"""Change a run that no process writes at the moment: documents and kept files."""

from collections.abc import Callable
from typing import Any

from experiment_tracking.errors import WriteError
from experiment_tracking.files import RunFiles
from experiment_tracking.folder.digest import Digest
from experiment_tracking.folder.documents import Document, seconds_between, utc_now
from experiment_tracking.folder.history import HistoryReader
from experiment_tracking.folder.layout import RunFolder
from experiment_tracking.folder.liveness import FINAL
from experiment_tracking.writing import read_documents

_MAX_DIGEST_BYTES = 64 * 2**20


class RunEditor:
    """The documents of a run, for whoever owns it while none of its processes lives.

    Parameters
    ----------
    folder
        The run.

    Raises
    ------
    OSError, DamagedError, FormatError
        If it cannot be read.
    """

    def __init__(self, folder: RunFolder) -> None:
        documents = read_documents(folder)
        self.folder = folder
        self.summary = Document(folder.summary, documents["summary"])
        self.params = Document(folder.params, documents["params"])
        self.environment = Document(folder.environment, documents["environment"])
        self.inputs = Document(folder.inputs, documents["inputs"])
        self.artifacts = Document(folder.artifact_list, documents["artifacts"])
        self.files = RunFiles(self)

    def change(self, document: Document, edit: Callable[[dict[str, Any]], object]) -> None:
        """Change a document; the file has been replaced when this returns."""
        document.update(edit)

    def files_lost(self, error: OSError) -> None:
        """Raise what kept a file from being written."""
        raise WriteError(f"Run {self.folder.name!r}: a file cannot be kept ({error}).") from error

    def files_kept(self) -> None:
        """Do nothing: there is no trouble to be over."""

    def later(self, action: Callable[[], Any]) -> None:
        """Do it now."""
        action()

    def end(self, status: str, exit_code: int | None, error: dict[str, str] | None = None) -> None:
        """Write the final status. What the run itself said of a failure stays."""
        self.summary.update(lambda summary: self._end(summary, status, exit_code, error))
        self.summary.make_durable()

    def _end(
        self,
        summary: dict[str, Any],
        status: str,
        exit_code: int | None,
        error: dict[str, str] | None,
    ) -> None:
        if exit_code is not None:
            summary["exit_code"] = exit_code
        if summary.get("status") not in FINAL:
            self._sum_up(summary)
        elif status == "finished" or summary["status"] != "finished":
            return
        attempt = summary["attempts"][-1]
        attempt |= {"status": status, "ended_at": attempt.get("ended_at") or utc_now()}
        if attempt.get("duration_s") is None:
            attempt["duration_s"] = seconds_between(attempt["started_at"], attempt["ended_at"])
        total_s = sum(known.get("duration_s") or 0.0 for known in summary["attempts"])
        summary |= {"ended_at": attempt["ended_at"], "duration_s": round(total_s, 3)}
        summary["status"] = status
        if error is not None:
            summary.setdefault("error", error)

    def _sum_up(self, summary: dict[str, Any]) -> None:
        """Digest the rows that the writer had not; very many are left to the readers."""
        seen = HistoryReader(self.folder.history()).since()
        if not seen.rows or seen.offset > _MAX_DIGEST_BYTES:
            return
        reader = HistoryReader(self.folder.history())
        digest = Digest(lambda: reader.rows(seen.offset), goals=summary.get("goals"))
        digest.update(seen.rows)
        summary["metrics"] = digest.to_dict()
        summary["history"] = {"digested_bytes": seen.offset, "rows": len(seen.rows)}
