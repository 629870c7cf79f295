"""What the event files of one folder hold, put together as a run.

Values have two forms: those of TensorBoard 1, a field for each kind, and those of TensorBoard 2,
tensors whose kind is the name of a plugin (tensorboard/data_compat.py is the bridge between them).
"""

from __future__ import annotations

import math
import struct
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from experiment_tracking.backends.tensorboard import _tensorboardx
from experiment_tracking.folder.documents import encode
from experiment_tracking.importers.extracted import ExtractedFiles, name_with_step
from experiment_tracking.importers.found import FoundRow
from experiment_tracking.importers.histograms import to_histogram
from experiment_tracking.importers.tfrecords import EventFile

_TEXT_SUFFIX = "/text_summary"  # which torch and tensorboardX put behind a text's name

_LEFT_OUT = {
    "graph_def": "graphs",
    "meta_graph_def": "graphs",
    "tagged_run_metadata": "run metadata of graphs",
    "log_message": "log messages",
    "pr_curves": "precision-recall curves",
    "mesh": "parts of meshes",
    "custom_scalars": "layouts of custom scalars",
    "": "empty values",
}
"""What run folders have no place for, by field of the event or name of the plugin."""

# By number in tensorflow/core/framework/types.proto: struct's letter, and the tensor's field.
_TYPES = {
    1: ("f", "float_val"), 2: ("d", "double_val"), 3: ("i", "int_val"), 4: ("B", "int_val"),
    5: ("h", "int_val"), 6: ("b", "int_val"), 9: ("q", "int64_val"), 10: ("?", "bool_val"),
    19: ("e", ""),
}  # fmt: skip
_FLOAT32 = 1

_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".wav"}

_RESTART = 1  # tensorflow/core/util/event.proto
_STATUSES = {1: "finished", 2: "failed", 3: "running"}  # tensorboard/plugins/hparams/api.proto


def shortest(value: float) -> float:
    """Return the float with the fewest digits among those that are this one as float32.

    Event files hold float32, so 0.1 comes back from them as 0.10000000149011612.

    >>> shortest(0.10000000149011612)
    0.1
    """
    if value - value != 0:  # NaN and infinities, which JSON has not
        return value
    import numpy as np

    # orjson writes float32 with as few digits as are needed, four times as quick as numpy.
    return float(orjson.dumps(np.float32(value), option=orjson.OPT_SERIALIZE_NUMPY))


class Points:
    """Scalars in the order in which they were written; as rows, those of one record together."""

    def __init__(self) -> None:
        self.tags: dict[str, int] = {}
        self.times = array("d")
        self._tag = array("I")
        self._step = array("q")
        self._value = array("d")

    def add(self, tag: str, step: int, time: float, value: float) -> None:
        """Add one; ``time`` in Unix seconds."""
        self._tag.append(self.tags.setdefault(tag, len(self.tags)))
        self._step.append(step)
        self.times.append(time)
        self._value.append(value)

    def extend(self, points: Points, tag: str | None) -> None:
        """Add the points of another place, all under ``tag`` if that is given."""
        names = [tag or name for name in points.tags]
        for number, step, time, value in points._columns():
            self.add(names[number], step, time, value)

    def __iter__(self) -> Iterator[FoundRow]:
        names = list(self.tags)
        row: dict[str, float] = {}
        at = 0, 0.0
        for number, step, time, value in self._columns():
            name = names[number]
            if row and (at != (step, time) or name in row):
                yield *at, row
                row = {}
            at = step, time
            row[name] = value
        if row:
            yield *at, row

    def _columns(self) -> Iterator[tuple[int, int, float, float]]:
        return zip(self._tag, self._step, self.times, self._value, strict=True)


class TensorBoardLog:
    """Read the event files of a folder, in the order given.

    Parameters
    ----------
    paths
        The files. One that is damaged gives what is whole in it.

    Raises
    ------
    OSError
        If a file cannot be read.

    Notes
    -----
    Holds 28 bytes for each point, and what is no scalar in a temporary folder. About 4 s for a
    million points.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.points = Points()
        self.params: dict[str, Any] = {}
        self.files = ExtractedFiles()
        self.group = ""
        self.notes = ""
        self.status = "finished"  # event files do not say, unless the hparams plugin does
        self.left_out: Counter[str] = Counter()
        """What is not carried, and how much of it."""
        self.started_at_s = math.inf
        self.ended_at_s = -math.inf
        self._plugins: dict[str, str] = {}
        for path in paths:
            self._read(EventFile(path))
        times = self.points.times
        self.started_at_s = min([self.started_at_s, *times[:1]])
        self.ended_at_s = max([self.ended_at_s, *times[-1:]])

    def add(self, piece: TensorBoardLog, curve: str | None) -> None:
        """Take in what another folder holds; its points are named ``curve``, if that is given."""
        self.points.extend(piece.points, curve)
        self.files.take_over(piece.files)
        self.left_out.update(piece.left_out)
        self.ended_at_s = max(self.ended_at_s, piece.ended_at_s)
        if piece.params:
            self.params |= piece.params
            self.group, self.notes, self.status = piece.group, piece.notes, piece.status

    def _read(self, file: EventFile) -> None:
        add = self.points.add
        for event in file:
            step, time = event.step, event.wall_time
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    add(value.tag, step, time, shortest(value.simple_value))
                else:
                    self._take(value, step, time)
            if not event.HasField("summary"):
                self._take_other(event.WhichOneof("what"), event)
        self.left_out["damaged places in event files"] += file.damaged
        self.left_out["torn ends of event files"] += file.torn

    def _take_other(self, what: str | None, event: Any) -> None:
        if what == "file_version":
            self.started_at_s = min(self.started_at_s, event.wall_time)
        elif what == "session_log" and event.session_log.status == _RESTART and event.step:
            self.left_out["restarts, since which TensorBoard hides rows that are kept here"] += 1
        elif what in _LEFT_OUT:
            self.left_out[_LEFT_OUT[what]] += 1

    def _take(self, value: Any, step: int, time: float) -> None:
        """Take in a value that is no plain scalar."""
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

        self.ended_at_s = max(self.ended_at_s, time)
        # Only the first value of a tag need say what its plugin is.
        plugin = value.metadata.plugin_data.plugin_name or self._plugins.get(value.tag, "")
        self._plugins[value.tag] = plugin
        field = value.WhichOneof("value")
        kind = field if field in _READERS else plugin
        if kind not in _READERS:
            self.left_out[_LEFT_OUT.get(kind, f"values of the kind {kind!r:.60}")] += 1
            return
        try:
            _READERS[kind](self, value, step, time)
        except (ValueError, LookupError, OverflowError, struct.error, DecodeError):
            self.left_out[f"damaged values of the kind {kind!r}"] += 1

    def _take_scalar(self, value: Any, step: int, time: float) -> None:
        (number,) = _numbers(value.tensor)
        is_float32 = value.tensor.dtype == _FLOAT32
        self.points.add(value.tag, step, time, shortest(number) if is_float32 else float(number))

    def _take_image(self, value: Any, step: int, time: float) -> None:
        self._keep_media("image", [value.image.encoded_image_string], value.tag, step, time)

    def _take_images(self, value: Any, step: int, time: float) -> None:
        # Width and height come first.
        self._keep_media("image", value.tensor.string_val[2:], value.tag, step, time)

    def _take_audio(self, value: Any, step: int, time: float) -> None:
        self._keep_media("audio", [value.audio.encoded_audio_string], value.tag, step, time)

    def _take_audios(self, value: Any, step: int, time: float) -> None:
        # In a tensor of two axes each is followed by its label.
        stride = len(value.tensor.tensor_shape.dim)
        self._keep_media("audio", value.tensor.string_val[::stride], value.tag, step, time)

    def _keep_media(
        self, kind: str, contents: Sequence[bytes], tag: str, step: int, time: float
    ) -> None:
        for number, content in enumerate(contents):
            suffix = next((_SUFFIXES[mark] for mark in _SUFFIXES if content.startswith(mark)), "")
            tag_of_one = tag if len(contents) == 1 else f"{tag}/{number}"
            name = name_with_step(tag_of_one, step, suffix)
            self.files.keep(content, name, kind, step, logged_at_s=time)

    def _take_text(self, value: Any, step: int, time: float) -> None:
        name = name_with_step(value.tag.removesuffix(_TEXT_SUFFIX), step, ".txt")
        self.files.keep(b"\n\n".join(value.tensor.string_val), name, "text", step, logged_at_s=time)

    def _take_histo(self, value: Any, step: int, time: float) -> None:
        old, number = value.histo, value.histo.num
        mean = old.sum / number if number else None
        variance = None if mean is None else old.sum_squares / number - mean * mean
        self._keep_histogram(value.tag, step, time, to_histogram(*_buckets(old), mean, variance))

    def _take_histogram(self, value: Any, step: int, time: float) -> None:
        numbers = _numbers(value.tensor)
        lefts, rights, counts = numbers[::3], numbers[1::3], numbers[2::3]
        histogram = to_histogram(counts, [*lefts, *rights[-1:]])
        self._keep_histogram(value.tag, step, time, histogram)
        if histogram["count"]:
            self.left_out["mean and std of histograms: here those of the bins' middles"] += 1

    def _keep_histogram(
        self, tag: str, step: int, time: float, histogram: Mapping[str, Any]
    ) -> None:
        name = name_with_step(tag, step, ".json")
        self.files.keep(encode(histogram), name, "histogram", step, logged_at_s=time)

    def _take_hparams(self, value: Any, step: int, time: float) -> None:
        content = value.metadata.plugin_data.content
        data = _tensorboardx().HParamsPluginData.FromString(content)
        match data.WhichOneof("data"):
            case "session_start_info":
                hparams = data.session_start_info.hparams
                self.params |= {name: _plain(hparams[name]) for name in sorted(hparams)}
                self.group = data.session_start_info.group_name
            case "session_end_info":
                self.status = _STATUSES.get(data.session_end_info.status, self.status)
            case "experiment":
                self.notes = data.experiment.description


_READERS: Mapping[str, Callable[[TensorBoardLog, Any, int, float], None]] = {
    "histo": TensorBoardLog._take_histo,
    "image": TensorBoardLog._take_image,
    "audio": TensorBoardLog._take_audio,
    "scalars": TensorBoardLog._take_scalar,
    "histograms": TensorBoardLog._take_histogram,
    "images": TensorBoardLog._take_images,
    "text": TensorBoardLog._take_text,
    "hparams": TensorBoardLog._take_hparams,
}


def _plain(value: Any) -> Any:
    """Return a hyperparameter; all numbers are doubles there, so whole ones become integers."""
    plain = getattr(value, value.WhichOneof("kind") or "null_value")
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain


def _numbers(tensor: Any) -> Sequence[float]:
    if tensor.dtype not in _TYPES:
        raise ValueError(f"type {tensor.dtype}")
    letter, field = _TYPES[tensor.dtype]
    content = tensor.tensor_content
    if not content:
        return list(getattr(tensor, field))
    return struct.unpack(f"<{len(content) // struct.calcsize(letter)}{letter}", content)


def _buckets(histo: Any) -> tuple[list[float], list[float]]:
    """Return counts and edges of a histogram of TensorBoard 1.

    As TensorBoard shows it: without the empty buckets at both ends, and with min and max in place
    of the outermost limits, which may be the largest floats there are.
    """
    counts, limits = list(histo.bucket), list(histo.bucket_limit)
    filled = [place for place, count in enumerate(counts) if count > 0]
    if not filled:
        return [], []
    first, last = filled[0], filled[-1]
    return counts[first : last + 1], [histo.min, *limits[first:last], histo.max]
