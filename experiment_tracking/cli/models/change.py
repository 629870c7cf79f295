"""``experiments models register``, ``stage``, ``rollback`` and what else changes a model."""

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import DONE, RUN_HELP, find_run, new_command
from experiment_tracking.cli.models.reference import (
    STAGE_HELP,
    add_reason,
    add_reference,
    find_target,
    registry_of,
)
from experiment_tracking.cli.models.wording import Change, artifact_of, tell, to_words
from experiment_tracking.cli.screen import json_out
from experiment_tracking.errors import InvalidValueError

if TYPE_CHECKING:
    from experiment_tracking.models.version import ModelVersion
    from experiment_tracking.registry.record import RunRecord

_METRICS = 3
_SUBJECT_HELP = "name/version, name/stage or name@alias; a name alone is the model as a whole"
_REGISTER_EXAMPLES = """
experiments models register latest --name digits
experiments models register best:val/acc best --best val/acc --name digits --alias candidate
experiments models register digits/lr-0.1 best --step 40 --name digits -t data=v2
"""
_STAGE_EXAMPLES = """
experiments models stage digits/3 staging
experiments models stage digits@candidate production --reason "better on the test set"
experiments models stage digits/3 archived
"""
_PROMOTE_EXAMPLES = """
experiments models promote digits/3
experiments models promote digits/staging --reason "a week without complaints"
"""
_ROLLBACK_EXAMPLES = """
experiments models rollback digits --reason "wrong on rotated images"
experiments models rollback digits --stage staging
"""
_ALIAS_EXAMPLES = """
experiments models alias digits/3 champion
experiments models alias digits champion --delete
"""
_DESCRIBE_EXAMPLES = """
experiments models describe digits "digits of one hand, 8 x 8 pixels"
experiments models describe digits/3 "with dropout"
"""
_TAG_EXAMPLES = """
experiments models tag digits/3 -t data=v2 -t reviewed
experiments models tag digits -t team=vision -r draft
"""


def add(verbs: Any) -> None:
    """Add the verbs."""
    _add_register(verbs)
    summary = "move a version to a stage; who is there is archived"
    parser = new_command(verbs, "stage", stage, summary, _STAGE_EXAMPLES, one_root=True)
    add_reference(parser)
    parser.add_argument("stage", metavar="STAGE", help=STAGE_HELP)
    _add_move_options(parser)
    summary = "move a version to Production"
    parser = new_command(verbs, "promote", stage, summary, _PROMOTE_EXAMPLES, one_root=True)
    parser.set_defaults(stage="Production")
    add_reference(parser)
    _add_move_options(parser)
    summary = "bring back the version that was in Production before"
    parser = new_command(verbs, "rollback", rollback, summary, _ROLLBACK_EXAMPLES, one_root=True)
    parser.add_argument("name", metavar="MODEL", help="name of the model")
    parser.add_argument("--stage", default="Production", metavar="STAGE", help="by default this")
    add_reason(parser)
    _add_words(verbs)


def _add_register(verbs: Any) -> None:
    summary = "make a run's model the next version"
    parser = new_command(verbs, "register", register, summary, _REGISTER_EXAMPLES, one_root=True)
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument(
        "artifact",
        nargs="?",
        metavar="ARTIFACT",
        help="name of the model in the run; default: the only one",
    )
    parser.add_argument("--name", metavar="MODEL", help="to register it as; default: ARTIFACT")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--step", type=int, metavar="S", help="of the saves that are kept; default: the newest"
    )
    which.add_argument(
        "--best", metavar="METRIC", help="the one of them at which this metric was best"
    )
    parser.add_argument(
        "--alias", action="append", default=[], metavar="A", help="for it; may be repeated"
    )
    parser.add_argument("--description", default="", metavar="TEXT", help="free text about it")
    _add_tags(parser)


def _add_move_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-existing", action="store_true", help="do not archive who is in that stage"
    )
    add_reason(parser)


def _add_tags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-t",
        "--tag",
        action="append",
        default=[],
        metavar="T",
        help="set T, or KEY=VALUE; may be repeated",
    )


def _add_words(verbs: Any) -> None:
    summary = "let a word of yours stand for a version"
    parser = new_command(verbs, "alias", alias, summary, _ALIAS_EXAMPLES, one_root=True)
    add_reference(parser)
    parser.add_argument("alias", metavar="ALIAS", help="a word such as champion")
    parser.add_argument("--delete", action="store_true", help="remove the alias")
    summary = "say what a model or a version is"
    parser = new_command(verbs, "describe", describe, summary, _DESCRIBE_EXAMPLES, one_root=True)
    add_reference(parser, _SUBJECT_HELP)
    parser.add_argument("text", metavar="TEXT", help="free text; '' removes it")
    summary = "set and remove tags of a model or a version"
    parser = new_command(verbs, "tag", tag, summary, _TAG_EXAMPLES, one_root=True)
    add_reference(parser, _SUBJECT_HELP)
    _add_tags(parser)
    parser.add_argument(
        "-r",
        "--remove",
        action="append",
        default=[],
        metavar="T",
        help="remove the tag T; may be repeated",
    )


# ---------------------------------------------------------------------- versions and stages


def register(args: argparse.Namespace) -> int:
    """Register a model of a run."""
    run = find_run(args, args.run)
    version = registry_of(args).register(
        run,
        args.artifact or _only_model(args, run),
        args.name,
        step=args.step,
        best=args.best,
        aliases=args.alias,
        description=args.description,
        tags=_tags(args.tag),
    )
    if args.json:
        json_out(version.to_dict())
    else:
        print(text.clean(f"{version.key}: registered from {_origin(version)}, {version.path}"))
    return DONE


def _origin(version: "ModelVersion") -> str:
    """Write which save of which model it is: that of the best run need not be its best."""
    step = version.lineage["model"].get("step")
    at = "" if step is None else f" at step {step}"
    values = [f"{name} {to_words(value)}" for name, value in version.metrics.items()]
    more = [f"{len(values) - _METRICS} more"] if len(values) > _METRICS else []
    told = ", ".join([*values[:_METRICS], *more])
    return f"{version.run}, {artifact_of(version)}{at}{f' ({told})' if told else ''}"


def _only_model(args: argparse.Namespace, run: "RunRecord") -> str:
    names = {str(entry.get("name")) for entry in run.artifacts if entry.get("kind") == "model"}
    if len(names) > 1:
        words = ["models", "register", args.run, sorted(names)[0]]
        named = ["--name", args.name] if args.name else []
        raise InvalidValueError(
            f"Run {run.key} has several models: {', '.join(sorted(names))}. Say which: "
            f"experiments {shlex.join([*words, *named])}"
        )
    return next(iter(names), "model")


def stage(args: argparse.Namespace) -> int:
    """Move a version to a stage."""
    registry = registry_of(args)
    version = registry.get(args.reference)

    def move() -> None:
        keep = args.keep_existing
        registry.transition(
            version.name, version.version, args.stage, None, args.reason, archive_existing=not keep
        )

    already = f"{version.key} is in {version.stage} already"
    return tell(args, registry, Change(version.name, move, already))


def rollback(args: argparse.Namespace) -> int:
    """Bring back the version before."""
    registry = registry_of(args)

    def roll_back() -> None:
        registry.rollback(args.name, args.stage, reason=args.reason)

    return tell(args, registry, Change(args.name, roll_back, f"{args.name} is so already"))


# ---------------------------------------------------------------------- words


def alias(args: argparse.Namespace) -> int:
    """Set an alias, or remove it."""
    registry = registry_of(args)
    if args.delete:
        name, _ = find_target(registry, args.reference)
        already = f"{name} has no alias {args.alias!r}"
        change = Change(name, lambda: registry.delete_alias(name, args.alias), already)
        return tell(args, registry, change)
    version = registry.get(args.reference)

    def set_alias() -> None:
        registry.set_alias(version.name, args.alias, version.version)

    already = f"{version.key} has the alias {args.alias!r} already"
    return tell(args, registry, Change(version.name, set_alias, already))


def describe(args: argparse.Namespace) -> int:
    """Describe a model or a version."""
    registry = registry_of(args)
    name, version = find_target(registry, args.reference)
    already = f"{args.reference} has that description already"
    change = Change(name, lambda: registry.describe(name, args.text, version), already)
    return tell(args, registry, change)


def tag(args: argparse.Namespace) -> int:
    """Set and remove tags."""
    if not args.tag and not args.remove:
        raise InvalidValueError("No tag is given. Write -t NAME, -t KEY=VALUE or -r NAME.")
    tags = _tags(args.tag)
    registry = registry_of(args)
    name, version = find_target(registry, args.reference)

    def change() -> None:
        if tags:
            registry.set_tags(name, tags, version)
        if args.remove:
            registry.remove_tags(name, args.remove, version)

    already = f"the tags of {args.reference} are so already"
    return tell(args, registry, Change(name, change, already))


def _tags(words: list[str]) -> dict[str, str]:
    tags = {name: value for name, _, value in (word.partition("=") for word in words)}
    if "" in tags:
        raise InvalidValueError("A tag needs a name. Write -t NAME or -t KEY=VALUE.")
    return tags
