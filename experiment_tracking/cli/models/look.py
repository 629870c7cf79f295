"""``experiments models ls``, ``show``, ``compare`` and ``log``: what there is."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import DONE, FAILED, Names, new_command
from experiment_tracking.cli.models.reference import (
    REF_HELP,
    add_reference,
    registry_of,
    say_problems,
    to_reference,
    why_empty,
)
from experiment_tracking.cli.models.wording import artifact_of, in_words, subject, to_words
from experiment_tracking.cli.screen import (
    GAP,
    INDENT,
    Cell,
    Column,
    Screen,
    column_of,
    json_out,
    say,
)
from experiment_tracking.cli.show import print_tree
from experiment_tracking.errors import DamagedError, InvalidValueError

if TYPE_CHECKING:
    from experiment_tracking.models.registered import RegisteredModel
    from experiment_tracking.models.registry import ModelRegistry
    from experiment_tracking.models.version import ModelVersion

LS_DEFAULTS: dict[str, Any] = {"name": None, "metrics": None}
"""What ``ls`` takes where nobody has said ``ls``."""

_METRICS = 3
_NARROWEST = 12
"""Cells of a version's column; where even these are not there for all, the last ones go."""

_LS_EXAMPLES = """
experiments models
experiments models digits
experiments models ls digits --metrics val/acc,val/loss
experiments models ls --json | jq '.[].aliases'
"""
_SHOW_EXAMPLES = """
experiments models show digits/3
experiments models show digits/production
experiments models show digits@champion --path
"""
_COMPARE_EXAMPLES = """
experiments models compare digits/3 digits/production
experiments models compare digits/1 digits/2 digits/3 --json
"""
_LOG_EXAMPLES = """
experiments models log digits
experiments models log digits --json | jq '.[] | select(.kind == "approved")'
"""
_STYLES = {"Production": "green", "Staging": "yellow", "Archived": "dim"}


def add(verbs: Any) -> None:
    """Add the verbs."""
    summary = "list models, or the versions of one"
    parser = new_command(verbs, "ls", ls, summary, _LS_EXAMPLES, one_root=True)
    parser.add_argument("name", nargs="?", metavar="MODEL", help="list the versions of this one")
    parser.add_argument(
        "--metrics", action=Names, metavar="A,B", help="of the versions; by default the first few"
    )
    summary = "show all that is known of a version"
    parser = new_command(verbs, "show", show, summary, _SHOW_EXAMPLES, one_root=True)
    add_reference(parser)
    parser.add_argument("--path", action="store_true", help="print its folder alone, for scripts")
    summary = "put versions side by side, what differs first"
    parser = new_command(verbs, "compare", compare, summary, _COMPARE_EXAMPLES, one_root=True)
    parser.add_argument(
        "references", nargs="+", metavar="REF", type=to_reference, help=f"two or more: {REF_HELP}"
    )
    summary = "tell what was done to a model: when, by whom, why"
    parser = new_command(verbs, "log", log, summary, _LOG_EXAMPLES, one_root=True)
    parser.add_argument("name", metavar="MODEL", help="name of the model")


# ---------------------------------------------------------------------- ls


def ls(args: argparse.Namespace) -> int:
    """Print all models, or the versions of one."""
    registry = registry_of(args)
    if args.name is not None:
        return _ls_versions(args, registry)
    models = registry.list()
    if args.json:
        json_out([model.to_dict() for model in models])
    elif models:
        _print_models(models)
    elif not registry.problems:
        say(why_empty(registry))
    return say_problems(registry)


def _print_models(models: "Sequence[RegisteredModel]") -> None:
    latest = [model.latest.version if model.latest else None for model in models]
    columns = [
        column_of("model", [m.name for m in models], text.clean, styles=["bold"] * len(models)),
        column_of("latest", latest, text.param_or_nothing),
        *(_stage_column(stage, models) for stage in ("Production", "Staging")),
        column_of("aliases", [_aliases(m.aliases) for m in models], str, rank=2),
        column_of("age", [m.latest.created_at if m.latest else None for m in models],
                  text.age, rank=1),
        column_of("description", [m.description for m in models], _short, rank=3),
    ]  # fmt: skip
    Screen().table(columns)


def _stage_column(stage: str, models: "Sequence[RegisteredModel]") -> Column:
    held = [[v.version for v in model.versions if v.stage == stage] for model in models]
    told = [", ".join(map(str, numbers)) or text.NOTHING for numbers in held]
    return column_of(stage.lower(), told, str, rank=1, styles=[_STYLES[stage]] * len(models))


def _aliases(aliases: Mapping[str, int]) -> str:
    return ", ".join(text.clean(f"{name}={number}") for name, number in aliases.items()) or "-"


def _short(words: str) -> str:
    return text.clean(words.partition("\n")[0]) or text.NOTHING


def _ls_versions(args: argparse.Namespace, registry: "ModelRegistry") -> int:
    versions = registry.versions(args.name)
    facts, problems = facts_of(versions)
    if args.json:
        json_out([each.to_dict() for each in versions if each.key in facts])
    elif versions:
        _print_versions(versions, facts, args.metrics)
        for note in _runs_gone(registry, versions):
            say(note)
    else:
        say(f"{args.name} has no versions.")
    for problem in problems:
        say(problem)
    return FAILED if problems else DONE


def facts_of(
    versions: "Iterable[ModelVersion]",
) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """Read what each was registered with; one that is damaged does not hide the others."""
    facts: dict[str, Mapping[str, Any]] = {}
    problems = []
    for version in versions:
        try:
            facts[version.key] = {
                **version.lineage["model"],
                "artifact": artifact_of(version),
                "metrics": version.metrics,
            }
        except (DamagedError, OSError) as error:
            problems.append(str(error))
    return facts, problems


def _print_versions(
    versions: "Sequence[ModelVersion]",
    facts: Mapping[str, Mapping[str, Any]],
    wanted: Sequence[str] | None,
) -> None:
    from experiment_tracking.registry.columns import find_metric

    known = [facts.get(version.key, {}) for version in versions]
    counted = Counter(name for each in known for name in each.get("metrics", ()))
    names = [name for name, _ in counted.most_common()]
    shown = names[:_METRICS] if wanted is None else [find_metric(name, names) for name in wanted]
    stages = [version.stage for version in versions]
    columns = [
        column_of("version", [version.key for version in versions], text.clean),
        column_of("stage", stages, text.clean, styles=[_STYLES.get(s, "") for s in stages]),
        *_where_any("aliases", [", ".join(version.aliases) or None for version in versions], 1),
        column_of("model", [each.get("artifact") for each in known], text.param_or_nothing, rank=3),
        *_where_any("step", [each.get("step") for each in known], 2),
        *(_metric_column(name, known, 4 + 2 * i) for i, name in enumerate(shown)),
        column_of("framework", [e.get("framework") for e in known], text.param_or_nothing, rank=7),
        column_of("size", [each.get("size_bytes") for each in known], text.size, rank=5),
        column_of("age", [version.created_at for version in versions], text.age, rank=3),
        column_of("by", [version.by for version in versions], text.param, rank=9),
        # The longest, and the least to tell versions apart by: they have their numbers.
        column_of("run", [version.run for version in versions], text.param, rank=10),
    ]  # fmt: skip
    Screen().table(columns)
    if wanted is None and (left_out := names[_METRICS:]):
        say(f"not shown: {', '.join(left_out)}. --metrics shows them.")


def _where_any(header: str, values: Sequence[Any], rank: int) -> list[Column]:
    if all(value is None for value in values):
        return []
    return [column_of(header, values, text.param_or_nothing, rank=rank)]


def _metric_column(name: str, known: Sequence[Mapping[str, Any]], rank: int) -> Column:
    values = [each.get("metrics", {}).get(name) for each in known]
    return column_of(name, values, to_words, rank=rank)


def _runs_gone(registry: "ModelRegistry", versions: "Sequence[ModelVersion]") -> list[str]:
    """Say of the versions whose run is not in its place where that is now."""
    from experiment_tracking.registry.registry import ExperimentRegistry
    from experiment_tracking.upkeep.trash import trashed

    runs = {run.id for run in ExperimentRegistry(registry.root).list_experiments() if run.id}
    away = [version for version in versions if version.run_id not in runs]
    in_trash = {f"{each.project}/{each.name}" for each in trashed(registry.root)} if away else set()
    told = {version: version.run in in_trash for version in away}
    return [
        f"the run of {version.key}, {version.run}, is {'in the trash' if there else 'gone'}; the "
        "version stays whole."
        for version, there in told.items()
    ]


# ---------------------------------------------------------------------- show


def show(args: argparse.Namespace) -> int:
    """Print one version."""
    registry = registry_of(args)
    version = registry.get(args.reference)
    if args.path:
        print(version.path)
    elif args.json:
        json_out(_as_json(version))
    else:
        _print(version, registry, Screen())
    return DONE


def _as_json(version: "ModelVersion") -> dict[str, Any]:
    lineage, document = version.lineage, version.model.document
    return {
        **version.to_dict(),
        "updated_at": version.updated_at,
        "approvals": version.approvals,
        "files": lineage["files"],
        "inputs": lineage["inputs"],
        "code": lineage["code"],
        "of_run": lineage["run"],
        "of_model": lineage["model"],
        **{key: document.get(key) for key in ("signature", "metadata", "versions")},
    }


def _print(version: "ModelVersion", registry: "ModelRegistry", screen: Screen) -> None:
    from experiment_tracking.models.card import with_options

    stage = Cell(INDENT + version.stage, _STYLES.get(version.stage, ""))
    screen.line(Cell(text.clean(version.key), "bold"), stage)
    document = version.model.document
    model = version.lineage["model"]
    code = version.lineage["code"]
    known = (
        ("aliases", ", ".join(version.aliases)),
        ("tags", text.tags(version.tags) if version.tags else ""),
        ("description", version.description),
        ("registered", f"{text.local_time(version.created_at)} by {version.by}"),
        ("approved", _approvals(version.approvals)),
        ("run", f"{version.run} ({version.run_id})"),
        ("model in it", artifact_of(version)),
        ("commit", code.get("commit")),
        ("step", model.get("step")),
        ("framework", _framework(model, document)),
        ("class", model.get("class")),
        ("parameters", model.get("parameter_count")),
        ("inference", _inference(model)),
        ("path", version.path),
        ("load", f"ModelRegistry({registry.root!r}).load({version.key!r}{with_options(document)})"),
    )
    pairs = [(name, Cell(str(value))) for name, value in known if value not in (None, "")]
    screen.pairs(pairs)
    _print_files(version.lineage["files"], screen)
    _print_signature(document.get("signature"), screen)
    for title, values in (("params", version.params), ("metrics", version.metrics)):
        if values:
            screen.heading(title)
            print_tree(values, screen, INDENT)
    _print_inputs(version.lineage["inputs"], screen)
    for note in _runs_gone(registry, [version]):
        say(note)


def _approvals(approvals: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"for {stage} by {', '.join(by)}" for stage, by in approvals.items())


def _framework(model: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    versions = document.get("versions") or {}
    told = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"{model.get('framework')} ({told})"


def _inference(model: Mapping[str, Any]) -> str:
    time_ms = model.get("inference_time_ms")
    return "" if time_ms is None else f"{time_ms:.3g} ms on {model.get('inference_device')}"


def _print_files(files: Mapping[str, Mapping[str, Any]], screen: Screen) -> None:
    screen.heading("files")
    columns = [
        column_of("", list(files), text.clean),
        column_of("size", [known.get("size_bytes") for known in files.values()], text.size),
        column_of("sha256", [known.get("sha256") for known in files.values()], text.clean, rank=1),
    ]
    screen.table(columns, INDENT)


def _print_signature(signature: Any, screen: Screen) -> None:
    if not isinstance(signature, Mapping):
        return
    rows = [(side, each) for side in ("inputs", "outputs") for each in signature.get(side) or ()]
    screen.heading("signature")
    columns = [
        column_of("", [side.removesuffix("s") for side, _ in rows], str),
        column_of("name", [each.get("name") for _, each in rows], text.param_or_nothing),
        column_of("dtype", [each.get("dtype") for _, each in rows], text.param_or_nothing),
        column_of("shape", [each.get("shape") for _, each in rows], text.param_or_nothing),
    ]
    screen.table(columns, INDENT)


def _print_inputs(inputs: Sequence[Mapping[str, Any]], screen: Screen) -> None:
    if inputs:
        screen.heading("trained on")
        columns = [
            column_of("", [each.get("name") for each in inputs], text.param_or_nothing),
            column_of("path", [each.get("path") for each in inputs], text.param_or_nothing),
            column_of("sha256", [each.get("sha256") for each in inputs], text.param_or_nothing,
                      rank=1),
        ]  # fmt: skip
        screen.table(columns, INDENT)


# ---------------------------------------------------------------------- compare


def compare(args: argparse.Namespace) -> int:
    """Print versions side by side."""
    if len(args.references) < 2:
        raise InvalidValueError("One version is named. Name two or more to put side by side.")
    table = registry_of(args).compare(*args.references)
    versions, rows = list(table.columns), dict(zip(table.index, table.to_numpy(), strict=True))
    differing = [name for name, values in rows.items() if len(set(map(repr, values))) > 1]
    same = [name for name in rows if name not in differing]
    if args.json:
        known = {name: list(values) for name, values in rows.items()}
        json_out({"versions": versions, "differing": differing, "rows": known})
        return DONE
    screen = Screen()
    room = _room(rows, len(versions), screen.width)
    lines = [
        line
        for title, names in {"differs": differing, "is the same": same}.items()
        if names
        for line in _section(title, {name: rows[name] for name in names}, room)
    ]
    columns = zip(["", *map(text.clean, versions)], zip(*lines, strict=True), strict=True)
    screen.table(
        [Column(header, list(cells), rank=rank) for rank, (header, cells) in enumerate(columns)]
    )
    return DONE


def _room(rows: Iterable[str], count: int, width: int) -> int:
    """Return how wide a version's column may be for all of them to have room beside the names."""
    names = max(text.width_of(INDENT + text.clean(name)) for name in rows)
    return max(_NARROWEST, (width - names) // count - len(GAP))


def _section(
    title: str, rows: Mapping[str, Sequence[Any]], room: int
) -> Iterator[tuple[Cell, ...]]:
    """Yield lines of a label and a cell per version; a long value goes on below itself."""
    from itertools import zip_longest

    width = len(next(iter(rows.values())))
    yield (Cell(title, "bold cyan"), *[Cell("")] * width)
    for name, values in rows.items():
        write = _WRITERS.get(name, to_words)
        parts = [_folded(write(value), room) for value in values]
        label = [Cell(INDENT + text.clean(name), "dim")]
        yield from zip_longest(label, *parts, fillvalue=Cell(""))


def _folded(words: str, room: int) -> list[Cell]:
    from textwrap import wrap

    characters = room * len(words) // max(1, text.width_of(words))
    lines = [words] if len(words) <= characters else wrap(words, characters)
    return [Cell(line) for line in lines]


_WRITERS: Mapping[str, Callable[[Any], str]] = {
    "created_at": text.local_time,
    "size_bytes": text.size,
    "commit": lambda commit: text.param_or_nothing(commit)[:12],
    "aliases": lambda aliases: text.clean(aliases) or text.NOTHING,
}


# ---------------------------------------------------------------------- log


def log(args: argparse.Namespace) -> int:
    """Print the audit trail."""
    history = registry_of(args).history(args.name)
    if args.json:
        json_out([event.to_dict() for event in history])
        return DONE
    who = max((text.width_of(text.clean(event.by)) for event in history), default=0)
    Screen().pairs(
        [
            (
                GAP.join((text.local_time(event.at), text.pad(text.clean(event.by), who),
                          subject(args.name, event))),
                Cell(in_words(event)),
            )
            for event in history
        ]
    )  # fmt: skip
    return DONE
