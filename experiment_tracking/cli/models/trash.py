"""``experiments models rm``, ``restore`` and ``purge``: into the trash, out of it, gone."""

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.cli import text
from experiment_tracking.cli.command import FAILED, new_command
from experiment_tracking.cli.models.reference import (
    add_reason,
    find_target,
    registry_of,
    say_problems,
)
from experiment_tracking.cli.models.wording import tell
from experiment_tracking.cli.screen import Screen, column_of, json_out, say
from experiment_tracking.cli.trash import confirmed
from experiment_tracking.errors import InvalidValueError, NotFoundError

if TYPE_CHECKING:
    from experiment_tracking.models.events import Event
    from experiment_tracking.models.registry import ModelRegistry
    from experiment_tracking.models.version import ModelVersion

_RM_EXAMPLES = """
experiments models rm digits/1 digits/2
experiments models rm digits --reason "replaced by digits-large"
"""
_RESTORE_EXAMPLES = """
experiments models restore
experiments models restore digits/1
experiments models restore digits
"""
_PURGE_EXAMPLES = """
experiments models purge digits/1
experiments models purge --yes
"""
_TRASHED_HELP = "name/version, or the name of a model"


def add(verbs: Any) -> None:
    """Add the verbs."""
    summary = "move versions, or a whole model, to the trash"
    parser = new_command(verbs, "rm", rm, summary, _RM_EXAMPLES, one_root=True)
    parser.add_argument(
        "references", nargs="+", metavar="REF", help="as everywhere; of a name alone all of it"
    )
    add_reason(parser)
    summary = "bring versions or models back from the trash, or list it"
    parser = new_command(verbs, "restore", restore, summary, _RESTORE_EXAMPLES, one_root=True)
    parser.add_argument("references", nargs="*", metavar="REF", help=_TRASHED_HELP)
    summary = "delete what is in the trash for good"
    parser = new_command(verbs, "purge", purge, summary, _PURGE_EXAMPLES, one_root=True)
    parser.add_argument(
        "references", nargs="*", metavar="REF", help=f"{_TRASHED_HELP}; by default everything"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


# ---------------------------------------------------------------------- rm and restore


def rm(args: argparse.Namespace) -> int:
    """Move to the trash; all are found before the first one goes."""
    registry = registry_of(args)
    found = [find_target(registry, reference) for reference in args.references]
    return tell(
        args,
        registry,
        *(
            (name, partial(registry.delete, name, number, None, args.reason))
            for name, number in found
        ),
    )


def restore(args: argparse.Namespace) -> int:
    """Bring back; without words list what is in the trash."""
    registry = registry_of(args)
    if not args.references:
        return _list(args, registry)
    found = [_split(reference) for reference in args.references]
    return tell(
        args, registry, *((name, partial(registry.restore, name, number)) for name, number in found)
    )


def _split(reference: str) -> tuple[str, int | None]:
    """Return name and version; stages and aliases are for what is not in the trash."""
    from experiment_tracking.models.references import parse_reference

    name, number, stage, alias = parse_reference(reference)
    if stage or alias:
        raise InvalidValueError(
            f"{reference!r:.80}: in the trash a version is named by its number, as {name}/3."
        )
    return name, number


class _Trashed(NamedTuple):
    """A version in the trash, and how it came there."""

    version: "ModelVersion"
    deleted: "Event"
    size_bytes: int


def _trashed(registry: "ModelRegistry") -> list[_Trashed]:
    from experiment_tracking.upkeep.usage import usage

    names = [model.name for deleted in (False, True) for model in registry.list(deleted)]
    found = []
    for name in names:
        versions = registry.versions(name, deleted=True)
        if not versions:
            continue
        history = [event for event in registry.history(name) if event.kind == "deleted"]
        sizes = usage(str(version.path) for version in versions)
        for version, measured in zip(versions, sizes, strict=True):
            last = [event for event in history if event.version in (None, version.version)][-1]
            found.append(_Trashed(version, last, measured.size_bytes))
    return found


def _list(args: argparse.Namespace, registry: "ModelRegistry") -> int:
    found = _trashed(registry)
    if args.json:
        json_out([_to_json(each) for each in found])
    elif found:
        _print_table(found)
    else:
        say("the trash is empty.")
    return say_problems(registry)


def _to_json(each: _Trashed) -> dict[str, Any]:
    return {
        "key": each.version.key,
        "run": each.version.run,
        "path": str(each.version.path),
        "at": each.deleted.at,
        "by": each.deleted.by,
        "reason": each.deleted.known.get("reason", ""),
        "whole_model": each.deleted.version is None,
        "size_bytes": each.size_bytes,
    }


def _print_table(found: list[_Trashed]) -> None:
    columns = [
        column_of("version", [each.version.key for each in found], text.clean),
        column_of("removed", [each.deleted.at for each in found], text.age),
        column_of("by", [each.deleted.by for each in found], text.clean, rank=2),
        column_of("size", [each.size_bytes for each in found], text.size, rank=1),
        column_of("run", [each.version.run for each in found], text.param, rank=3),
        column_of("with", ["the model" if each.deleted.version is None else None for each in found],
                  text.param_or_nothing, rank=4),
    ]  # fmt: skip
    Screen().table(columns)


# ---------------------------------------------------------------------- purge


def purge(args: argparse.Namespace) -> int:
    """Delete chosen versions of the trash, after a question."""
    registry = registry_of(args)
    trashed = _trashed(registry)
    wanted = [_split(reference) for reference in args.references]
    chosen = [each for each in trashed if not wanted or _is_meant(each.version, wanted)]
    for name, number in wanted:
        if not any(_is_meant(each.version, [(name, number)]) for each in chosen):
            key = name if number is None else f"{name}/{number}"
            from experiment_tracking.registry.columns import near

            keys = [each.version.key for each in trashed]
            raise NotFoundError(f"{key} is not in the trash. {near(key, keys)}")
    size = sum(each.size_bytes for each in chosen)
    told = f"{len(chosen)} version{'' if len(chosen) == 1 else 's'}"
    if chosen and not args.yes and not confirmed(f"{told}, {text.size(size)}"):
        say("nothing was deleted.")
        return FAILED
    for each in chosen:
        registry.purge(each.version.name, each.version.version)
    if args.json:
        json_out({"deleted": [each.version.key for each in chosen], "size_bytes": size})
    else:
        print(f"{told} deleted, {text.size(size)} freed")
    return say_problems(registry)


def _is_meant(version: "ModelVersion", wanted: "list[tuple[str, int | None]]") -> bool:
    return (version.name, None) in wanted or (version.name, version.version) in wanted
