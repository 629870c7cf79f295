"""``experiments models rm``, ``restore`` and ``purge``: into the trash, out of it, gone."""

import argparse
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.cli import text
from experiment_tracking.cli.command import FAILED, new_command
from experiment_tracking.cli.models.look import facts_of
from experiment_tracking.cli.models.reference import (
    add_reason,
    find_target,
    registry_of,
    say_problems,
    to_reference,
)
from experiment_tracking.cli.models.wording import Change, tell
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
experiments models purge --all
"""
_TRASHED_HELP = "name/version, or the name of a model"


def add(verbs: Any) -> None:
    """Add the verbs."""
    summary = "move versions, or a whole model, to the trash"
    parser = new_command(verbs, "rm", rm, summary, _RM_EXAMPLES, one_root=True)
    parser.add_argument(
        "references",
        nargs="+",
        metavar="REF",
        type=to_reference,
        help="as everywhere; of a name alone all of it",
    )
    add_reason(parser)
    summary = "bring versions or models back from the trash, or list it"
    parser = new_command(verbs, "restore", restore, summary, _RESTORE_EXAMPLES, one_root=True)
    parser.add_argument(
        "references", nargs="*", metavar="REF", type=to_reference, help=_TRASHED_HELP
    )
    summary = "delete what is in the trash for good"
    parser = new_command(verbs, "purge", purge, summary, _PURGE_EXAMPLES, one_root=True)
    parser.add_argument(
        "references", nargs="*", metavar="REF", type=to_reference, help=_TRASHED_HELP
    )
    parser.add_argument("--all", action="store_true", help="everything in the trash")
    parser.add_argument("--yes", action="store_true", help="do not ask")


# ---------------------------------------------------------------------- rm and restore


def rm(args: argparse.Namespace) -> int:
    """Move to the trash; all are found, and free to go, before the first one goes."""
    registry = registry_of(args)
    found = [find_target(registry, reference) for reference in args.references]
    _check_unused(registry, found)
    changes = [
        Change(
            name,
            partial(registry.delete, name, number, None, args.reason),
            f"{_key(name, number)} is in the trash already",
        )
        for name, number in dict.fromkeys(found)
    ]
    return tell(args, registry, *changes)


def _check_unused(registry: "ModelRegistry", found: list[tuple[str, int | None]]) -> None:
    """Refuse versions in use, with what to do about each: the registry tells one at a time."""
    meant = {
        version.key: version
        for name, number in found
        for version in registry.versions(name)
        if number in (None, version.version)
    }
    uses = [line for version in meant.values() for line in _uses(version)]
    if uses:
        raise InvalidValueError("\n".join(["Nothing is moved, as versions are in use.", *uses]))


def _uses(version: "ModelVersion") -> Iterator[str]:
    if version.stage == "Production":
        how = f"experiments models stage {version.key} archived"
        yield f"{version.key} is in Production. Move it first: {how}"
    for alias in version.aliases:
        how = f"experiments models alias {version.name} {alias} --delete"
        yield f"{version.key} has the alias {alias!r}. Take that away first: {how}"


def _key(name: str, number: int | None) -> str:
    return name if number is None else f"{name}/{number}"


def restore(args: argparse.Namespace) -> int:
    """Bring back; without words list what is in the trash."""
    registry = registry_of(args)
    if not args.references:
        return _list(args, registry)
    found = [_split(reference) for reference in args.references]
    changes = [
        Change(
            name,
            partial(registry.restore, name, number),
            f"{_key(name, number)} is not in the trash",
        )
        for name, number in found
    ]
    return tell(args, registry, *changes)


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
    size_bytes: int | None
    """As the list of versions has it; None where the version is damaged."""


def _trashed(registry: "ModelRegistry") -> tuple[list[_Trashed], list[str]]:
    """Return what is in the trash, and what is damaged of it, which can be purged all the same."""
    names = [model.name for deleted in (False, True) for model in registry.list(deleted)]
    found, problems = [], []
    for name in names:
        versions = registry.versions(name, deleted=True)
        if not versions:
            continue
        history = [event for event in registry.history(name) if event.kind == "deleted"]
        facts, damaged = facts_of(versions)
        problems += damaged
        for version in versions:
            last = [event for event in history if event.version in (None, version.version)][-1]
            size_bytes = facts.get(version.key, {}).get("size_bytes")
            found.append(_Trashed(version, last, size_bytes))
    return found, problems


def _list(args: argparse.Namespace, registry: "ModelRegistry") -> int:
    found, problems = _trashed(registry)
    if args.json:
        json_out([_to_json(each) for each in found])
    elif found:
        _print_table(found)
    else:
        say("the trash is empty.")
    for problem in problems:
        say(problem)
    code = say_problems(registry)
    return FAILED if problems else code


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
    from experiment_tracking.upkeep.usage import usage

    registry = registry_of(args)
    if bool(args.references) == args.all:
        raise InvalidValueError("Say which versions of the trash: REF, or --all.")
    chosen = _chosen(args, [each.version for each in _trashed(registry)[0]])
    measured = usage(str(version.path) for version in chosen)
    freed = sum(each.freed_bytes for each in measured)
    shared = sum(each.shared_bytes for each in measured)
    told = f"{len(chosen)} version{'' if len(chosen) == 1 else 's'}"
    kept = f"; {text.size(shared)} more are weights that a run has too" if shared else ""
    if chosen and not args.yes and not confirmed(f"{told}, {text.size(freed)}{kept}"):
        say("nothing was deleted.")
        return FAILED
    for version in chosen:
        registry.purge(version.name, version.version)
    if args.json:
        keys = [version.key for version in chosen]
        json_out({"deleted": keys, "freed_bytes": freed, "shared_bytes": shared})
    else:
        print(f"{told} deleted, {text.size(freed)} freed{kept}")
    return say_problems(registry)


def _chosen(args: argparse.Namespace, trashed: "list[ModelVersion]") -> "list[ModelVersion]":
    wanted = [_split(reference) for reference in args.references]
    for name, number in wanted:
        if not any(_is_meant(version, [(name, number)]) for version in trashed):
            keys = ", ".join(version.key for version in trashed)
            has = f"It has {keys}." if keys else "The trash is empty."
            raise NotFoundError(f"{_key(name, number)} is not in the trash. {has}")
    return [version for version in trashed if args.all or _is_meant(version, wanted)]


def _is_meant(version: "ModelVersion", wanted: "list[tuple[str, int | None]]") -> bool:
    return (version.name, None) in wanted or (version.name, version.version) in wanted
