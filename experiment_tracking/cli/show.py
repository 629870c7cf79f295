"""``experiments show``: everything about one run."""

import argparse
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    FAILED,
    RUN_HELP,
    elapsed_s,
    find_run,
    new_command,
    print_title,
    run_to_json,
)
from experiment_tracking.cli.edit import in_words
from experiment_tracking.cli.screen import INDENT, Cell, Column, Screen, column_of, json_out, say
from experiment_tracking.errors import DamagedError

if TYPE_CHECKING:
    from experiment_tracking.folder.amendments import Amendment
    from experiment_tracking.registry.record import RunRecord

_EXAMPLES = """
experiments show latest
experiments show digits/lr-0.1
experiments show best:val/loss --json | jq .params
"""
_STYLES = {"error": "red"}
_NUMBERS = (
    ("last", 0), ("last_step", 3), ("best", 1), ("best_step", 3),
    ("min", 2), ("min_step", 4), ("max", 2), ("max_step", 4), ("mean", 5), ("count", 5),
)  # fmt: skip
"""Columns of the metrics' table, with how soon they make room for others."""

_READINGS = {
    "CPU": {"cpu/percent": "", "process/cpu_percent": "process "},
    "memory": {"memory/used_bytes": "", "memory/percent": "", "process/memory_bytes": "process "},
}
_READINGS_OF_A_GPU = (
    "utilization_percent", "memory_bytes", "memory_percent", "power_w", "temperature_c",
)  # fmt: skip
_UNITS = {"percent": " %", "w": " W", "c": " °C"}
_TAIL_BYTES = 65_536
"""Of the samples only the last is shown; a week of them is tens of MB."""
_MOST_NAMES = 5


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(commands, "show", show, "show everything about one run", _EXAMPLES)
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)


def show(args: argparse.Namespace) -> int:
    """Print one run."""
    record = find_run(args, args.run)
    if args.json:
        json_out(_as_json(record))
        return DONE
    return _print(record, Screen())


def _as_json(record: "RunRecord") -> dict[str, Any]:
    relatives = _find_relatives(record)
    return {
        **run_to_json(record),
        "exit_code": record.summary.get("exit_code"),
        "error": record.error,
        "attempts": record.attempts,
        "rerun_of": record.summary.get("rerun_of"),
        "reruns": relatives.reruns,
        "imported_from": record.summary.get("imported_from"),
        "children": relatives.children,
        "launched": record.summary.get("launched"),
        "throughput": record.summary.get("throughput"),
        "inputs": record.inputs,
        "artifacts": record.artifacts,
        "models": [_model_to_json(record, *each) for each in _models(record).items()],
        "mirrors": {name: _mirror(kept) for name, kept in record.mirrors.items()},
        "patch_bytes": _size_of(record.folder.patch),
        "console_bytes": _size_of(record.folder.console),
        "system_metrics": _last_sample(record),
        "environment": record.environment,
        "amendments": _corrections(record),
    }


def _print(record: "RunRecord", screen: Screen) -> int:
    """Print section by section; one whose file is damaged does not hide the others."""
    told: list[str] = []
    print_title(record, screen)
    for section in (
        _print_identity,
        _print_params,
        _print_metrics,
        _print_inputs,
        _print_environment,
        _print_system_metrics,
        _print_models,
        _print_artifacts,
        _print_mirrors,
        _print_corrections,
    ):
        try:
            section(record, screen)
        except BrokenPipeError:  # of stdout: nobody reads any more
            raise
        except (DamagedError, OSError) as error:
            if str(error) not in told:  # models and artifacts are of one file
                say(str(error))
            told.append(str(error))
    return FAILED if told else DONE


# ---------------------------------------------------------------------- who it is


class _Relatives(NamedTuple):
    """Runs of the same root that name this one, or that it names, as ``project/name``."""

    parent: str
    original: str
    children: list[str]
    reruns: list[str]


def _find_relatives(record: "RunRecord") -> _Relatives:
    """Look through the summaries of the root, 30 µs each."""
    from experiment_tracking.registry.registry import ExperimentRegistry

    # Where it lies, not where we would look: it may have been named by its path.
    runs = ExperimentRegistry(record.folder.root).list_experiments()
    keys = {run.id: run.key for run in runs if run.id}
    return _Relatives(
        _named(record.parent, keys),
        _named(record.summary.get("rerun_of"), keys),
        [run.key for run in runs if record.id and run.parent == record.id],
        [run.key for run in runs if record.id and run.summary.get("rerun_of") == record.id],
    )


def _named(run_id: Any, keys: Mapping[str, str]) -> str:
    if not run_id:
        return ""
    name = keys.get(str(run_id))
    return f"{name} ({run_id})" if name else str(run_id)


def _print_identity(record: "RunRecord", screen: Screen) -> None:
    relatives = _find_relatives(record)
    known = (
        ("id", record.id),
        ("created", _moment(record.created_at)),
        ("ended", text.local_time(record.ended_at) if record.ended_at else ""),
        ("duration", text.duration(elapsed_s(record))),
        ("exit code", record.summary.get("exit_code")),
        ("error", _error(record.error)),
        ("throughput", _throughput(_mapping(record.summary.get("throughput")))),
        ("attempts", len(record.attempts) if len(record.attempts) > 1 else ""),
        ("processes", _processes(record)),
        ("group", record.group),
        ("parent", relatives.parent),
        ("children", _first_of(relatives.children, ", ")),
        ("rerun of", relatives.original),
        ("reruns", _first_of(relatives.reruns, ", ")),
        ("imported", _imported(_mapping(record.summary.get("imported_from")))),
        ("tags", text.tags(record.tags) if record.tags else ""),
        ("console", _file(record.folder.console)),
        ("path", record.folder.path),
        ("notes", record.notes),
    )
    screen.pairs(_pairs(known))


def _pairs(known: Iterable[tuple[str, Any]]) -> list[tuple[str, Cell]]:
    """Leave out what is not known; an exit code of 0 is."""
    return [
        (name, Cell(str(value), _STYLES.get(name, "")))
        for name, value in known
        if value not in (None, "")
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _entries(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if type(value) is list else []


def _moment(moment: str | None) -> str:
    return f"{text.local_time(moment)} ({text.age(moment)} ago)" if moment else ""


def _processes(record: "RunRecord") -> str:
    ranks = record.folder.ranks()
    return f'{len(ranks)} further (history(ranks="all") in Python)' if ranks else ""


def _error(error: Mapping[str, str] | None) -> str:
    return f"{error.get('type', '')}: {error.get('message', '')}" if error else ""


def _imported(origin: Mapping[str, Any]) -> str:
    from experiment_tracking.registry.wording import plural

    left = origin.get("not_carried")
    told = plural(len(left), "thing") if isinstance(left, list) and left else ""
    words = " ".join(str(origin[key]) for key in ("kind", "source") if origin.get(key))
    return f"{words} (summary.json names {told} not carried over)" if told else words


def _throughput(kept: Mapping[str, Any]) -> str:
    return f"{kept['steps_per_s']} steps/s" if kept.get("steps_per_s") else ""


def _first_of(names: Sequence[str], between: str) -> str:
    more = [f"{len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
    return between.join([*map(text.clean, names[:_MOST_NAMES]), *more])


def _file(path: str) -> str:
    size_bytes = _size_of(path)
    return "" if size_bytes is None else f"{os.path.basename(path)} ({text.size(size_bytes)})"


def _size_of(path: str) -> int | None:
    try:
        return os.path.getsize(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


# ---------------------------------------------------------------------- what it was made with


def _print_environment(record: "RunRecord", screen: Screen) -> None:
    from experiment_tracking.registry.wording import command_text, git_text

    environment = record.environment
    command = command_text(environment)
    launched = _words(_mapping(record.summary.get("launched")).get("command"))
    known = (
        ("command", command),
        ("launched", launched if launched != command else ""),
        ("git", git_text(environment.get("git"))),
        ("code", _code(environment, record)),
        ("left out", _left_out(_mapping(environment.get("code")))),
        ("seed", _seed(_mapping(environment.get("seeds")))),
        ("python", environment.get("python_version")),
        ("host", environment.get("hostname")),
        ("GPUs", _gpus(_mapping(environment.get("gpus")))),
        ("noted", _noted(environment.get("notes"))),
    )
    if pairs := _pairs(known):
        screen.heading("environment")
        screen.pairs([(INDENT + name, value) for name, value in pairs])


def _words(words: Any) -> str:
    if not isinstance(words, list):
        return ""
    import shlex

    return shlex.join(map(str, words))


def _code(environment: Mapping[str, Any], record: "RunRecord") -> str:
    from experiment_tracking.registry.wording import plural

    files = _entries(_mapping(environment.get("code")).get("files"))
    hidden = sum(bool(file.get("redacted")) for file in files)
    parts = (
        plural(len(files), "file") if files else "",
        f"{hidden} of them with *** for a secret" if hidden else "",
        _file(record.folder.patch),
    )
    return ", ".join(filter(None, parts))


def _left_out(code: Mapping[str, Any]) -> str:
    left_out = _entries(code.get("left_out"))
    return _first_of([f"{each.get('path')}: {each.get('reason')}" for each in left_out], "\n")


def _seed(seeds: Mapping[str, Any]) -> str:
    seeded = seeds.get("seeded")
    names = f" ({', '.join(map(str, seeded))})" if isinstance(seeded, list) else ""
    return f"{seeds['seed']}{names}" if "seed" in seeds else ""


def _gpus(gpus: Mapping[str, Any]) -> str:
    counted = Counter(_gpu(device) for device in _entries(gpus.get("devices")))
    versions = {"driver": gpus.get("driver"), "CUDA": gpus.get("cuda_version")}
    parts = [f"{number} x {name}" if number > 1 else name for name, number in counted.items()]
    parts += [f"{name} {version}" for name, version in versions.items() if version]
    return ", ".join([*parts, str(gpus["note"])] if gpus.get("note") else parts)


def _gpu(device: Mapping[str, Any]) -> str:
    size_bytes = device.get("memory_bytes")
    memory = f" ({text.size(size_bytes)})" if isinstance(size_bytes, int) else ""
    return f"{device.get('name')}{memory}"


def _noted(notes: Any) -> str:
    return _first_of(list(map(str, notes)), "\n") if isinstance(notes, list) else ""


def _print_system_metrics(record: "RunRecord", screen: Screen) -> None:
    sample = _last_sample(record)
    gpus = sorted({"/".join(name.split("/")[:2]) for name in sample if name.startswith("gpu/")})
    readings: dict[str, Mapping[str, str]] = {
        **_READINGS,
        **{gpu: {f"{gpu}/{name}": "" for name in _READINGS_OF_A_GPU} for gpu in gpus},
    }
    known = [
        (INDENT + text.clean(what), _readings(sample, names)) for what, names in readings.items()
    ]
    if pairs := _pairs(known):
        screen.heading("system metrics, last sample")
        screen.pairs(pairs)


def _readings(sample: Mapping[str, Any], names: Mapping[str, str]) -> str:
    return ", ".join(
        before + _reading(name, sample[name])
        for name, before in names.items()
        if isinstance(sample.get(name), (int, float))
    )


def _reading(name: str, value: float) -> str:
    unit = name.rpartition("_")[2].rpartition("/")[2]
    return text.size(value) if unit == "bytes" else f"{value:g}{_UNITS[unit]}"


def _last_sample(record: "RunRecord") -> Mapping[str, Any]:
    from experiment_tracking.folder.history import HistoryReader

    path = record.folder.system_metrics
    # Where this falls into a row, the reader passes over what is left of it.
    offset = max(0, (_size_of(path) or 0) - _TAIL_BYTES)
    rows = HistoryReader(path).since(offset).rows
    return rows[-1] if rows else {}


# ---------------------------------------------------------------------- what it holds


def _print_params(record: "RunRecord", screen: Screen) -> None:
    if record.params:
        screen.heading("params")
        print_tree(record.params, screen, INDENT)


def print_tree(params: Mapping[str, Any], screen: Screen, indent: str) -> None:
    """Print nested params as an indented tree, the values of one level below each other."""
    widths = [text.width_of(text.clean(k)) for k, v in params.items() if not _is_branch(v)]
    for name, value in params.items():
        if _is_branch(value):
            screen.line(Cell(indent + text.clean(name), "dim"))
            print_tree(value, screen, indent + INDENT)
        else:
            label = text.pad(text.clean(name), max(widths))
            screen.pairs([(indent + label, Cell(str(value) or "''"))])


def _is_branch(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _print_metrics(record: "RunRecord", screen: Screen) -> None:
    metrics = record.metrics
    if not metrics:
        return
    screen.heading("metrics")
    names = list(metrics)
    columns = [column_of("", names, text.clean)]
    if any(summary.get("nonfinite") for summary in metrics.values()):
        columns.append(column_of("not finite", list(metrics.values()), _not_finite, rank=1))
    for number, rank in _NUMBERS:
        values = [metrics[name].get(number) for name in names]
        if any(value is not None for value in values):
            header = "step" if number.endswith("_step") else number
            styles = ["green" if number == "best" else ""] * len(values)
            columns.append(column_of(header, values, text.number, rank=rank, styles=styles))
    screen.table(columns, INDENT)


def _not_finite(summary: Mapping[str, Any]) -> str:
    if not summary.get("nonfinite"):
        return text.NOTHING
    return f"since {summary.get('first_nonfinite_step')} ({summary['nonfinite']}x)"


def _print_inputs(record: "RunRecord", screen: Screen) -> None:
    inputs = record.inputs
    if not inputs:
        return
    screen.heading("inputs")
    columns = [
        column_of("", [entry.get("name") for entry in inputs], text.param_or_nothing),
        column_of("kind", [entry.get("kind") for entry in inputs], text.param_or_nothing, rank=1),
        column_of("size", [_byte_count(entry) for entry in inputs], text.size, rank=2),
    ]
    if any(shapes := [_shape(entry) for entry in inputs]):
        columns.append(column_of("shape", shapes, text.param_or_nothing, rank=3))
    if any(paths := [entry.get("path") for entry in inputs]):
        columns.append(column_of("path", paths, text.param_or_nothing, rank=4))
    screen.table(columns, INDENT)


def _byte_count(entry: Mapping[str, Any]) -> int | None:
    size_bytes = entry.get("size_bytes")
    return size_bytes if isinstance(size_bytes, int) else None


def _shape(entry: Mapping[str, Any]) -> str | None:
    shape = entry.get("shape")
    if not isinstance(shape, list):
        return None
    return " ".join(["x".join(map(str, shape)) or "()", str(entry.get("dtype") or "")]).rstrip()


_Saves = list[dict[str, Any]]


def _models(record: "RunRecord") -> dict[str, _Saves | DamagedError | OSError]:
    """Return by name which saves are kept of each model, or why that cannot be read."""
    from experiment_tracking.formats.models.saved import DOCUMENT, saves_in

    listed = (entry for entry in record.artifacts if entry.get("kind") == "model")
    paths = {str(entry.get("path")): str(entry.get("name")) for entry in listed}
    found: dict[str, _Saves | DamagedError | OSError] = {}
    for path, name in paths.items():
        # A foreign list must not lead out of the run.
        if path == f"models/{name}/{DOCUMENT}" and not {"", ".", ".."} & set(name.split("/")):
            try:
                found[name] = saves_in(os.path.dirname(record.fetch(path)))
            except (DamagedError, OSError) as error:
                found[name] = error
    return found


def _model_to_json(
    record: "RunRecord", name: str, found: _Saves | DamagedError | OSError
) -> dict[str, Any]:
    known = {"name": name, "path": os.path.join(record.folder.models, *name.split("/"))}
    if not isinstance(found, list):
        return {**known, "error": str(found)}
    # What each file holds is long, and stands in model.json.
    told = {key: value for key, value in found[0].items() if key not in ("format", "files")}
    return {**told, **known, "saves": [each.get("step") for each in found]}


def _print_models(record: "RunRecord", screen: Screen) -> None:
    models = _models(record)
    if readable := {name: each for name, each in models.items() if isinstance(each, list)}:
        screen.heading("models")
        _print_saves(readable, screen)
        name, saves = next(iter(readable.items()))
        screen.pairs([(INDENT + "load", Cell(_load_line(record, name, saves[0])))])
    if damaged := [str(each) for each in models.values() if not isinstance(each, list)]:
        raise DamagedError("\n".join(damaged))


def _print_saves(models: Mapping[str, _Saves], screen: Screen) -> None:
    newest = [saves[0] for saves in models.values()]

    def column(key: str, header: str, rank: int) -> Column:
        values = [save.get(key) for save in newest]
        return column_of(header, values, text.param_or_nothing, rank=rank)

    columns = [
        column_of("", list(models), text.clean),
        column("framework", "framework", 1),
        column_of("class", [_class(save) for save in newest], text.param_or_nothing, rank=4),
        column("parameter_count", "parameters", 3),
        column_of("size", [_byte_count(save) for save in newest], text.size, rank=2),
        column("step", "step", 2),
        column_of("saves", list(map(len, models.values())), str, rank=5),
        column_of("with", [_beside_weights(save) for save in newest], text.param_or_nothing,
                  rank=3),
    ]  # fmt: skip
    screen.table(columns, INDENT)


def _beside_weights(save: Mapping[str, Any]) -> str | None:
    """Return what else was saved: optimizer, program, example."""
    return ", ".join(role for role in _mapping(save.get("files")) if role != "weights") or None


def _class(save: Mapping[str, Any]) -> str | None:
    """Return the name of the model's class; its module is long, and stands in model.json."""
    name = save.get("class")
    return name.rpartition(".")[2] if isinstance(name, str) else None


def _load_line(record: "RunRecord", name: str, save: Mapping[str, Any]) -> str:
    from experiment_tracking.models.card import with_options
    from experiment_tracking.registry.far import url_of

    path = record.folder.path
    url = url_of(path)
    run = f"ExperimentRegistry({url!r}).get({record.key!r})" if url else f"RunRecord({path!r})"
    return f"{run}.load_model({name!r}{with_options(save)})"


def _print_artifacts(record: "RunRecord", screen: Screen) -> None:
    artifacts = _with_models_as_one(record.artifacts)
    if not artifacts:
        return
    screen.heading("artifacts")

    def values(key: str) -> list[Any]:
        return [entry.get(key) for entry in artifacts]

    columns = [
        column_of("", values("path"), text.param_or_nothing),
        column_of("kind", values("kind"), text.param_or_nothing, rank=1),
        column_of("size", values("size_bytes"), text.size, rank=2),
    ]
    if any(step is not None for step in values("step")):
        columns.append(column_of("step", values("step"), text.param_or_nothing, rank=3))
    if any(texts := values("description")):
        columns.append(column_of("description", texts, text.param_or_nothing, rank=4))
    screen.table(columns, INDENT)


def _with_models_as_one(artifacts: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Put one line in the place of a model's files, which are told among the models."""
    shown: dict[Any, dict[str, Any]] = {}
    for entry in artifacts:
        path, size_bytes = entry.get("path"), _byte_count(entry) or 0
        folder, name = str(path).rpartition("/")[0], entry.get("name")
        if entry.get("kind") != "model" or folder != f"models/{name}":
            shown[path] = {**entry}
        elif folder in shown:
            shown[folder] |= {"step": entry.get("step")}
            shown[folder]["size_bytes"] += size_bytes
        else:
            shown[folder] = {**entry, "path": f"{folder}/", "size_bytes": size_bytes}
    return list(shown.values())


def _corrections(record: "RunRecord") -> "list[Amendment]":
    """Return what people corrected; what the run logged again itself is no correction."""
    from experiment_tracking.folder.amendments import RUN

    return [each for each in record.amendments if each["by"] != RUN]


def _print_corrections(record: "RunRecord", screen: Screen) -> None:
    if corrections := _corrections(record):
        screen.heading("corrections")
        columns = [
            column_of("when", [each["at"] for each in corrections], text.local_time),
            column_of("by", [each["by"] for each in corrections], text.clean),
            column_of("what", [in_words(each) for each in corrections], str),
        ]
        screen.table(columns, INDENT)


def _mirror(kept: Mapping[str, Any]) -> dict[str, Any]:
    known = (
        "backend", "options", "url", "complete", "owed_bytes", "error", "error_since",
        "updated_at",
    )  # fmt: skip
    return {name: kept.get(name) for name in known} | {"refused": _entries(kept.get("refused"))}


def _print_mirrors(record: "RunRecord", screen: Screen) -> None:
    mirrors = record.mirrors
    if not mirrors:
        return
    screen.heading("mirrors")
    known = [_mirror(kept) for kept in mirrors.values()]
    columns = [
        column_of("", list(mirrors), text.clean),
        column_of("state", [_copied(kept) for kept in known], text.clean),
        column_of("where", [_place(kept) for kept in known], text.param_or_nothing, rank=1),
    ]
    screen.table(columns, INDENT)
    wrong = [(INDENT + name, kept["error"]) for name, kept in zip(mirrors, known, strict=True)]
    if pairs := _pairs(wrong):
        screen.pairs(pairs)


def _place(kept: Mapping[str, Any]) -> str | None:
    """Return where people see the copy, or else what was said of where it is to be."""
    options = kept["options"] if isinstance(kept["options"], dict) else {}
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    return kept["url"] or " ".join(given) or None


def _copied(kept: Mapping[str, Any]) -> str:
    if kept["complete"]:
        return f"complete, {len(kept['refused'])} refused" if kept["refused"] else "complete"
    owed = kept["owed_bytes"]
    return f"{text.size(owed)} of rows owed" if owed else "not ended there"
