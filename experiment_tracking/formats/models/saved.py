"""A model as it lies in a folder: what was kept of it, read back and checked."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import (
    DamagedError,
    FormatError,
    InvalidValueError,
    NotFoundError,
)
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import read_document
from experiment_tracking.folder.hashing import HashedBeside
from experiment_tracking.formats import tensor_files
from experiment_tracking.formats.trees import rebuild_tree
from experiment_tracking.notices import notice

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
DOCUMENT = "model.json"

_PIECE_BYTES = 1 << 22
_TRIES = 3


class SavedModel:
    """A model in a folder of its own, as ``log_model`` or the model registry keeps it.

    Parameters
    ----------
    path
        Folder with ``model.json``.
    step
        Which of the saves that are kept: the newest one at that step; by default the newest.

    Notes
    -----
    Nothing is read before it is asked for. A model that is saved again meanwhile gives the old
    save or the new one, never a mixture.
    """

    def __init__(self, path: str | os.PathLike[str], step: int | None = None) -> None:
        self._folder = os.path.abspath(path)
        self._step = step

    def __repr__(self) -> str:
        return f"SavedModel({self._folder!r})"

    @property
    def path(self) -> Path:
        """Folder with ``model.json``, absolute."""
        from pathlib import Path

        return Path(self._folder)

    @property
    def document(self) -> dict[str, Any]:
        """What ``model.json`` says of this save, read anew.

        Raises
        ------
        DamagedError
            If it is no such document.
        NotFoundError
            If no save of that step is kept.
        OSError
            If it is missing or cannot be read now.
        """
        return self._save().document

    @property
    def saves(self) -> list[dict[str, Any]]:
        """What is known of all saves that are kept, the newest first."""
        return saves_in(self._folder)

    def load(
        self,
        into: Any = None,
        *,
        as_numpy: bool = False,
        allow_unsafe: bool = False,
        trusted: Iterable[str] = (),
        verify: bool = True,
    ) -> Any:
        """Return the model, its state, or ``into`` filled with it.

        Parameters
        ----------
        into
            What takes the weights: a torch module, an nnx module, a pytree as template. It is
            returned. By default the state comes back as it was given: a ``state_dict``, a tree of
            arrays; a whole model where its own format holds one (scikit-learn, XGBoost, Keras).
        as_numpy
            Arrays as numpy's, whatever they were; their library need not be installed.
        allow_unsafe
            Open a pickle. It can run any code: only for files that you or people you trust made.
        trusted
            Full names of types and functions that a scikit-learn model may hold beside those
            known to be harmless.
        verify
            Whether to compare hashes, with the very bytes that are then used. Without, weights
            are mapped into memory and read when they are touched: for files already verified.

        Raises
        ------
        DamagedError
            If a file is missing, is not as it was saved, or is a link.
        InvalidValueError
            If it is a pickle and that is not allowed; if it does not fit ``into``.
        MissingPackageError
            If its framework is not installed.
        """
        return self._reading(
            lambda save: save.format.load(save, into, as_numpy=as_numpy, trusted=trusted),
            allow_unsafe=allow_unsafe,
            verify=verify,
        )

    def load_optimizer(self, into: Any = None, scheduler: Any = None) -> Any:
        """Return the optimizer's state, or ``into`` filled with it; fill ``scheduler`` too.

        Raises
        ------
        NotFoundError
            If the model was saved without it.
        """
        return self._reading(lambda save: save.format.load_optimizer(save, into, scheduler))

    def load_program(self) -> Callable[..., Any]:
        """Return the function that computes the model, without the code that defined it.

        It takes numpy arrays as the ``input_example`` had them, and gives numpy arrays.

        Raises
        ------
        InvalidValueError
            If the model was saved without an ``input_example``.
        """
        program: Callable[..., Any] = self._reading(lambda save: save.format.load_program(save))
        return program

    def load_example(self) -> Any:
        """Return the ``input_example``, arrays as numpy's; NotFoundError where there is none."""
        return self._reading(lambda save: save.read_tree("example", as_numpy=True))

    def verify(self) -> None:
        """Read every file of the save and compare size and hash.

        Raises
        ------
        DamagedError
            At the first that differs.
        """

        def read_all(save: Save) -> None:
            for role in save.roles:
                save.read(role)

        self._reading(read_all, allow_unsafe=True)

    def _reading(
        self, read: Callable[[Save], Any], *, allow_unsafe: bool = False, verify: bool = True
    ) -> Any:
        for _ in range(_TRIES):
            save = self._save()
            save.verify = verify
            save.check_safe(allow_unsafe)
            try:
                return read(save)
            except _GoneError as gone:
                # Saved again meanwhile: model.json names other files now.
                lost = gone
                if self._save().document == save.document:
                    break
        raise DamagedError(
            f"{lost} It is named by model.json; restore both from the same save."
        ) from None

    def _save(self) -> Save:
        saves = saves_in(self._folder)
        if self._step is None:
            return Save(self._folder, saves[0])
        for document in saves:
            if document.get("step") == self._step:
                return Save(self._folder, document)
        steps = ", ".join(str(document.get("step")) for document in saves)
        raise NotFoundError(
            f"Model in {self._folder}: no save of step {self._step} is kept, only of {steps}. "
            "log_model keeps more with keep= and keep_best=."
        )


class _GoneError(Exception):
    """A file that model.json named is not there any more."""


class Save:
    """One save of a model: what ``model.json`` said of it at one moment, and its files."""

    def __init__(self, folder: str, document: dict[str, Any]) -> None:
        self.folder = folder
        self.document = document
        self.verify = True
        """Whether hashes are compared; otherwise files are mapped, and read when touched."""

    @property
    def subject(self) -> str:
        """What errors about it begin with."""
        return f"Model {self.document.get('name')!r:.80} in {self.folder}"

    @property
    def format(self) -> Any:
        """The format of its framework, a ModelFormat."""
        from experiment_tracking.formats.models.catalog import format_named

        return format_named(self.document.get("framework"), self.subject)

    @property
    def roles(self) -> list[str]:
        """What it has files for: ``weights``, ``optimizer``, ``program``, ``example``."""
        return list(self._files())

    def check_safe(self, allow_unsafe: bool) -> None:
        """Refuse what can only be opened by running code, unless that is allowed.

        Raises
        ------
        InvalidValueError
            With what to pass, and when.
        """
        if self.document.get("framework") == "cloudpickle" and not allow_unsafe:
            raise InvalidValueError(
                f"{self.subject} is a pickle, which can run any code when it is opened. If you "
                "or somebody you trust made it: load_model(..., allow_unsafe=True)."
            )

    def warn_of_other_versions(self) -> None:
        """Say once where this process has other versions of the framework than saved it."""
        import sys

        for package, version in (self.document.get("versions") or {}).items():
            here = getattr(sys.modules.get(package), "__version__", version)
            if here != version:
                notice(f"{self.subject} was saved with {package} {version}, this is {here}.")

    def known(self, role: str) -> Mapping[str, Any]:
        """Return what is known of one file.

        Raises
        ------
        NotFoundError
            If the save has none for that.
        """
        try:
            return self._files()[role]
        except KeyError:
            raise NotFoundError(
                f"{self.subject} was saved without {role}. It has {', '.join(self.roles)}."
            ) from None

    def read(self, role: str) -> memoryview:
        """Return one file's bytes, in memory of their own; they have the size and hash kept.

        Raises
        ------
        DamagedError
            If the file is a link or no regular file, is named with a path, or differs.
        """
        known = self.known(role)
        path = os.path.join(self.folder, self._checked_name(known))
        try:
            fd = io.open_for_reading(path)
        except FileNotFoundError:
            raise _GoneError(f"{self.subject}: {path} is gone.") from None
        try:
            size = os.fstat(fd).st_size
            if size != known.get("size_bytes"):
                raise DamagedError(
                    f"{self.subject}: {known['file']} has {size:,} bytes, model.json says "
                    f"{known.get('size_bytes')!r:.40}. {_RESTORE}"
                )
            if not self.verify:
                return _mapped(fd, size)
            return self._read_verified(fd, size, known)
        finally:
            os.close(fd)

    def read_tree(self, role: str, *, as_numpy: bool = False) -> Any:
        """Return the tree of arrays in one file, as it was given.

        Raises
        ------
        DamagedError
            As :meth:`read`, and if the file is not what ``model.json`` says.
        """
        known = self.known(role)
        subject = f"{self.subject}: {known.get('file')}"
        parts = tensor_files.parse(self.read(role), subject)
        tensors, tree = known.get("tensors"), known.get("tree")
        if not isinstance(tensors, dict):
            raise DamagedError(f"{subject} is no file of arrays by model.json. {_RESTORE}")
        return rebuild_tree(parts, tensors, tree, as_numpy=as_numpy)

    def _files(self) -> dict[str, dict[str, Any]]:
        files = self.document.get("files")
        if not isinstance(files, dict) or not all(isinstance(f, dict) for f in files.values()):
            raise DamagedError(f"{self.subject}: model.json names no files. {_RESTORE}")
        return files

    def _checked_name(self, known: Mapping[str, Any]) -> str:
        name = known.get("file")
        # A bare name: a foreign model.json must not lead out of its folder.
        if not isinstance(name, str) or name in ("", ".", "..") or set("/\\\0:") & set(name):
            raise DamagedError(
                f"{self.subject}: model.json names {name!r:.80}, expected a file beside it."
            )
        return name

    def _read_verified(self, fd: int, size: int, known: Mapping[str, Any]) -> memoryview:
        # Into memory of our own, hashed as it comes: the bytes that were checked are the bytes
        # that are used, whatever happens to the file.
        import numpy as np

        data = np.empty(size, np.uint8).data
        digest, done = HashedBeside(), 0
        try:
            while done < size:
                count = _read_into(fd, data[done : done + _PIECE_BYTES])
                if not count:
                    break
                digest.update(data[done : done + count])
                done += count
        finally:
            digest.close()
        if done < size or digest.hexdigest() != known.get("sha256"):
            raise DamagedError(
                f"{self.subject}: {known['file']} does not have the SHA-256 that model.json "
                f"gives. {_RESTORE}"
            )
        return data


_RESTORE = "Restore all of its files from the same save."


def saves_in(folder: str) -> list[dict[str, Any]]:
    """Return what ``model.json`` says of each save that is kept, the newest first.

    Raises
    ------
    DamagedError
        If it is no such document, or (FormatError) of a later version.
    OSError
        If it is missing or cannot be read now.
    """
    path = os.path.join(folder, DOCUMENT)
    newest = read_document(path)
    found = newest.get("format")
    if found != FORMAT:
        raise FormatError(
            f"{path} has format {found!r:.40}, this version reads {FORMAT}. "
            "Upgrade experiment_tracking."
        )
    earlier = newest.pop("earlier", [])
    if not isinstance(earlier, list) or not all(isinstance(each, dict) for each in earlier):
        raise DamagedError(f"{path}: its earlier saves are no list of objects. {_RESTORE}")
    return [newest, *earlier]


def _mapped(fd: int, size: int) -> memoryview:
    # A copy on write: whoever trains the weights on does not write into the file.
    return memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_COPY) if size else bytearray())


def _read_into(fd: int, piece: memoryview) -> int:
    if hasattr(os, "readv"):
        return os.readv(fd, [piece])
    data = os.read(fd, len(piece))
    piece[: len(data)] = data
    return len(data)
