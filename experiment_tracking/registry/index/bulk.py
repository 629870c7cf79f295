"""Finished runs about which nothing is unusual, read by the thousand.

Whatever stands out is left to :class:`~experiment_tracking.registry.record.RunRecord`. Reading
processes import this module and next to nothing else.
"""

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson

from experiment_tracking.folder.layout import FORMAT, RunFolder
from experiment_tracking.folder.liveness import FINAL
from experiment_tracking.registry.index.looks import Facts, facts_of, stamp_of
from experiment_tracking.registry.index.segments import Builder, Segment, decode, encode
from experiment_tracking.registry.summary import CLOSING_BYTES

START_RUNS = 1600
"""As many runs are read in the time in which a process starts."""

UNUSUAL = (
    OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError,
    RecursionError,
)  # fmt: skip
"""What reading an unusual run so runs into."""

_HERE = RunFolder(".")
SUMMARY = _HERE.summary.removeprefix(_HERE.path)
PARAMS = _HERE.params.removeprefix(_HERE.path)
_AMENDMENTS = _HERE.amendments.removeprefix(_HERE.path)
_LARGE_BYTES = 4 * 2**20
_STEP = 200
_OPENING = ord("{")
_TEXT = frozenset((str,))
_FLAGS = os.O_RDONLY
for _flag in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"):
    _FLAGS |= getattr(os, _flag, 0)


class BulkReader:
    """Reads runs into a builder.

    Parameters
    ----------
    base
        Start of the runs' paths: a root and a slash, or nothing.
    settled_before
        Files that changed after this (ns since 1970) may change again without a trace in their
        times, so what was read of them is not to be kept: its stamp is 0.
    """

    def __init__(self, base: str, settled_before: int) -> None:
        self.builder = Builder()
        self._base = base
        self._settled_before = settled_before

    def read(self, keys: Sequence[str], progress: Callable[[int], None] | None = None) -> list[int]:
        """Read the runs that have ended and about which nothing is unusual.

        Nine system calls a run, and each microsecond counts: there are ten thousand.

        Parameters
        ----------
        keys
            The runs' paths below ``base``.
        progress
            Called now and then with how many runs have been looked at.

        Returns
        -------
        list
            Positions of the runs that were passed over; the others are in the builder, in order.
        """
        left: list[int] = []
        for position, key in enumerate(keys):
            if progress is not None and not position % _STEP:
                progress(position)
            try:
                self._add(key)
            except UNUSUAL:
                left.append(position)
        return left

    def _add(self, key: str) -> None:
        path = self._base + key
        of_params, data = _read(path + PARAMS)
        params = orjson.loads(data)
        if data.rfind(b"{"):  # nested, or text with a brace in it
            params = _flat(params)
        of_summary, data = _read(path + SUMMARY)
        summary = orjson.loads(data)
        history = summary["history"]
        said = summary["status"]
        texts = (summary["created_at"], summary["id"], summary["notes"])
        if (
            summary["format"] != FORMAT
            or said not in FINAL
            or history["digested_bytes"] + CLOSING_BYTES < history["bytes"]
            or not _TEXT.issuperset(map(type, texts))
            or type(summary["goals"]) is not dict
            or type(summary["attempts"]) is not list
            # Asked for last: a correction that comes later gives the summary another stamp.
            or os.access(path + _AMENDMENTS, os.F_OK)
        ):
            raise ValueError("unusual")
        is_settled = max(*of_params[:2], *of_summary[:2]) < self._settled_before
        stamp = stamp_of(path, of_summary, of_params) if is_settled else 0
        created_at, identity, notes = texts
        get = summary.get
        origin = get("imported_from")
        facts = (
            key, stamp, 0, identity, said, "", created_at, get("ended_at"), get("duration_s"),
            notes, get("group"), get("parent"), get("exit_code"), get("rerun_of"),
            None if origin is None else str(origin.get("kind")), get("commit"),
        )  # fmt: skip
        self.builder.add(facts, params, summary["metrics"], summary["tags"])


def _read(path: str) -> tuple[Facts, bytes]:
    # A pipe in a file's place has no bytes, and opening it does not wait for a writer.
    fd = os.open(path, _FLAGS)
    try:
        facts = facts_of(os.fstat(fd))  # before the bytes: what changes while we read shows later
        if facts[3] > _LARGE_BYTES:
            raise ValueError("large")
        data = os.read(fd, facts[3])
    finally:
        os.close(fd)
    if data[0] != _OPENING:  # a space: numbers that orjson would change, see documents.encode
        raise ValueError("no plain object")
    return facts, data


def _flat(params: Any) -> Any:
    from experiment_tracking.registry.record import flat  # not needed for most runs

    return flat(params)


# ---------------------------------------------------------------------- in several processes


def serve(base: str, settled_before: str, *keys: str) -> None:
    """Read runs, as a process of its own; answer on stdout."""
    gc.disable()
    reader = BulkReader(base, int(settled_before))
    left = reader.read(keys)
    for block in (orjson.dumps(left), b"\n", *encode(reader.builder.segment())):
        sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()


class Answer(NamedTuple):
    """What a helping process has read, and the positions of the runs that it passed over."""

    segment: Segment
    left: list[int]


def to_answer(data: bytes, count: int) -> Answer | None:
    """Understand what :func:`serve` has written of ``count`` runs; None if it is anything else."""
    with contextlib.suppress(ValueError, TypeError):  # DamagedError among them
        left, segment = data.split(b"\n", 1)
        answer = Answer(decode(segment), orjson.loads(left))
        if len(answer.segment) + len(answer.left) == count:
            return answer
    return None
