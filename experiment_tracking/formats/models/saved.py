"""A model as it lies in a folder: what was kept of it, read back and checked."""

from __future__ import annotations

import errno
import mmap
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import (
    DamagedError,
    FormatError,
    InvalidTypeError,
    InvalidValueError,
    NotFoundError,
)
from experiment_tracking.folder import io
from experiment_tracking.folder.digest import goal_of
from experiment_tracking.folder.documents import read_document
from experiment_tracking.folder.hashing import HashedBeside
from experiment_tracking.folder.layout import MODEL_DOCUMENT
from experiment_tracking.folder.values import Number, from_stored
from experiment_tracking.formats import tensor_files
from experiment_tracking.formats.trees import rebuild_tree
from experiment_tracking.notices import notice

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
DOCUMENT = MODEL_DOCUMENT

_PIECE_BYTES = 1 << 22

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KINDS: dict[str, type] = {
    "name": str, "framework": str, "step": int, "metrics": dict, "goals": dict, "metadata": dict,
    "aliases": list, "class": str, "versions": dict, "signature": dict, "save": int,
    "size_bytes": int,
}  # fmt: skip
"""What must be of which kind where it is there at all; the rest is for people to read."""


class SavedModel:
    """A model in a folder of its own, as ``log_model`` or the model registry keeps it.

    Parameters
    ----------
    path
        Folder with ``model.json``.
    step
        Which of the saves that are kept: the newest one at that step; by default the newest.
    best
        A metric, in the place of ``step``: the save at which it was best, by its goal. Where none
        is known say which is better: ``"energy:min"``, ``"energy:max"``.

    Notes
    -----
    Nothing is read before it is asked for. A model that is saved again meanwhile gives the old
    save or the new one, never a mixture.
    """

    def __init__(
        self, path: str | os.PathLike[str], step: int | None = None, best: str | None = None
    ) -> None:
        if step is not None and best is not None:
            raise InvalidValueError("Give step= or best=, not both: each says which save.")
        self._folder = os.path.abspath(path)
        self._step, self._best = step, best

    def __repr__(self) -> str:
        which = "" if self._step is None else f", step={self._step}"
        which += "" if self._best is None else f", best={self._best!r}"
        return f"SavedModel({self._folder!r}{which})"

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
            If no save of that step is kept; if it is missing (a FileNotFoundError, too).
        OSError
            If it cannot be read now.
        """
        return self._save().document

    @property
    def step(self) -> int | None:
        """Training step of this save; a loop that is resumed goes on behind it."""
        step: int | None = self.document.get("step")
        return step

    @property
    def metrics(self) -> dict[str, Number | None]:
        """The last value of each metric when it was saved."""
        return {name: from_stored(v) for name, v in (self.document.get("metrics") or {}).items()}

    @property
    def saves(self) -> list[dict[str, Any]]:
        """What ``model.json`` says of each save that is kept, the newest first."""
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
        NotFoundError
            If there is no model, or no save of that step.
        InvalidValueError
            If it is a pickle and that is not allowed; if it does not fit ``into`` or is larger
            than the memory.
        MissingPackageError
            If its framework is not installed.

        Notes
        -----
        Takes the memory of the model once, and about as long as reading and hashing its files,
        which come to ``document["size_bytes"]``. Foreign files may be as large as they say: look
        at that before.
        """
        names = _to_names(trusted)
        return self._reading(
            lambda save: save.format.load(save, into, as_numpy=as_numpy, trusted=names),
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
        while True:
            save = self._save()
            save.verify = verify
            save.check_safe(allow_unsafe)
            try:
                return read(save)
            except _GoneError as gone:
                # Saved again meanwhile: model.json names other files now. However often: each
                # time, two saves have been made while one was read.
                if self._save().document == save.document:
                    raise DamagedError(
                        f"{gone} It is named by model.json; restore both from the same save."
                    ) from None

    def _save(self) -> Save:
        saves = saves_in(self._folder)
        if self._best is not None:
            return Save(self._folder, best_of(saves, self._best, f"Model in {self._folder}"))
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


class _NoModelError(NotFoundError, FileNotFoundError):
    """A folder without ``model.json``."""


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
        return f"Model {self.document['name']!r:.80} in {self.folder}"

    @property
    def format(self) -> Any:
        """The format of its framework, a ModelFormat."""
        from experiment_tracking.formats.models.catalog import format_named

        return format_named(self.document["framework"], self.subject)

    @property
    def roles(self) -> list[str]:
        """What it has files for: ``weights``, ``optimizer``, ``program``, ``example``."""
        return list(self.document["files"])

    def check_safe(self, allow_unsafe: bool) -> None:
        """Refuse what can only be opened by running code, unless that is allowed.

        Raises
        ------
        InvalidValueError
            With what to pass, and when.
        """
        if self.document["framework"] == "cloudpickle" and not allow_unsafe:
            raise InvalidValueError(
                f"{self.subject} is a pickle, which can run any code when it is opened. If you "
                "or somebody you trust made it: load_model(..., allow_unsafe=True)."
            )

    def warn_of_other_versions(self) -> None:
        """Say once where this process has other versions of the framework than saved it."""
        import sys

        for package, version in (self.document.get("versions") or {}).items():
            here = getattr(sys.modules.get(package), "__version__", version)
            if here != version and isinstance(version, str):
                notice(f"{self.subject} was saved with {package} {version}, this is {here}.")

    def known(self, role: str) -> Mapping[str, Any]:
        """Return what is known of one file.

        Raises
        ------
        NotFoundError
            If the save has none for that.
        """
        try:
            known: Mapping[str, Any] = self.document["files"][role]
        except KeyError:
            raise NotFoundError(
                f"{self.subject} was saved without {role}. It has {', '.join(self.roles)}."
            ) from None
        return known

    def read(self, role: str) -> memoryview:
        """Return one file's bytes, in memory of their own; they have the size and hash kept.

        Raises
        ------
        DamagedError
            If the file is a link or no regular file, or differs.
        InvalidValueError
            If it is larger than the memory.
        """
        known = self.known(role)
        path = os.path.join(self.folder, known["file"])
        try:
            fd = io.open_for_reading(path)
        except FileNotFoundError:
            raise _GoneError(f"{self.subject}: {path} is gone.") from None
        try:
            size = os.fstat(fd).st_size
            if size != known["size_bytes"]:
                raise DamagedError(
                    f"{self.subject}: {known['file']} has {size:,} bytes, model.json says "
                    f"{known['size_bytes']:,}. {_RESTORE}"
                )
            if not self.verify:
                return self._mapped(fd, size, known)
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
        subject = f"{self.subject}: {known['file']}"
        parts = tensor_files.parse(self.read(role), subject)
        tensors, tree = known.get("tensors"), known.get("tree")
        if not isinstance(tensors, dict):
            raise DamagedError(f"{subject} is no file of arrays by model.json. {_RESTORE}")
        return rebuild_tree(parts, tensors, tree, as_numpy=as_numpy)

    def _read_verified(self, fd: int, size: int, known: Mapping[str, Any]) -> memoryview:
        # Into memory of our own, hashed as it comes: the bytes that were checked are the bytes
        # that are used, whatever happens to the file.
        data = self._aligned(fd, size, known)
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
        if done < size or digest.hexdigest() != known["sha256"]:
            raise DamagedError(
                f"{self.subject}: {known['file']} does not have the SHA-256 that model.json "
                f"gives. {_RESTORE}"
            )
        return data

    def _aligned(self, fd: int, size: int, known: Mapping[str, Any]) -> memoryview:
        """Return memory in which the tensors of a safetensors file begin at a multiple of 64.

        JAX takes such memory over as it is, and copies any other.
        """
        start = io.read_range(fd, 0, 8)
        shift = -(8 + int.from_bytes(start, "little")) % 64
        return self._mapped(-1, size + shift, known)[shift:]

    def _mapped(self, fd: int, size: int, known: Mapping[str, Any]) -> memoryview:
        """Map a file, or with -1 memory that is nobody else's.

        Copied on write: whoever trains the weights on does not write into the file. For memory
        alone, numpy would ask for huge pages, and wait for them up to a second for 400 MB where
        memory is in pieces.
        """
        try:
            return memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_COPY) if size else b"")
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            raise InvalidValueError(
                f"{self.subject}: {known['file']} has {size:,} bytes, more than this process can "
                "have of memory. Load it on a larger machine; where it comes from a safe place, "
                "verify=False maps weights and reads only what is used."
            ) from None


_RESTORE = "Restore all of its files from the same save."


def saves_in(folder: str) -> list[dict[str, Any]]:
    """Return what ``model.json`` says of each save that is kept, the newest first.

    Raises
    ------
    DamagedError
        If it is no such document (a name that leads out of the folder, no size, no hash, a value
        of another kind), or (FormatError) of another version.
    NotFoundError
        If it is missing (a FileNotFoundError, too).
    OSError
        If it cannot be read now.
    """
    path = os.path.join(folder, DOCUMENT)
    try:
        newest = read_document(path)
    except (FileNotFoundError, NotADirectoryError):
        raise _NoModelError(f"There is no model in {folder}: it has no {DOCUMENT}.") from None
    _check_format(path, newest.get("format"))
    earlier = newest.pop("earlier", [])
    if type(earlier) is not list:
        raise DamagedError(f"{path}: earlier is {type(earlier).__name__}, expected list.")
    for save in (newest, *earlier):
        if problem := _problem(save):
            raise DamagedError(f"{path}: {problem}. {_RESTORE}")
    return [newest, *earlier]


def best_of(saves: Sequence[dict[str, Any]], metric: str, subject: str) -> dict[str, Any]:
    """Return the save at which a metric was best; NaN never is, and of equal ones it is the newest.

    Raises
    ------
    NotFoundError
        If no save knows the metric.
    InvalidValueError
        If it is not known which direction is better.
    """
    name, _, end = metric.rpartition(":")
    name, goal = (name, _GOALS[end]) if name and end in _GOALS else (metric, None)
    there = {key for save in saves for key in save.get("metrics") or {}}
    ranked = [save for save in saves if _value(save, name) is not None]
    if not ranked:
        known = ", ".join(sorted(there)[:10]) or "none"
        raise NotFoundError(f"{subject}: no save has a value of {name!r}. They know {known}.")
    goal = goal or (saves[0].get("goals") or {}).get(name) or goal_of(name)
    if goal is None:
        raise InvalidValueError(
            f"{subject}: whether less or more of {name!r} is better is not known. Say it: "
            f"{name + ':min'!r} or {name + ':max'!r}."
        )
    return (max if goal == "maximize" else min)(ranked, key=lambda save: _value(save, name))


_GOALS = {"min": "minimize", "max": "maximize"}


def _value(save: Mapping[str, Any], metric: str) -> Any:
    value = from_stored((save.get("metrics") or {}).get(metric))
    return None if value is None or value != value else value


def _to_names(trusted: Any) -> tuple[Any, ...]:
    given = (trusted,) if isinstance(trusted, str) else trusted
    names = tuple(given) if isinstance(given, Iterable) else (None,)
    if all(isinstance(name, str) for name in names):
        return names
    raise InvalidTypeError(
        f"trusted= is {trusted!r:.60}. Pass full names of types and functions: "
        "trusted=['my_module.my_function']."
    )


def _check_format(path: str, found: Any) -> None:
    if type(found) is int and found == FORMAT:
        return
    shown = f"{found!r:.40}" if type(found) is int else f"of type {type(found).__name__}"
    newer = type(found) is int and found > FORMAT
    what = "Upgrade experiment_tracking." if newer else "Save the model again."
    raise FormatError(f"{path} has format {shown}, this version reads {FORMAT}. {what}")


def _problem(save: Any) -> str | None:
    """Say what is wrong with what is said of a save: ``model.json`` may come from anybody."""
    if type(save) is not dict:
        return f"a save is {type(save).__name__}, expected dict"
    for key, kind in _KINDS.items():
        missing = save.get(key) is None and key not in ("name", "framework")
        if not missing and type(save.get(key)) is not kind:
            return f"{key} is {type(save.get(key)).__name__}, expected {kind.__name__}"
    if type(save.get("files")) is not dict or not save["files"]:
        return "it names no files"
    return next(filter(None, map(_problem_of_file, save["files"].values())), None)


def _problem_of_file(known: Any) -> str | None:
    if type(known) is not dict:
        return f"a file is {type(known).__name__}, expected dict"
    name, size, digest = (known.get(key) for key in ("file", "size_bytes", "sha256"))
    # A bare name that no system reads as anything else: it must not lead out of the folder.
    if type(name) is not str or not _FILE_NAME.fullmatch(name):
        shown = f"{name!r:.80}" if type(name) is str else type(name).__name__
        return f"it names {shown}, expected a file beside it"
    if type(size) is not int or not 0 <= size < 2**63:
        return f"size_bytes of {name} is no size"
    if type(digest) is not str or not _SHA256.fullmatch(digest):
        return f"sha256 of {name} is no SHA-256"
    return None


def _read_into(fd: int, piece: memoryview) -> int:
    if hasattr(os, "readv"):
        return os.readv(fd, [piece])
    data = os.read(fd, len(piece))
    piece[: len(data)] = data
    return len(data)
