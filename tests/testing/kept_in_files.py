"""A backend that keeps each run in a JSON file, and others with a fault each.

Not collected by itself: ``test_backends.py`` has pytest run it, to see which tests fail.
"""

import json
import math
import struct
import threading
from pathlib import Path

from experiment_tracking.backends import BackendInterface
from experiment_tracking.errors import BackendUnavailableError
from experiment_tracking.testing import BackendTests, Copy


class FileBackend(BackendInterface):
    """Honest: everything arrives."""

    name = "kept"

    def __init__(self, folder, away=False):
        self.options = {"folder": str(folder), "away": away}
        self.folder = Path(folder)
        self.away = away

    def start_run(self, run_name, config, run_id, tags, state, rows):
        self.reach()
        state["file"] = f"{run_id}.json"
        self.file = self.folder / state["file"]
        self.kept = self.earlier() or {
            "params": {}, "rows": [], "figures": {}, "artifacts": {}, "models": {}, "tags": {},
            "status": "running",
        }  # fmt: skip
        self.kept["params"] |= config
        self.kept["tags"] |= tags
        return len(self.kept["rows"])

    def reach(self):
        if self.away:
            raise BackendUnavailableError("Nobody is there.")

    def earlier(self):
        return json.loads(self.file.read_text()) if self.file.exists() else None

    def log_params(self, params):
        self.kept["params"] |= params

    def log_metrics(self, metrics, step, timestamp):
        self.kept["rows"].append([step, timestamp, metrics])

    def log_model(self, model, path, name):
        self.kept["models"][name] = read_below(path)

    def log_artifact(self, path, name):
        for inner, content in read_below(path).items():
            self.kept["artifacts"][f"{name}/{inner}" if inner != "." else name] = content

    def log_figure(self, path, name, step):
        self.kept["figures"][name] = Path(path).read_bytes().hex()

    def set_tags(self, tags, removed):
        self.kept["tags"] |= tags
        for name in removed:
            del self.kept["tags"][name]

    def end_run(self, status):
        self.kept["status"] = status

    def close(self):
        if hasattr(self, "kept"):
            self.file.write_text(json.dumps(self.kept))


def read_below(path):
    path = Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): file.read_bytes().hex() for file in files}


def from_hex(files):
    return {name: bytes.fromhex(content) for name, content in files.items()}


class FileTests(BackendTests):
    Backend = FileBackend

    def make_backend(self, folder):
        return self.Backend(folder)

    def make_unreachable(self, folder):
        return self.Backend(folder, away=True)

    def read(self, backend, folder):
        kept = json.loads((folder / self.run.state["file"]).read_text())
        rows = [
            (step, name, value, at) for step, at, row in kept["rows"] for name, value in row.items()
        ]
        models = {name: from_hex(files) for name, files in kept["models"].items()}
        return Copy(
            kept["params"], rows, from_hex(kept["figures"]), from_hex(kept["artifacts"]), models,
            kept["tags"], kept["status"],
        )  # fmt: skip


class TestHonest(FileTests):
    pass


class TestDeclaringLittle(FileTests):
    """Keeps rows alone, and says so."""

    keeps = frozenset({"rows", "times"})
    continues = several_runs = False

    def make_unreachable(self, folder):
        return None

    def read(self, backend, folder):
        return Copy(rows=super().read(backend, folder).rows)


# ---------------------------------------------------------------- one fault each


class TestLosingNaN(FileTests):
    class Backend(FileBackend):
        def log_metrics(self, metrics, step, timestamp):
            kept = {name: value for name, value in metrics.items() if not math.isnan(value)}
            super().log_metrics(kept, step, timestamp)


class TestDroppingStepsThatGoBack(FileTests):
    class Backend(FileBackend):
        def log_metrics(self, metrics, step, timestamp):
            if step >= max((row[0] for row in self.kept["rows"][-1:]), default=step):
                super().log_metrics(metrics, step, timestamp)


class TestKeepingOneRowAStep(FileTests):
    class Backend(FileBackend):
        def log_metrics(self, metrics, step, timestamp):
            self.kept["rows"] = [row for row in self.kept["rows"] if row[0] != step]
            super().log_metrics(metrics, step, timestamp)


class TestCuttingLargeBatches(FileTests):
    class Backend(FileBackend):
        def log_batch(self, rows):
            for row in rows[:1000]:
                metrics = {name: row[name] for name in row.keys() - {"step", "time", "attempt"}}
                self.log_metrics(metrics, row["step"], row["time"])


class TestShowingStoredNames(FileTests):
    class Backend(FileBackend):
        def log_batch(self, rows):
            for row in rows:
                metrics = {name: row[name] for name in row.keys() - {"step", "time", "attempt"}}
                self.log_metrics(metrics, row["step"], row["time"])


class TestDoublingRowsThatComeAgain(FileTests):
    class Backend(FileBackend):
        def start_run(self, run_name, config, run_id, tags, state, rows):
            super().start_run(run_name, config, run_id, tags, state, rows)


class TestBeginningAnew(FileTests):
    class Backend(FileBackend):
        def earlier(self):
            return None

        def start_run(self, run_name, config, run_id, tags, state, rows):
            super().start_run(run_name, config, run_id, tags, state, rows)


class TestMixingRuns(FileTests):
    class Backend(FileBackend):
        def start_run(self, run_name, config, run_id, tags, state, rows):
            super().start_run(run_name, config, "all", tags, state, rows)


class TestKeepingRowsOfTheRunBefore(FileTests):
    class Backend(FileBackend):
        def earlier(self):
            return super().earlier() or getattr(self, "kept", None)


class TestNeedingItsOwnThread(FileTests):
    class Backend(FileBackend):
        def __init__(self, folder, away=False):
            super().__init__(folder, away)
            self.thread = threading.get_ident()

        def reach(self):
            super().reach()
            if threading.get_ident() != self.thread:
                raise RuntimeError("another thread")


class TestClosingOnce(FileTests):
    class Backend(FileBackend):
        def close(self):
            super().close()
            if hasattr(self, "kept"):
                del self.kept
            else:
                raise RuntimeError("closed twice")


class TestKeepingRemovedTags(FileTests):
    class Backend(FileBackend):
        def set_tags(self, tags):
            self.kept["tags"] |= tags


class TestReplacingAllTags(FileTests):
    class Backend(FileBackend):
        def set_tags(self, tags, removed):
            self.kept["tags"] = tags


class TestLeavingFoldersOut(FileTests):
    class Backend(FileBackend):
        def log_artifact(self, path, name):
            if Path(path).is_file():
                super().log_artifact(path, name)


class TestKeepingTheFirstOfAFile(FileTests):
    class Backend(FileBackend):
        def log_artifact(self, path, name):
            if name not in self.kept["artifacts"]:
                super().log_artifact(path, name)


class TestKeepingWeightsOfOlderModels(FileTests):
    class Backend(FileBackend):
        def log_model(self, model, path, name):
            files = self.kept["models"].setdefault(name, {})
            files |= read_below(path)


class TestLosingFiguresWithoutAStep(FileTests):
    class Backend(FileBackend):
        def log_figure(self, path, name, step):
            if step:
                super().log_figure(path, name, step)


class TestLosingNestedParams(FileTests):
    class Backend(FileBackend):
        def start_run(self, run_name, config, run_id, tags, state, rows):
            flat = {name: value for name, value in config.items() if type(value) is not dict}
            return super().start_run(run_name, flat, run_id, tags, state, rows)


class TestFinishingAlways(FileTests):
    class Backend(FileBackend):
        def end_run(self, status):
            super().end_run("finished")


class TestRounding(FileTests):
    class Backend(FileBackend):
        def log_metrics(self, metrics, step, timestamp):
            rounded = {name: struct.unpack("f", struct.pack("f", value))[0]
                       for name, value in metrics.items() if abs(value) < 1e30}  # fmt: skip
            super().log_metrics(metrics | rounded, step, timestamp)


class TestTakingTheTimeOfNow(FileTests):
    class Backend(FileBackend):
        def log_metrics(self, metrics, step, timestamp):
            super().log_metrics(metrics, step, timestamp + 1)


class TestRefusingWhenAway(FileTests):
    class Backend(FileBackend):
        def reach(self):
            if self.away:
                raise ValueError("no answer")


class TestPassingOverThatItIsAway(FileTests):
    class Backend(FileBackend):
        def reach(self):
            pass


class TestWithOptionsThatAreNoJson(FileTests):
    class Backend(FileBackend):
        def __init__(self, folder, away=False):
            super().__init__(folder, away)
            self.options = {"folder": str(folder), "away": (away,)}


class TestWithOptionsThatDoNotMakeIt(FileTests):
    class Backend(FileBackend):
        def __init__(self, folder, away=False):
            super().__init__(folder, away)
            self.options = {"folder": str(folder) + "-2", "away": away}


class TestWithSwappedParameters(FileTests):
    class Backend(FileBackend):
        def log_metrics(self, step, metrics):
            pass


class TestSayingTooLittle(FileTests):
    """Tags arrive that nobody declared: they would never be tested."""

    keeps = BackendTests.keeps - {"tags", "removed tags"}


class TestSayingTooMuch(FileTests):
    def read(self, backend, folder):
        return super().read(backend, folder)._replace(tags=None)
