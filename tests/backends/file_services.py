"""Services that keep in a folder what they are given, and fail as the test wants.

``away`` in the folder: the service does not answer. ``forbidden``: it refuses to begin. ``cut``:
the connection breaks, for good. ``place`` holds where the service is. A file or row of which
``poison`` is part is refused.
"""

import json
import os
import signal
from pathlib import Path

from experiment_tracking.backends import BackendInterface
from experiment_tracking.errors import BackendError, BackendUnavailableError


class Service(BackendInterface):
    """Takes rows one by one; knows the calls it was given, one JSON line each."""

    name = "service"

    def __init__(self, folder, dies_in_call=0, dies_before=False, token=""):
        self.options = {"folder": folder}
        self.folder = Path(folder)
        self.is_cut = False
        place = self.folder / "place"
        self.place = place.read_text() if place.exists() else ""
        self.calls = 0
        self.dies_in_call = dies_in_call
        self.dies_before = dies_before

    def note(self, method, *values, rows=None):
        if (self.folder / "away").exists():
            raise BackendUnavailableError("the service is away, says https://me:hunter2@host/x")
        if (self.folder / "cut").exists():
            (self.folder / "cut").unlink()
            self.is_cut = True
        if self.is_cut:
            raise ConnectionResetError("the connection was cut")
        self.calls += 1
        dies = self.calls == self.dies_in_call
        if dies and self.dies_before:
            os.kill(os.getpid(), signal.SIGKILL)
        if method not in ("start", "end") and "poison" in json.dumps([values, rows]):
            self.append("refused.jsonl", [[method, *values]])
            raise ValueError("poison, password=hunter2")
        if rows is None:
            self.append("calls.jsonl", [[method, *values]])
        else:
            self.append("rows.jsonl", rows)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    def append(self, name, values):
        with (self.folder / name).open("ab", buffering=0) as file:
            file.write("".join(json.dumps(value) + "\n" for value in values).encode())

    def read(self, name):
        file = self.folder / name
        lines = file.read_bytes().split(b"\n") if file.exists() else [b""]
        return [json.loads(line) for line in lines[:-1]]

    def start_run(self, run_name, config, project, run_id, path, tags, group, notes, parent,
                  created_at, attempt, rows, state):  # fmt: skip
        if (self.folder / "forbidden").exists():
            raise BackendError("no permission")
        known = {
            "project": project, "path": path, "tags": tags, "group": group, "notes": notes,
            "parent": parent, "attempt": attempt, "rows": rows, "state": dict(state),
        }  # fmt: skip
        self.note("start", run_name, config, known)
        state["id"] = run_id
        state["url"] = f"https://host/{run_id}"

    def log_metrics(self, metrics, step, timestamp, attempt):
        self.note("row", rows=[{"step": step, "time": timestamp, "attempt": attempt} | metrics])

    def log_model(self, model, path, name, metadata, step):
        files = sorted(file.name for file in path.iterdir())
        named = json.loads((path / "model.json").read_text())["files"]
        is_whole = files == sorted(["model.json", *(file["file"] for file in named.values())])
        self.note("model", str(model), str(path), name, metadata, step, is_whole)

    def log_params(self, params):
        self.note("params", params)

    def log_artifact(self, path, name, artifact_type, description, step):
        files = sorted(p.name for p in path.iterdir()) if path.is_dir() else path.read_text()
        self.note("artifact", str(path), name, artifact_type, description, step, files)

    def log_figure(self, path, name, step, timestamp):
        self.note("figure", str(path), name, step, timestamp > 1e9)

    def set_tags(self, tags, removed, notes):
        self.note("tags", tags, removed, notes)

    def log_environment(self, environment):
        self.note("environment", sorted(environment))

    def end_run(self, status, summary, ended_at, error):
        self.note("end", status, summary, bool(ended_at), error)

    def close(self):
        self.append("closed.jsonl", [self.calls])


class BatchService(Service):
    """Takes batches: all of one or nothing."""

    name = "batch-service"

    def log_batch(self, rows):
        self.note("batch", rows=rows)


class CountingService(BatchService):
    """Says at each start how many rows have arrived."""

    name = "counting-service"

    def start_run(self, run_name, config, **known):
        rows = self.folder / "rows.jsonl"
        if rows.exists():  # A batch that was cut off has not arrived.
            rows.write_bytes(rows.read_bytes()[: rows.read_bytes().rfind(b"\n") + 1])
        super().start_run(run_name, config, **known)
        return len(self.read("rows.jsonl"))


SERVICES = [Service, BatchService, CountingService]
