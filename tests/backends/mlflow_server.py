"""A real MLflow server on this machine, which can be killed and started again."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

STARTS_WITHIN_S = 120


class MLflowServer:
    """``mlflow server`` with a sqlite database: one worker, no jobs, no telemetry."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process = None

    def launch(self):
        """Start it; it takes 20 s until it answers."""
        words = (
            "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.folder}/m.db",
            "--artifacts-destination", f"{self.folder}/art", "--workers", "1",
            "--host", "127.0.0.1", "--port", str(self.port),
        )  # fmt: skip
        variables = {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"],
        }
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *words],
                env=kept | variables,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self):
        """Start it, and wait until it answers."""
        if self._process is None:
            self.launch()
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not self.answers():
            log = (self.folder / "server.log").read_text(errors="replace")
            assert self._process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.1)

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except OSError:
            return False

    def kill(self):
        """End it and its worker at once, as a crash would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
