"""W&B's service and its process: where it is, who logs in, and what is left when we go."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from experiment_tracking.errors import (
    BackendError,
    BackendUnavailableError,
    ExperimentTrackingError,
)
from experiment_tracking.notices import notice

_MODES = {
    "online": "online", "offline": "offline", "disabled": "disabled",
    "run": "online", "dryrun": "offline",
}  # fmt: skip
"""What may stand in ``$WANDB_MODE``, in today's words."""

_ADDRESS = "https://api.wandb.ai"
_ASK_S = 10.0
_TEARDOWN_S = 2.0
_ORPHAN_S = 5.0
_CORE = "wandb-core"

_AWAY = {
    "CommError", "MailboxClosedError", "HandleAbandonedError", "WandbServiceConnectionError",
    "WaitTimeoutError", "WandbCoreNotAvailableError", "ServicePollForTokenError",
    "WandbApiFailedError",
}  # fmt: skip
"""W&B's errors that a later call may not meet; some are not public, so all go by name."""

_QUIET = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    # Its own watch over us, which would add to what a run shows.
    "WANDB_CONSOLE": "off",
}

_CACHES = ("WANDB_CACHE_DIR", "WANDB_DATA_DIR")

_told_offline = False


# Where and who ------------------------------------------------------------------------------------


def decide_mode(given: str | None) -> str:
    """Return ``online``, ``offline`` or ``disabled``; without a word, what the login allows.

    Raises
    ------
    BackendError
        For another mode, and for ``online`` without a login.
    """
    word = given or os.environ.get("WANDB_MODE")
    if word is None:
        return "online" if key() else _offline_for_want_of_login()
    mode = _MODES.get(word)
    if mode is None:
        raise BackendError(
            f"Backend 'wandb': the mode is {word!r}. Allowed are 'online', 'offline' and "
            "'disabled'."
        )
    if mode == "online" and not key():
        raise BackendError(
            f"Backend 'wandb': mode 'online' needs a login for {address()}, and there is none. "
            "Run `wandb login`, set WANDB_API_KEY, or use mode='offline'."
        )
    return mode


def _offline_for_want_of_login() -> str:
    global _told_offline
    if not _told_offline:
        _told_offline = True
        notice(
            "there is no login for W&B, so it writes offline. To send a run later: wandb login, "
            "then wandb sync RUN/backends/wandb/wandb/offline-run-*"
        )
    return "offline"


def address() -> str:
    """Return the service's address: ``$WANDB_BASE_URL``, W&B's settings, or the public one."""
    given = os.environ.get("WANDB_BASE_URL") or _setting("base_url") or _ADDRESS
    return given.rstrip("/")


def _setting(name: str) -> str | None:
    from configparser import ConfigParser
    from configparser import Error as ConfigError

    folder = os.environ.get("WANDB_CONFIG_DIR") or os.path.expanduser("~/.config/wandb")
    settings = ConfigParser(interpolation=None)
    try:
        settings.read(os.path.join(folder, "settings"), encoding="utf-8")
    except (ConfigError, OSError, UnicodeDecodeError):
        return None  # W&B will say so where it reads them itself.
    return settings.get("default", name, fallback=None)


def key() -> str | None:
    """Return the key of the login: ``$WANDB_API_KEY``, else what netrc has for the address."""
    return os.environ.get("WANDB_API_KEY") or _netrc_key()


def _netrc_key() -> str | None:
    from netrc import NetrcParseError, netrc
    from urllib.parse import urlsplit

    given = os.environ.get("NETRC")
    host = urlsplit(address()).hostname or ""
    for path in [given] if given else ["~/.netrc", "~/_netrc"]:
        with contextlib.suppress(OSError, NetrcParseError, UnicodeDecodeError):
            found = netrc(os.path.expanduser(path)).authenticators(host)
            if found:
                return found[2]
    return None


def ask_service() -> None:
    """Ask the service whether it answers and takes the key.

    Raises
    ------
    BackendUnavailableError
        If it does not answer within 10 s, or says that it cannot.
    BackendError
        If it refuses the key.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    import orjson

    asked = Request(
        f"{address()}/graphql",
        data=orjson.dumps({"query": "query Viewer { viewer { id } }"}),
        headers={"Content-Type": "application/json", "Authorization": _authorization()},
    )
    try:
        with urlopen(asked, timeout=_ASK_S) as reply:
            answer = orjson.loads(reply.read())
    except HTTPError as error:
        error.close()
        if error.code in (401, 403):
            raise _refused(f"HTTP {error.code}") from error
        raise BackendUnavailableError(f"W&B at {address()}: HTTP {error.code}.") from error
    except (OSError, HTTPException, ValueError) as error:
        raise BackendUnavailableError(f"W&B at {address()} does not answer ({error}).") from error
    if not (isinstance(answer, dict) and (answer.get("data") or {}).get("viewer")):
        raise _refused("it knows nobody by it")


def _authorization() -> str:
    from base64 import b64encode

    return "Basic " + b64encode(f"api:{key()}".encode()).decode()


def _refused(reason: str) -> BackendError:
    return BackendError(
        f"W&B at {address()} refuses the key ({reason}). Run `wandb login --relogin`, or correct "
        "WANDB_API_KEY."
    )


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn W&B's errors into ours: its service away, or what it was given at fault."""
    try:
        yield
    except (ExperimentTrackingError, OSError):
        raise
    except Exception as error:
        kind = type(error).__name__
        if kind in _AWAY:
            raise BackendUnavailableError(f"W&B, {what}: {error}") from error
        raise BackendError(f"W&B, {what}: {kind}: {error}") from error


# Its process --------------------------------------------------------------------------------------


class Doing:
    """A call in a thread of its own, for W&B's calls that wait without a bound."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._do, name="wandb", daemon=True)
        self._thread.start()

    @property
    def is_under_way(self) -> bool:
        """Whether the call has not returned."""
        return self._thread.is_alive()

    def _do(self) -> None:
        try:
            self._call()
        except BaseException as error:  # teardown raises SystemExit
            self._error = error

    def wait(self, timeout_s: float) -> bool:
        """Wait for the call; tell whether it is done, or raise what it raised."""
        self._thread.join(timeout_s)
        if isinstance(self._error, Exception):
            raise self._error
        return not self._thread.is_alive()


class CoreProcess:
    """``wandb-core``, which all runs of this process share; ended with the last of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._is_up = False
        self._caches = ""
        self._moved: list[str] = []

    def enter(self) -> Any:
        """Count one more run, and return the package."""
        with self._lock:
            if not self._users:
                self._prepare()
            import wandb

            if self._is_up and not _cores():
                # Killed under us: every run's calls fail now, until each has been begun again.
                self._let_go(wandb)
            self._users += 1
        return wandb

    def _prepare(self) -> None:
        from tempfile import mkdtemp

        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        # Its logs, and copies of artifacts that we have already; else in the home folder.
        self._moved = [name for name in _CACHES if name not in os.environ]
        self._caches = mkdtemp(prefix="wandb-")
        os.environ |= dict.fromkeys(self._moved, self._caches)
        for folder in _temporary_folders():
            os.makedirs(folder.name, exist_ok=True)

    def leave(self) -> None:
        """Count one run less. The last one's leaving ends the process, by force if need be."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._end()

    def _end(self) -> None:
        from shutil import rmtree

        import wandb

        self._let_go(wandb)
        rmtree(self._caches, ignore_errors=True)
        for folder in _temporary_folders():
            folder.cleanup()
        for name in self._moved:
            os.environ.pop(name, None)

    def _let_go(self, wandb: Any) -> None:
        self._is_up = False
        with contextlib.suppress(Exception):  # It is ended below, whatever it says.
            Doing(wandb.teardown).wait(_TEARDOWN_S)
        self.kill()

    def kill(self) -> None:
        """End the process by force, where it is still there."""
        import psutil

        for process in _cores():
            with contextlib.suppress(psutil.Error):
                process.kill()
                process.wait(_TEARDOWN_S)

    def noted(self) -> dict[str, Any]:
        """Return what finds the process again when this one was killed."""
        import atexit

        # Behind W&B's own hook, so before it: that one waits until everything is sent.
        self._is_up = True
        atexit.unregister(self.kill)
        atexit.register(self.kill)
        found = [(process.pid, process.create_time()) for process in _cores()]
        return {"host": _host(), "parent": os.getpid(), "processes": found}


core = CoreProcess()


def _temporary_folders() -> list[Any]:
    """Return W&B's folders for temporary files, which it makes once and removes in an exit hook.

    They hang on modules and classes of its own, under names that are not public.
    """
    from tempfile import TemporaryDirectory

    modules = [module for name, module in [*sys.modules.items()] if name.startswith("wandb.")]
    values = [value for module in modules for value in [*vars(module).values()]]
    classes = {value for value in values if isinstance(value, type)}
    values += [value for one in classes for value in [*vars(one).values()]]
    return [value for value in values if isinstance(value, TemporaryDirectory)]


def _cores() -> list[Any]:
    import psutil

    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if process.name().startswith(_CORE):
                found.append(process)
    return found


def _host() -> str:
    import socket

    return socket.gethostname()


def end_orphans(noted: Mapping[str, Any] | None) -> None:
    """See to it that a process whose parent was killed sends and writes nothing more.

    It usually ends by itself within seconds; without a service it may try for hours, and would
    send rows beside those that are sent anew.
    """
    import psutil

    if not noted or noted.get("host") != _host():
        return
    for pid, started in noted["processes"]:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            is_same = abs(process.create_time() - started) < 1.0
            if not is_same or process.ppid() == noted["parent"]:
                continue  # Another program's number by now, or its parent lives and uses it.
            if not _is_gone(process, _ORPHAN_S):
                process.kill()
                _is_gone(process, _ORPHAN_S)


def _is_gone(process: Any, timeout_s: float) -> bool:
    """Wait until a process that is no child of ours has ended; nobody may have reaped it."""
    import time

    import psutil

    give_up_at = time.monotonic() + timeout_s
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > give_up_at:
                return False
            time.sleep(0.02)
    return True
