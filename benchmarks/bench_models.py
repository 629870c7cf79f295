"""Models: 410 MB of float32 saved by ``log_model`` and loaded again, beside safetensors' own.

The yardstick of saving is ``save_file`` and ``fsync``, which does not hash. That of loading is, for
files that are verified, ``open().read()``, SHA-256 and ``load`` of the bytes; for others
``load_file``, which maps the file for torch and copies it for numpy. Every number is added up on
both sides, for what is mapped and never used costs nothing. Each side runs in a fresh process, in
alternation, with the model in memory or the file in the page cache before the clock starts.
"""

import importlib.util
import os
from collections.abc import Iterator

from timing import ROUNDS, Options, Row, alternate, fresh_root, main, middle, output_of, ratio

_MODEL = """
import hashlib, json, os, resource, sys, time
import numpy as np

def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def make(blocks):  # the arrays of a GPT: an embedding, and blocks of matrices and vectors
    some = np.random.default_rng(0)
    sizes = {"embedding": (32_000, 768)}
    for block in range(blocks):
        for name, size in (("qkv", 2304), ("out", 768), ("up", 3072), ("down", 3072)):
            sizes[f"block{block:02d}/{name}/w"] = (768, size)
            sizes[f"block{block:02d}/{name}/b"] = (size,)
    return {name: some.standard_normal(size, dtype=np.float32) for name, size in sizes.items()}
"""

_SAVE_YARDSTICK = (
    _MODEL
    + """
import safetensors.numpy
path, model = sys.argv[1] + "/yardstick.safetensors", make(int(sys.argv[2]))
started = time.perf_counter()
safetensors.numpy.save_file(model, path)
fd = os.open(path, os.O_RDONLY)
os.fsync(fd)
took_s = time.perf_counter() - started
os.unlink(path)
print(took_s)
"""
)

_SAVE = (
    _MODEL
    + """
import shutil
from experiment_tracking import ExperimentTracker

run = ExperimentTracker("p", root=sys.argv[1], use_tensorboard=False, auto_log=False).start_run("r")
run.log_model({"w": np.zeros(1)}, "first")
before, model = peak_bytes(), make(int(sys.argv[2]))
started = time.perf_counter()
run.log_model(model)
took_s = time.perf_counter() - started
size_bytes = sum(array.nbytes for array in model.values())
peak = (peak_bytes() - before) / size_bytes
run.end_run()
shutil.rmtree(run.path)
print(json.dumps([took_s, peak, size_bytes]))
"""
)

_LOG = (
    _MODEL
    + """
from experiment_tracking import ExperimentTracker
model = make(int(sys.argv[2]))
if sys.argv[3] == "torch":
    import torch
    model = {name: torch.from_numpy(array) for name, array in model.items()}
tracker = ExperimentTracker("p", root=sys.argv[1], use_tensorboard=False, auto_log=False)
with tracker.start_run(sys.argv[3]) as run:
    folder = run.log_model(model)
print(json.dumps(str(next(folder.glob("*.safetensors")))))
"""
)

_LOAD = """
import hashlib, os, sys, time
path, library, how, who = sys.argv[1:]
if library == "torch":
    import torch
    import safetensors.torch as safetensors
else:
    import safetensors.numpy as safetensors
from experiment_tracking.formats.models.saved import SavedModel

def yardstick(how):
    if how == "mapped":
        return safetensors.load_file(path)
    with open(path, "rb") as file:
        data = file.read()
    hashlib.sha256(data).hexdigest()
    return safetensors.load(data)

def ours(how):
    return SavedModel(os.path.dirname(path)).load(verify=how == "verified")

load = ours if who == "ours" else yardstick
load("mapped")  # what is imported only then
with open(path, "rb") as file:
    while file.read(1 << 20):
        pass
started = time.perf_counter()
loaded = load(how)
total = sum(float(array.sum()) for array in loaded.values())
print(time.perf_counter() - started)
"""


def measure(options: Options) -> Iterator[Row]:
    """Save and load a model, and measure the rows of this script."""
    blocks = options.pick(0, 11)
    yield from _measure_saving(blocks)
    libraries = ["numpy", *(["torch"] if importlib.util.find_spec("torch") else [])]
    for library in libraries:
        yield from _measure_loading(blocks, library)


def _measure_saving(blocks: int) -> Iterator[Row]:
    peaks, sizes = [], []

    def ours() -> float:
        took_s, peak, size_bytes = output_of("-c", _SAVE, root, str(blocks))
        peaks.append(peak)
        sizes.append(size_bytes)
        return float(took_s)

    with fresh_root() as root:
        rounds = alternate(
            ROUNDS, lambda: float(output_of("-c", _SAVE_YARDSTICK, root, str(blocks))), ours
        )
    against = ratio(rounds, 1)
    yield Row(
        f"`log_model` of {max(sizes) / 1e6:.0f} MB of float32, flushed and hashed",
        "≤ 1.35 x safetensors' `save_file` and fsync",
        f"{against:.2f} x ({middle(rounds, 1):.2f} s to {middle(rounds, 0):.2f} s)",
        against <= 1.35,
    )
    yield Row(
        "memory at its highest while it is saved, the model included",
        "≤ 1.1 x the model",
        f"{max(peaks):.2f} x",
        max(peaks) <= 1.1,
    )


def _measure_loading(blocks: int, library: str) -> Iterator[Row]:
    with fresh_root() as root:
        path = output_of("-c", _LOG, root, str(blocks), library)
        for how, yardstick in (
            ("verified", "reading, SHA-256 and safetensors' `load`"),
            ("mapped", "safetensors' `load_file`"),
        ):
            rounds = alternate(
                ROUNDS,
                lambda how=how: float(output_of("-c", _LOAD, path, library, how, "yardstick")),
                lambda how=how: float(output_of("-c", _LOAD, path, library, how, "ours")),
            )
            against = ratio(rounds, 1)
            word = "" if how == "verified" else ", `verify=False`"
            yield Row(
                f"`load_model` of {os.path.getsize(path) / 1e6:.0f} MB for {library}{word}",
                f"≤ 1.3 x {yardstick}",
                f"{against:.2f} x ({middle(rounds, 1):.2f} s to {middle(rounds, 0):.2f} s)",
                against <= 1.3,
            )


if __name__ == "__main__":
    main(measure, __doc__)
