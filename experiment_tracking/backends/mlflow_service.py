"""MLflow's service: its address, whether it answers, and what its errors mean for us."""

import os
import threading
import warnings
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from experiment_tracking.backends.catalog import is_installed
from experiment_tracking.errors import (
    BackendError,
    BackendUnavailableError,
    ExperimentTrackingError,
    MissingPackageError,
)
from experiment_tracking.notices import notice

_SQLITE = "sqlite:///"
_ANSWER_WITHIN_S = 5.0
_ALLOWED = (
    "an address such as 'http://localhost:5000', a database 'sqlite:///mlflow.db', "
    "'databricks', or a folder such as './mlruns'"
)
_INSTALL = "'experiment_tracking[mlflow]'"

# 408 too slow, 425 too early, 429 too many at once: the same request may do later.
_LATER = (408, 425, 429)
_NOT_THERE_TO_US = (401, 403, 404)

# MLflow's own retries, 7 with growing pauses, make one call to a dead server last four minutes.
_FIXED = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_TIMEOUT = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # seconds

_importing = threading.Lock()
_said: set[str] = set()


def say_once(message: str) -> None:
    """Print a notice, unless it was printed before."""
    if message not in _said:
        _said.add(message)
        notice(message)


# Address ------------------------------------------------------------------------------------------


def to_address(tracking_uri: str | os.PathLike[str] | None) -> str:
    """Return the address of a service or a database, absolute.

    Parameters
    ----------
    tracking_uri
        As `MLflowBackend` takes it. A folder becomes a database in it, with one notice.

    Raises
    ------
    BackendError
        For anything else, with what is allowed.
    """
    if not isinstance(tracking_uri, str | os.PathLike | None):
        raise BackendError(f"tracking_uri is {tracking_uri!r:.80}. Write {_ALLOWED}.")
    if tracking_uri:
        return _to_address(os.fspath(tracking_uri), "tracking_uri")
    variable = os.environ.get("MLFLOW_TRACKING_URI")
    if variable:
        return _to_address(variable, "MLFLOW_TRACKING_URI")
    return _database_in(".")  # where `mlflow ui` looks, if nobody tells it otherwise


def _to_address(given: str, what: str) -> str:
    scheme = given.partition(":")[0] if ":" in given else ""
    if given == "databricks" or given.startswith("databricks://"):
        return given
    if scheme in ("http", "https"):
        return _checked_http(given, what)
    if scheme == "sqlite":
        return _absolute_sqlite(given, what)
    if scheme == "file":
        return _from_folder(_path_of(given, what), given, what)
    if len(scheme) > 1 and os.sep not in scheme:  # one letter is a drive of Windows
        hint = f" Did you mean 'http://{given}'?" if "://" not in given else ""
        raise BackendError(f"{what} is {public(given)!r}. Write {_ALLOWED}.{hint}")
    return _from_folder(given, given, what)


def _checked_http(given: str, what: str) -> str:
    try:
        parts = urlsplit(given)
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number
        named = False
    if not named or any(char.isspace() for char in given):
        raise BackendError(
            f"{what} {public(given)!r} names no server. Write it as 'http://localhost:5000'."
        )
    return given.rstrip("/")


def _absolute_sqlite(given: str, what: str) -> str:
    path, mark, query = given.removeprefix(_SQLITE).partition("?")
    if not given.startswith(_SQLITE) or path in ("", ":memory:") or path.endswith("/"):
        raise BackendError(
            f"{what} {given!r} names no file. Write 'sqlite:///mlflow.db', or with an "
            "absolute path 'sqlite:////home/ann/mlflow.db'."
        )
    return f"{_SQLITE}{os.path.abspath(path)}{mark}{query}"


def _path_of(given: str, what: str) -> str:
    from urllib.request import url2pathname

    parts = urlsplit(given)
    if parts.netloc not in ("", "localhost"):
        raise BackendError(
            f"{what} {given!r} names a folder of another machine. Write 'file:./mlruns', or "
            "with an absolute path 'file:///home/ann/mlruns'."
        )
    return url2pathname(parts.path) or "mlruns"


def _from_folder(folder: str, given: str, what: str) -> str:
    if os.path.isfile(folder):
        raise BackendError(f"{what} {given!r} is a file. Write a database as {_SQLITE + folder!r}.")
    address = _database_in(folder)
    say_once(
        f"MLflow has closed its file store, so runs sent to {given} go into a database there. "
        f"Look at them with: mlflow ui --backend-store-uri {address}"
    )
    return address


def _database_in(folder: str) -> str:
    path = os.path.join(os.path.abspath(os.path.expanduser(folder)), "mlflow.db")
    return _SQLITE + path


def database_folder(address: str) -> str | None:
    """Return the folder in which a sqlite database is; None for a service."""
    if not address.startswith(_SQLITE):
        return None
    return os.path.dirname(address.removeprefix(_SQLITE).partition("?")[0])


def public(address: str) -> str:
    """Return an address without the name and password that may stand in it.

    >>> public("https://ann:secret@mlflow.example.org/team")
    'https://mlflow.example.org/team'
    """
    scheme, mark, rest = address.partition("://")
    if not mark:
        return address
    server, slash, path = rest.partition("/")
    return f"{scheme}{mark}{server.rpartition('@')[2]}{slash}{path}"


def check_installed(address: str) -> None:
    """Check that the packages are there that this address needs; imports none.

    Raises
    ------
    MissingPackageError
        With the line that installs it.
    """
    needed = ["mlflow"] + ["sqlalchemy", "alembic"] * (database_folder(address) is not None)
    for package in needed:
        if not is_installed(package):
            raise MissingPackageError("Backend 'mlflow'", package, _INSTALL)


# Answers ------------------------------------------------------------------------------------------


def check_answers(address: str) -> None:
    """Ask whether the service answers, within 5 s and without MLflow; Databricks is not asked.

    Raises
    ------
    BackendUnavailableError
        If it does not, or if the folder of the database cannot be written to.
    BackendError
        If it answers that we have no access, or that there is no MLflow.
    """
    from http.client import HTTPException

    folder = database_folder(address)
    try:
        if folder is not None:
            _try_folder(folder)
        elif address.startswith("http"):
            _ask(address)
    except (OSError, HTTPException) as error:
        # Not "from error": the reason is in the message, and sixty lines of urllib hide it.
        raise BackendUnavailableError(_away(address, error)) from None


def _try_folder(folder: str) -> None:
    from tempfile import TemporaryFile

    os.makedirs(folder, exist_ok=True)
    with TemporaryFile(dir=folder):
        pass


def _ask(address: str) -> None:
    """Ask for one experiment: unlike ``/health`` that tells whether we are let in."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    url = f"{_without_login(address)}/api/2.0/mlflow/experiments/search?max_results=1"
    request = Request(url, headers=_login(address))
    try:
        with urlopen(request, timeout=_ANSWER_WITHIN_S):
            pass
    except HTTPError as error:
        error.close()
        if error.code in _NOT_THERE_TO_US:
            raise BackendError(
                f"{public(address)} answers {error.code} {error.reason}. Check the address, and "
                "MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN."
            ) from error
        if error.code in _LATER or error.code >= 500:
            raise


def _login(address: str) -> dict[str, str]:
    """Return the header that MLflow's client would send."""
    from base64 import b64encode
    from urllib.parse import unquote

    parts = urlsplit(address)
    user = unquote(parts.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = unquote(parts.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if user and password:
        return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}
    return {"Authorization": f"Bearer {token}"} if token else {}


def _without_login(address: str) -> str:
    parts = urlsplit(address)
    server = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, server, quote(parts.path, safe="/%"), parts.query, ""))


# Calls --------------------------------------------------------------------------------------------


class RefusedError(BackendError):
    """MLflow has answered that it does not take something; ``code`` is its word for why."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Client:
    """MLflow's client, every error of which is one of ours.

    The methods are those of ``mlflow.MlflowClient``. They raise
    :class:`~experiment_tracking.errors.BackendUnavailableError` where the same call may work
    later, and :class:`RefusedError` where it never will.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        # MLflow tries a folder that cannot be written to ten times, for two minutes.
        if database_folder(address) is not None:
            check_answers(address)
        self._client = self._call("a client", _make_client, address)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            return self._call(name, method, *args, **options)

        return call

    def delete_artifact(self, artifact_uri: str, path: str) -> None:
        """Delete one file of a run, which MLflow's client cannot."""
        self._call("delete_artifact", _delete_artifact, self._address, artifact_uri, path)

    def _call(self, what: str, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        try:
            with warnings.catch_warnings():
                # About MLflow's own use of other packages; -W error would make refusals of them.
                warnings.simplefilter("ignore")
                return function(*args, **options)
        except ExperimentTrackingError:
            raise
        except Exception as error:
            raise _translated(self._address, what, error) from error


def find_experiment(client: Client, address: str, name: str) -> str:
    """Return the id of an experiment; where there is none it is made.

    Raises
    ------
    BackendError
        If it was deleted in MLflow.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            made: str = client.create_experiment(name, artifact_location=_files_of(address))
            return made
        except RefusedError as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(name)  # another process was quicker
    if experiment.lifecycle_stage == "deleted":
        raise BackendError(
            f"Experiment {name!r} was deleted in MLflow. Restore it (mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}), or pass another experiment_name."
        )
    found: str = experiment.experiment_id
    return found


def _files_of(address: str) -> str | None:
    """Return where an experiment's files go: beside a database, and where a service says."""
    from pathlib import Path

    folder = database_folder(address)
    return None if folder is None else Path(folder, "mlartifacts").as_uri()


def follow_quietly() -> None:
    """Have this process's calls to MLflow fail soon, and MLflow be silent; imports it.

    For a process that only follows runs: it tries again by itself, and tells what went wrong.
    """
    import logging

    os.environ.update(_FIXED)
    os.environ.setdefault(*_TIMEOUT)
    import_mlflow()
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def import_mlflow() -> Any:
    """Import MLflow (4 s), with its telemetry off unless the environment says otherwise.

    Raises
    ------
    MissingPackageError
        If it is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with _importing:  # the mirrors of several runs start at once
        if not is_installed("mlflow"):
            raise MissingPackageError("Backend 'mlflow'", "mlflow", _INSTALL)
        import mlflow
    return mlflow


def _make_client(address: str) -> Any:
    return import_mlflow().MlflowClient(tracking_uri=address)


def _delete_artifact(address: str, artifact_uri: str, path: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    files: Any = get_artifact_repository(artifact_uri, tracking_uri=address)
    files.delete_artifacts(path)


def _translated(address: str, what: str, error: Exception) -> Exception:
    """Say in our words whether the service is away or has refused."""
    if _is_away(error):
        return BackendUnavailableError(_away(address, error))
    code = getattr(error, "error_code", None) or type(error).__name__
    text = _plain(address, error)
    return RefusedError(f"MLflow at {public(address)} refused {what}: {text}", str(code))


def _away(address: str, error: Exception) -> str:
    return f"MLflow at {public(address)} does not answer: {_plain(address, _beneath(error))}"


def _beneath(error: BaseException) -> BaseException:
    """Return what the system said: MLflow, requests and urllib3 wrap it in ever more words."""
    beneath, inner = error, error.__cause__ or error.__context__
    while inner is not None:
        beneath = inner if isinstance(inner, OSError) else beneath
        inner = inner.__cause__ or inner.__context__
    return beneath


def _plain(address: str, error: BaseException) -> str:
    """Return an error's words on one line, without the login that MLflow repeats in them."""
    # "Connection refused" rather than "[Errno 111] Connection refused"; with a file, both.
    told = getattr(error, "strerror", None) if getattr(error, "filename", None) is None else None
    text = " ".join(str(told or error).split()) or type(error).__name__
    return text.replace(address, public(address))[:500]


def _is_away(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, MlflowException):
        status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
        # MLflow's client calls its own mistakes INTERNAL_ERROR as well; no retry cures those.
        told = (
            isinstance(error, RestException)
            or error.error_code != "INTERNAL_ERROR"
            or "API request to" in str(error)
            or isinstance(error.__cause__, OSError)
        )
        return status in _LATER or (status >= 500 and told)
    response = getattr(error, "response", None)  # requests' HTTPError, which is an OSError
    if response is not None and hasattr(response, "status_code"):
        return response.status_code in _LATER or response.status_code >= 500
    # A database's and a cloud storage's errors are no OSErrors.
    return isinstance(error, OSError) or type(error).__name__.endswith(
        ("ConnectionError", "TimeoutError", "OperationalError")
    )
