"""MLflow by a config: functions for programs that log to it themselves, in their own process.

``cfg`` is any object or mapping with a section ``mlflow``: ``enabled``, ``tracking_uri``,
``experiment_name``, ``run_name`` and ``log_artifacts`` (by default true). ``run_cfg`` is the
config of one run: a mapping, a dataclass or another object with attributes. Where the section is
missing or not enabled, every function does nothing and one notice says so; where it is enabled and
MLflow is not installed, they raise. They use MLflow's current run, as ``mlflow.log_metric`` does,
and let MLflow's own errors through.

Examples
--------
>>> from types import SimpleNamespace as Section
>>> cfg = Section(mlflow=Section(enabled=False))
>>> with start_run_with_config(cfg, {"lr": 0.1}):
...     log_metrics({"loss": 0.5}, step=1)
"""

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

from experiment_tracking.backends.catalog import is_installed
from experiment_tracking.backends.mlflow_names import (
    MAX_PARAM_CHARS,
    MAX_TAG_CHARS,
    Names,
    flatten,
)
from experiment_tracking.backends.mlflow_service import (
    Client,
    check_answers,
    check_installed,
    find_experiment,
    import_mlflow,
    say_once,
    to_address,
)
from experiment_tracking.errors import BackendUnavailableError, MissingPackageError
from experiment_tracking.folder.values import to_plain

_BEST = "best"

# What people compare runs by, and where configs have it.
_COMMON_TAGS = {
    "env": ("env", "environment"),
    "project": ("project", "project.name", "project_name"),
    "framework": ("framework", "model.framework"),
    "model_type": ("model_type", "model.type", "model.name"),
    "dataset_name": ("dataset_name", "data.dataset_name", "dataset.name", "data.name", "dataset"),
    "seed": ("seed", "training.seed", "random_seed"),
}

_without_artifacts: set[str] = set()
"""Ids of the runs whose config says ``log_artifacts: false``."""


def _say_renamed(name: str, key: str) -> None:
    say_once(f"MLflow refuses the name {name!r}; it is {key!r} there.")


_names = Names({}, _say_renamed)


def is_mlflow_available() -> bool:
    """Tell whether MLflow is installed, without importing it.

    Examples
    --------
    >>> is_mlflow_available() in (True, False)
    True
    """
    return is_installed("mlflow")


def get_mlflow_client(cfg: Any) -> Any:
    """Return an ``mlflow.MlflowClient`` for the config's address, None where it is not enabled.

    Raises
    ------
    MissingPackageError
        If it is enabled and MLflow is not installed.
    BackendError
        If the address is of a form that is not allowed.

    Examples
    --------
    >>> get_mlflow_client({"mlflow": {"enabled": False}}) is None
    True
    """
    section = _enabled(cfg)
    if section is None:
        return None
    return import_mlflow().MlflowClient(tracking_uri=_address(section))


def set_experiment_from_config(cfg: Any) -> Any:
    """Make the config's experiment MLflow's current one; it is made where there is none.

    Returns the ``mlflow.entities.Experiment``, or None where MLflow is not enabled. Without an
    ``experiment_name`` it is ``Default``, as MLflow calls it.

    Raises
    ------
    BackendUnavailableError
        If the service does not answer within 5 s; MLflow itself would try for four minutes.
    MissingPackageError, BackendError
        As `get_mlflow_client` does, and for an experiment that was deleted.

    Examples
    --------
    >>> set_experiment_from_config({"mlflow": {"enabled": False}})
    """
    section = _enabled(cfg)
    if section is None:
        return None
    address = _address(section)
    _check_answers(address)
    mlflow = import_mlflow()
    mlflow.set_tracking_uri(address)
    name = _get(section, "experiment_name") or "Default"
    return mlflow.set_experiment(experiment_id=find_experiment(Client(address), address, str(name)))


def start_run_with_config(
    cfg: Any, run_cfg: Any, run_name: str | None = None
) -> AbstractContextManager[Any]:
    """Start a run in the config's experiment, with the tags of `log_common_tags`.

    Parameters
    ----------
    cfg
        With the section ``mlflow``.
    run_cfg
        Config of this run; its ``run_name`` or ``name`` serves where no other name is given.
    run_name
        Name of the run; by default the section's ``run_name``.

    Returns
    -------
    context manager
        An ``mlflow.ActiveRun``, nested where another is active; one that gives None where MLflow
        is not enabled. Leaving it sets the status: an exception FAILED, Ctrl-C KILLED,
        ``sys.exit(0)`` FINISHED (which MLflow's own would call FAILED).

    Examples
    --------
    >>> with start_run_with_config({"mlflow": {"enabled": False}}, {}) as run:
    ...     print(run)
    None
    """
    section = _enabled(cfg)
    if section is None:
        return nullcontext()
    set_experiment_from_config(cfg)
    mlflow = import_mlflow()
    names = (run_name, _get(section, "run_name"), _get(run_cfg, "run_name"), _get(run_cfg, "name"))
    name = next(filter(None, names), None)
    run = mlflow.start_run(run_name=name, nested=mlflow.active_run() is not None)
    if _is_off(_get(section, "log_artifacts", True)):
        _without_artifacts.add(run.info.run_id)
    log_common_tags(cfg, run_cfg)
    return _with_right_end(mlflow, run)


def _with_right_end(mlflow: Any, run: Any) -> AbstractContextManager[Any]:
    class ConfiguredRun(mlflow.ActiveRun):  # type: ignore[misc]  # MLflow is imported late
        def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
            active = mlflow.active_run()
            if active is not None and active.info.run_id == self.info.run_id:
                mlflow.end_run(_status(error))

    configured: AbstractContextManager[Any] = ConfiguredRun(run)
    return configured


def _status(error: BaseException | None) -> str:
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def log_config(cfg: Any, run_cfg: Any) -> None:
    """Log ``run_cfg`` as params under dotted names, and both configs as ``config/config.json``.

    Values over 6,000 characters are cut in the params and whole in the file. The section
    ``mlflow`` is left out of it; nothing else is, so a config should hold no credentials.

    Examples
    --------
    >>> log_config({"mlflow": {"enabled": False}}, {"lr": 0.1})
    """
    mlflow = _with_active_run() if _enabled(cfg) is not None else None
    if mlflow is None:
        return
    params = {_names.key(name): str(value) for name, value in flatten(_plain(run_cfg))}
    mlflow.log_params({key: _cut(text, MAX_PARAM_CHARS) for key, text in params.items()})
    if mlflow.active_run().info.run_id not in _without_artifacts:
        shared = {name: value for name, value in _plain(cfg).items() if name != "mlflow"}
        mlflow.log_dict({"config": shared, "run": _plain(run_cfg)}, "config/config.json")


def log_metrics(metrics: Mapping[str, float], step: int | None = None) -> None:
    """Log metrics to the active run; names that MLflow refuses are mapped, with one notice.

    Examples
    --------
    >>> log_metrics({"val/loss": 0.25, "acc@1": 0.9}, step=3)
    """
    mlflow = _with_active_run()
    if mlflow is not None:
        mlflow.log_metrics({_names.key(name): metrics[name] for name in metrics}, step=step)


def log_artifacts_from_paths(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    artifact_subdir: str | None = None,
) -> None:
    """Upload files and folders to the active run, unless its config says ``log_artifacts: false``.

    A path that does not exist is left out, with a notice.

    Parameters
    ----------
    paths
        One path or several; a folder keeps its name.
    artifact_subdir
        Folder among the run's artifacts.

    Examples
    --------
    >>> log_artifacts_from_paths(["figures", "model.pt"], artifact_subdir="results")
    """
    mlflow = _with_active_run()
    if mlflow is None or mlflow.active_run().info.run_id in _without_artifacts:
        return
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        if os.path.isdir(path):
            name = os.path.basename(os.path.abspath(path))
            mlflow.log_artifacts(path, "/".join(filter(None, (artifact_subdir, name))))
        elif os.path.exists(path):
            mlflow.log_artifact(path, artifact_subdir)
        else:
            say_once(f"{os.fspath(path)} does not exist, so MLflow is not given it.")


def log_common_tags(cfg: Any, run_cfg: Any) -> None:
    """Tag the active run with what people compare runs by, as far as the configs tell.

    ``env``, ``project``, ``framework``, ``model_type``, ``dataset_name`` and ``seed``, from
    ``run_cfg`` or else ``cfg``, where also ``model.type`` and ``data.dataset_name`` and the like
    are looked for; and ``python_version``, ``hostname``.

    Examples
    --------
    >>> cfg = {"mlflow": {"enabled": False}, "env": "dev"}
    >>> log_common_tags(cfg, {"data": {"dataset_name": "burgers"}})
    """
    mlflow = _with_active_run() if _enabled(cfg) is not None else None
    if mlflow is None:
        return
    import platform

    found = {tag: _first(places, run_cfg, cfg) for tag, places in _COMMON_TAGS.items()}
    tags = {tag: _cut(str(value), MAX_TAG_CHARS) for tag, value in found.items() if value != ""}
    machine = {"python_version": platform.python_version(), "hostname": platform.node()}
    mlflow.set_tags(tags | machine)


def register_best_model(run_id: str | None, model_uri: str, registered_model_name: str) -> Any:
    """Make a model a version of a registered one, with the alias ``best``.

    Parameters
    ----------
    run_id
        Id of the run in MLflow that made it; nothing is done without one.
    model_uri
        ``runs:/<id>/<path>``, of what ``mlflow.….log_model`` saved or of a plain folder of
        artifacts, or ``models:/<model id>``.
    registered_model_name
        Made where there is none. MLflow refuses ``/`` and ``:`` in it.

    Returns
    -------
    mlflow.entities.model_registry.ModelVersion or None

    Examples
    --------
    >>> register_best_model(None, "runs:/none/model", "pinn")
    """
    if not run_id:
        say_once("No MLflow run is given, so no model is registered.")
        return None
    mlflow = import_mlflow()
    client = mlflow.MlflowClient()
    if _is_plain_folder(client, model_uri):
        version = _register_folder(client, run_id, model_uri, registered_model_name)
    else:
        version = mlflow.register_model(model_uri, registered_model_name)
    client.set_registered_model_alias(registered_model_name, _BEST, version.version)
    return version


def _is_plain_folder(client: Any, model_uri: str) -> bool:
    """Tell whether a run's artifacts are there, but no model as MLflow saves them."""
    if not model_uri.startswith("runs:/"):
        return False
    run_id, _, path = model_uri.removeprefix("runs:/").partition("/")
    names = [os.path.basename(file.path) for file in client.list_artifacts(run_id, path)]
    return bool(names) and "MLmodel" not in names


def _register_folder(client: Any, run_id: str, model_uri: str, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Not waited for, nor told that it is: there is nothing to be copied.
    return client.create_model_version(name, source=model_uri, run_id=run_id, await_creation_for=0)


# The config ---------------------------------------------------------------------------------------


def _enabled(cfg: Any) -> Any:
    """Return the section ``mlflow``, None where nothing is to be done."""
    section = _get(cfg, "mlflow")
    if section is None:
        say_once("the config has no section 'mlflow', so nothing is sent to MLflow.")
        return None
    if _is_off(_get(section, "enabled", False)):
        say_once("mlflow.enabled is not true in the config, so nothing is sent to MLflow.")
        return None
    if not is_mlflow_available():
        raise MissingPackageError("mlflow.enabled", "mlflow", "'experiment_tracking[mlflow]'")
    return section


def _is_off(value: Any) -> bool:
    """Tell whether a switch is off; one from a command line or the environment is a text."""
    return str(value).strip().lower() in ("false", "no", "off", "0", "none", "")


def _check_answers(address: str) -> None:
    try:
        check_answers(address)
    except BackendUnavailableError as error:
        raise BackendUnavailableError(
            f"{error}. Start it, correct mlflow.tracking_uri, or set mlflow.enabled to false."
        ) from None


def _address(section: Any) -> str:
    address = to_address(_get(section, "tracking_uri"))
    check_installed(address)
    return address


def _with_active_run() -> Any:
    """Return MLflow if one of its runs is active; a process that has none never imports it."""
    mlflow = sys.modules.get("mlflow")
    if mlflow is None or mlflow.active_run() is None:
        say_once("No MLflow run is active, so nothing is sent to MLflow.")
        return None
    return mlflow


def _get(thing: Any, name: str, default: Any = None) -> Any:
    """Return an entry or an attribute, by a dotted name too."""
    for part in name.split("."):
        there = thing.get(part) if isinstance(thing, Mapping) else getattr(thing, part, None)
        if there is None:
            return default
        thing = there
    return thing


def _first(places: Iterable[str], *configs: Any) -> Any:
    """Return the first plain value at one of the places, an empty text where there is none."""
    values = (_get(config, place) for config in configs for place in places)
    return next((v for v in values if isinstance(v, str | int | float)), "")


def _plain(config: Any) -> dict[str, Any]:
    """Turn a config of any form into a plain mapping."""
    if hasattr(config, "model_dump"):  # pydantic's
        config = config.model_dump()
    elif not isinstance(config, Mapping) and hasattr(config, "__dict__"):
        config = vars(config)
    nested = {str(name): _inner(value) for name, value in dict(config or {}).items()}
    plain: dict[str, Any] = to_plain(nested, "config", _say_cut)
    return plain


def _inner(value: Any) -> Any:
    """Look into sections that are objects, which `to_plain` would show by their ``repr``."""
    is_section = (
        hasattr(value, "model_dump")
        or isinstance(value, SimpleNamespace)
        or (
            getattr(type(value), "__repr__", None) is object.__repr__ and hasattr(value, "__dict__")
        )
    )
    return _plain(value) if is_section else value


def _say_cut(name: str) -> None:
    say_once(f"{name} has a repr of over 1,000 characters; it was cut.")


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"
