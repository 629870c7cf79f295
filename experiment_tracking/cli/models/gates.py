"""``experiments models policy``, ``approve`` and ``verify``: what a version must meet."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import DONE, FAILED, Names, new_command
from experiment_tracking.cli.models.reference import (
    STAGE_HELP,
    add_reason,
    add_reference,
    find_target,
    registry_of,
    say_problems,
    to_reference,
    why_empty,
)
from experiment_tracking.cli.models.wording import Change, tell
from experiment_tracking.cli.screen import Screen, column_of, json_out, say
from experiment_tracking.errors import DamagedError, InvalidValueError

if TYPE_CHECKING:
    from experiment_tracking.models.registry import ModelRegistry
    from experiment_tracking.models.version import ModelVersion

_APPROVE_EXAMPLES = """
experiments models approve digits/3 production
experiments models approve digits@candidate production --reason "looked at the confusions"
"""
_POLICY_EXAMPLES = """
experiments models policy digits
experiments models policy digits production --require 'val/acc >= 0.9' --require 'val/loss < 0.3'
experiments models policy digits production --approver ann,bob --approvals 2
experiments models policy digits production --clear
"""
_VERIFY_EXAMPLES = """
experiments models verify
experiments models verify digits digits-large/production
"""


def add(verbs: Any) -> None:
    """Add the verbs."""
    summary = "approve a version for a stage whose gate asks for it"
    parser = new_command(verbs, "approve", approve, summary, _APPROVE_EXAMPLES, one_root=True)
    add_reference(parser)
    parser.add_argument("stage", metavar="STAGE", help=STAGE_HELP)
    add_reason(parser)
    _add_policy(verbs)
    summary = "read every file and compare its hash; exit code 1 where one differs"
    parser = new_command(verbs, "verify", verify, summary, _VERIFY_EXAMPLES, one_root=True)
    parser.add_argument(
        "references",
        nargs="*",
        metavar="REF",
        type=to_reference,
        help="name/version, name/stage or name@alias, of a name alone all versions; by default "
        "those of all models",
    )


def _add_policy(verbs: Any) -> None:
    summary = "show or set what a version needs to come to a stage"
    parser = new_command(verbs, "policy", policy, summary, _POLICY_EXAMPLES, one_root=True)
    parser.add_argument("name", metavar="MODEL", help="name of the model")
    parser.add_argument(
        "stage", nargs="?", metavar="STAGE", help="whose gate; what is given is all of it"
    )
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="CONDITION",
        help="of its metrics and params: 'val/acc >= 0.9'; may be repeated, all must hold",
    )
    parser.add_argument(
        "--approver", action=Names, default=[], metavar="A,B", help="who may approve it"
    )
    parser.add_argument(
        "--approvals", type=int, metavar="N", help="how many of them must; default: 1"
    )
    parser.add_argument("--clear", action="store_true", help="remove the gate")


# ---------------------------------------------------------------------- gates


def approve(args: argparse.Namespace) -> int:
    """Approve a version."""
    registry = registry_of(args)
    version = registry.get(args.reference)

    def give() -> None:
        registry.approve(version.name, version.version, args.stage, reason=args.reason)

    already = f"{version.key} has this approval already"
    return tell(args, registry, Change(version.name, give, already))


def policy(args: argparse.Namespace) -> int:
    """Show the gates of a model, or set one."""
    from experiment_tracking.models.stages import to_stage

    registry = registry_of(args)
    _set_gate(args, registry)
    gates = registry.policy(args.name)
    if args.stage is not None:
        stage = to_stage(args.stage)
        gates = {stage: gates[stage]} if stage in gates else {}
    if args.json:
        json_out(gates)
    elif gates:
        _print_gates(gates)
    else:
        say(f"{args.name} has no gate {'there' if args.stage else 'yet'}: any version may come.")
    return DONE


def _set_gate(args: argparse.Namespace, registry: "ModelRegistry") -> None:
    asked = bool(args.require or args.approver)
    if args.approvals is not None and not args.approver:
        raise InvalidValueError("--approvals is how many of those named by --approver; name them.")
    if args.clear and asked:
        raise InvalidValueError("--clear removes the gate; leave out what it is to ask for.")
    if (asked or args.clear) and args.stage is None:
        raise InvalidValueError(
            f"Name the stage whose gate it is: experiments models policy {args.name} production …"
        )
    if asked or args.clear:
        approvals = 1 if args.approvals is None else args.approvals
        registry.set_policy(args.name, args.stage, args.require, args.approver, approvals)


def _print_gates(gates: Mapping[str, Mapping[str, Any]]) -> None:
    asked = list(gates.values())
    Screen().table(
        [
            column_of("stage", list(gates), text.clean),
            column_of("requires", [_listed(gate, "require", " and ") for gate in asked], str),
            column_of("approvers", [_listed(gate, "approvers", ", ") for gate in asked], str),
            column_of("approvals", [_approvals(gate) for gate in asked], text.number),
        ]
    )


def _listed(gate: Mapping[str, Any], key: str, between: str) -> str:
    return between.join(map(text.clean, gate.get(key) or ())) or text.NOTHING


def _approvals(gate: Mapping[str, Any]) -> int | None:
    return gate.get("approvals", 1) if gate.get("approvers") else None


# ---------------------------------------------------------------------- verify


def verify(args: argparse.Namespace) -> int:
    """Read the files of versions; one that is damaged does not hide the others."""
    registry = registry_of(args)
    versions = _named(registry, args.references) if args.references else _all(registry)
    found = [(version, _problem(version)) for version in versions]
    if args.json:
        json_out([{"version": version.key, "error": error} for version, error in found])
    for version, error in found:
        if error:
            say(f"{version.key}: {error}")
        elif not args.json:
            print(text.clean(f"{version.key}: whole"))
    if not found and not registry.problems:
        say(why_empty(registry))
    code = say_problems(registry)
    return FAILED if any(error for _, error in found) else code


def _all(registry: "ModelRegistry") -> "list[ModelVersion]":
    return [version for model in registry.list() for version in model.versions]


def _named(registry: "ModelRegistry", references: list[str]) -> "list[ModelVersion]":
    versions = []
    for reference in references:
        name, number = find_target(registry, reference)
        versions += registry.versions(name) if number is None else [registry.get(reference)]
    return versions


def _problem(version: "ModelVersion") -> str | None:
    try:
        version.verify()
    except (DamagedError, OSError) as error:
        return str(error)
    return None
