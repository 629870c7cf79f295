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
_NAME_CHARS = 128
_NOT_IN_NAMES = "/\\#?%:"
_ASK_S = 10.0
_TEARDOWN_S = 2.0
_WRITTEN_S = 10.0
_ORPHAN_S = 5.0
_FOR_EVER = 1_000_000
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

_SETTINGS = {
    "silent": True,
    "console": "off",
    "symlink": False,
    "use_dot_wandb": False,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "init_timeout": 60.0,
    # So little is missing in the file after a kill; the default is 15 s.
    "x_transaction_log_flush_interval": 1.0,
    "x_file_stream_retry_max": _FOR_EVER,
    "x_graphql_retry_max": _FOR_EVER,
}
"""Console, code and load stand in our folder. Those that W&B's version does not know are left."""

_CACHES = ("WANDB_CACHE_DIR", "WANDB_DATA_DIR")
_SERVICE = "WANDB_SERVICE"
"""Tells W&B of a ``wandb-core`` that is there already."""

_told: set[str] = set()


# Where and who ------------------------------------------------------------------------------------


def decide_mode(given: str | None) -> str:
    """Return ``online``, ``offline`` or ``disabled``; without a word, what the login allows.

    Raises
    ------
    BackendError
        For another mode, and for ``online`` without a login.
    """
    word = given or os.environ.get("WANDB_MODE")
    if not word:
        return "online" if key() else "offline"
    mode = _MODES.get(word)
    if mode is None:
        raise BackendError(
            f"Backend 'wandb': {'the mode' if given else '$WANDB_MODE'} is {word!r}. Allowed are "
            "'online', 'offline' and 'disabled'."
        )
    if mode == "online" and not key():
        raise BackendError(
            f"Backend 'wandb': mode 'online' needs a login for {public_address()}, and there is "
            "none. Run `wandb login`, set WANDB_API_KEY, or use mode='offline'."
        )
    return mode


def offline_advice(given: str | None) -> str:
    """Return what to say where runs are written offline for want of a login; else nothing."""
    if given or os.environ.get("WANDB_MODE") or key():
        return ""
    return (
        f"there is no login for W&B at {public_address()}, so runs are written offline. To send "
        "one: wandb login, then experiments push RUN"
    )


def say_once(message: str) -> None:
    """Give a notice, unless this process has given it."""
    if message and message not in _told:
        _told.add(message)
        notice(message)


def decide_name(what: str, given: str | None) -> str | None:
    """Return the project or entity that was given, or stands in the environment.

    Raises
    ------
    BackendError
        For a name that W&B cannot have.
    """
    variable = f"WANDB_{what.upper()}"
    name = given or os.environ.get(variable)
    if not name:
        return None
    if isinstance(name, str) and name.isprintable() and name.strip() == plain_name(name):
        return name
    said = f"the {what}" if given else f"${variable}"
    raise BackendError(
        f"Backend 'wandb': {said} is {name!r:.200}. Allowed are at most {_NAME_CHARS} visible "
        f"characters other than {' '.join(_NOT_IN_NAMES)}; project and entity are given apart."
    )


def plain_name(name: str) -> str:
    """Return the name of a project with what W&B takes."""
    return "".join("-" if char in _NOT_IN_NAMES else char for char in name)[:_NAME_CHARS]


def plain_alias(alias: str) -> str:
    """Return an alias of a model with what W&B takes.

    >>> plain_alias("team/best:1")
    'team-best-1'
    """
    return "".join("-" if char in "/:" else char for char in alias)[:_NAME_CHARS]


def place(mode: str, entity: str | None, project: str | None) -> str:
    """Say where a copy is made, as far as that is known before a run is."""
    if mode == "disabled":
        return mode
    words = [f"online at {public_address()}" if mode == "online" else mode]
    words += [f"{what} {name}" for what, name in (("entity", entity), ("project", project)) if name]
    return ", ".join(words)


def address() -> str:
    """Return the service's address: ``$WANDB_BASE_URL``, W&B's settings, or the public one."""
    given = os.environ.get("WANDB_BASE_URL") or _setting("base_url") or _ADDRESS
    return given.rstrip("/")


def public_address() -> str:
    """Return the service's address without credentials."""
    from urllib.parse import urlsplit

    parts = urlsplit(address())
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


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
        raise _away(f"HTTP {error.code}") from error
    except (OSError, HTTPException, ValueError) as error:
        # urllib wraps the system's error.
        raise _away(_text(getattr(error, "reason", error))) from error
    if not (isinstance(answer, dict) and (answer.get("data") or {}).get("viewer")):
        raise _refused("it knows nobody by it")


def _authorization() -> str:
    from base64 import b64encode

    return "Basic " + b64encode(f"api:{key()}".encode()).decode()


def _away(reason: str) -> BackendUnavailableError:
    return BackendUnavailableError(f"W&B at {public_address()} does not answer: {reason}")


def _text(error: object) -> str:
    """Return the first line of what an error says, of the system's errors without the number."""
    said = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(said).splitlines()[0].rstrip(".")


def _refused(reason: str) -> BackendError:
    return BackendError(
        f"W&B at {public_address()} refuses the key ({reason}). Run `wandb login --relogin`, or "
        "correct WANDB_API_KEY"
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
            raise BackendUnavailableError(f"W&B, {what}: {_text(error)}") from error
        raise BackendError(f"W&B, {what}: {kind}: {_text(error)}") from error


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


def settings(wandb: Any, wanted: Mapping[str, Any]) -> Any:
    """Return W&B's settings: nothing captured, and of what is wanted what it has a field for."""
    known = wandb.Settings.model_fields
    given = {key: value for key, value in wanted.items() if value is not None}
    return wandb.Settings(**{k: v for k, v in (_SETTINGS | given).items() if k in known})


class CoreProcess:
    """``wandb-core``, which all runs of this process share; ended with the last of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._is_up = False
        self._folder = ""
        self._before: dict[str, str | None] = {}

    def enter(self) -> Any:
        """Count one more run, and return the package."""
        with self._lock:
            if not self._users:
                self._prepare()
            import wandb

            if self._is_up and not _living_cores():
                # Killed under us: every run's calls fail now, until each has been begun again.
                self._let_go(wandb)
            self._users += 1
        return wandb

    def _prepare(self) -> None:
        from tempfile import mkdtemp

        self._folder = mkdtemp(prefix="experiment_tracking-")
        # Its socket, which in /tmp itself whoever tidies up there takes from under us. Its logs,
        # and copies of artifacts that we have already; else they are in the home folder.
        ours = ["TMPDIR", *(name for name in _CACHES if name not in os.environ)]
        self._before = {name: os.environ.get(name) for name in (*_QUIET, *ours, _SERVICE)}
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        os.environ |= dict.fromkeys(ours, self._folder)
        # A training process that uses W&B itself hands its own on, and ends it when it likes.
        os.environ.pop(_SERVICE, None)
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
        rmtree(self._folder, ignore_errors=True)
        for folder in _temporary_folders():
            folder.cleanup()
        for name, value in self._before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    def _let_go(self, wandb: Any) -> None:
        self._is_up = False
        ending = Doing(wandb.teardown)
        with contextlib.suppress(Exception):  # It is ended below, whatever it says.
            ending.wait(_TEARDOWN_S)
        self.kill()
        with contextlib.suppress(Exception):  # What it does last must not fall to the next one.
            ending.wait(_TEARDOWN_S)
        os.environ.pop(_SERVICE, None)

    def kill(self) -> None:
        """End the process by force, where it is still there."""
        import psutil

        for process in _cores():
            with contextlib.suppress(psutil.Error):
                process.kill()
                process.wait(_TEARDOWN_S)

    def wait_until_written(self, folder: str) -> None:
        """Wait until the process has written and closed the log in a run's offline folder.

        ``run.finish`` returns before that.

        Raises
        ------
        BackendUnavailableError
            If the process has died, or takes long.
        """
        import time

        give_up_at = time.monotonic() + _WRITTEN_S
        while cores := _living_cores():
            if not any(_writes(core, folder) for core in cores):
                return
            if time.monotonic() > give_up_at:
                raise BackendUnavailableError(f"W&B is still writing to {folder}")
            time.sleep(0.01)
        raise BackendUnavailableError(f"W&B's own process has ended while it wrote to {folder}")

    def _end_at_exit(self) -> None:
        """End it with runs that nobody has closed; no thread can be started any more."""
        from shutil import rmtree

        import wandb

        self.kill()
        with contextlib.suppress(Exception, SystemExit):
            wandb.teardown()
        rmtree(self._folder, ignore_errors=True)

    def noted(self) -> dict[str, Any]:
        """Return what finds the process again when this one was killed."""
        import atexit

        # Behind W&B's own hook, so before it: that one waits until everything is sent.
        self._is_up = True
        atexit.unregister(self._end_at_exit)
        atexit.register(self._end_at_exit)
        found = [(process.pid, process.create_time()) for process in _living_cores()]
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


def _living_cores() -> list[Any]:
    """List those that nobody has killed; such a one is there until it is waited for."""
    import psutil

    found = []
    for process in _cores():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _writes(core: Any, folder: str) -> bool:
    import psutil

    with contextlib.suppress(psutil.Error):
        paths = [file.path for file in core.open_files()]
        return any(os.path.dirname(path) == folder and path.endswith(".wandb") for path in paths)
    return False


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
