"""Files made of what a source holds inside its own files: pictures, texts, tables."""

import os
import shutil
import tempfile
import weakref

from experiment_tracking.importers.found import FoundFile


class ExtractedFiles(list[FoundFile]):
    """The files of a run, those among them included that are no files in its source.

    Those lie in a temporary folder, made for the first one, which goes with this list.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folder: str | None = None
        self._pieces: list[ExtractedFiles] = []

    def keep(
        self,
        content: bytes,
        name: str,
        kind: str,
        step: int | None = None,
        *,
        logged_at_s: float | None = None,
    ) -> None:
        """Add bytes as a file; ``logged_at_s`` are Unix seconds, default the present."""
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="experiment-tracking-import-")
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        path = os.path.join(self._folder, str(len(self)))
        with open(path, "xb") as file:
            file.write(content)
        if logged_at_s is not None:
            os.utime(path, (logged_at_s, logged_at_s))
        self.append(FoundFile(path, name, kind, step))

    def take_over(self, files: "ExtractedFiles") -> None:
        """Add the files of another list, which stay for as long as this one."""
        self.extend(files)
        self._pieces.append(files)


def name_with_step(name: str, step: int, suffix: str) -> str:
    """Name a file as those of a tracked run are named.

    >>> name_with_step("loss/curve", 3, ".png")
    'loss/curve-000003.png'
    """
    return f"{name}-{step:06d}{suffix}"
