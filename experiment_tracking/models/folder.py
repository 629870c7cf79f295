"""Where everything of a registered model is, and what keeps a folder from being one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Collection, Iterator

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.layout import MODELS

_COMING = ".tmp-"
_GOING = ".deleting-"
_ABANDONED_AFTER_S = 86400.0
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


class ModelFolder:
    """The one class that knows the names of a registered model's files.

    Parameters
    ----------
    root
        Folder of projects.
    name
        The model's; checked by whoever makes this.
    """

    def __init__(self, root: str, name: str) -> None:
        self.root, self.name = root, name
        self.path = os.path.join(root, MODELS, name)

    @property
    def events(self) -> str:
        """Folder of what was done, one file each."""
        return os.path.join(self.path, "events")

    @property
    def versions(self) -> str:
        """Folder of the versions, one folder each."""
        return os.path.join(self.path, "versions")

    @property
    def policy(self) -> str:
        """What a version needs to come to a stage; often not there."""
        return os.path.join(self.path, "policy.json")

    def version(self, number: int) -> str:
        """Folder of one version."""
        return os.path.join(self.versions, str(number))

    def check_no_link(self, *paths: str) -> None:
        """Refuse a link in the place of the model's folder, or of one of these in it.

        Raises
        ------
        DamagedError
            If one is a link: what it leads to is no part of the registry.
        """
        for path in (self.path, self.events, self.versions, *paths):
            if os.path.islink(path):
                raise DamagedError(
                    f"{path} is a link; a registered model holds regular folders and files. "
                    "Put what it should lead to in its place."
                )

    def make(self) -> None:
        """Make the folders of a model where they are not there, and flush their names."""
        with may_write(self.root):
            os.makedirs(self.root, exist_ok=True)
            for path in (os.path.dirname(self.path), self.path, self.events, self.versions):
                with contextlib.suppress(FileExistsError):
                    io.mkdir(path)
                io.fsync_folder(os.path.dirname(path))

    # ------------------------------------------------------------------ versions come and go

    def highest(self) -> int:
        """Return the highest number that a folder of versions bears, 0 where there is none."""
        try:
            names = os.listdir(self.versions)
        except FileNotFoundError:
            return 0
        return max((int(n) for n in names if n.isascii() and n.isdigit()), default=0)

    def make_hidden(self) -> str:
        """Make a folder that no reader sees, for a version that is coming."""
        self._sweep()
        path = self._hidden(_COMING)
        with may_write(self.root):
            io.mkdir(path)
        return path

    def drop(self, numbers: Collection[int]) -> None:
        """Delete the folders of these versions for good; links in them are not followed.

        Raises
        ------
        OSError
            If one cannot be deleted; what is left of it is hidden, and the next time goes on.
        """
        self.check_no_link()
        for number in numbers:
            path, hidden = self.version(number), self._hidden(_GOING)
            if os.path.islink(path):
                os.unlink(path)
            elif os.path.lexists(path):
                # Somebody else may be at it: then it is gone, or goes.
                with contextlib.suppress(FileNotFoundError), may_write(self.root):
                    # First out of sight: half a version must not look like one.
                    os.rename(path, hidden)
                    shutil.rmtree(hidden)
        self._sweep()

    def _hidden(self, start: str) -> str:
        return os.path.join(self.versions, f"{start}{os.getpid()}-{os.urandom(4).hex()}")

    def _sweep(self) -> None:
        """Delete what killed processes have left: never what another may still be at."""
        with os.scandir(self.versions) as listed:
            left = [entry for entry in listed if entry.name.startswith((_COMING, _GOING))]
        for entry in left:
            with contextlib.suppress(FileNotFoundError):
                age_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if entry.name.startswith(_GOING) or age_s > _ABANDONED_AFTER_S:
                    shutil.rmtree(entry.path, ignore_errors=True)


@contextlib.contextmanager
def may_write(root: str) -> Iterator[None]:
    """Have an error of who may not write into the models of ``root`` say what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_ALLOWED:
            raise
        message = (
            f"{error.strerror}: the registered models of {root} cannot be changed here. Ask for "
            "the right to write there, or register into a root of your own (--root, "
            "ModelRegistry(root))"
        )
        raise OSError(error.errno, message, error.filename) from error
