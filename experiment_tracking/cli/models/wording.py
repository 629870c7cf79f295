"""What is known of a version, and what was done to a model, in words."""

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from experiment_tracking.cli import text
from experiment_tracking.cli.command import DONE, NOT_MET
from experiment_tracking.cli.screen import Cell, Screen, json_out, say
from experiment_tracking.errors import ApprovalError

if TYPE_CHECKING:
    from experiment_tracking.models.events import Event
    from experiment_tracking.models.registry import ModelRegistry
    from experiment_tracking.models.version import ModelVersion


def artifact_of(version: "ModelVersion") -> str:
    """Return the name that the version's model has in its run."""
    return str(version.lineage.get("artifact_path") or text.NOTHING)


def to_words(value: Any) -> str:
    """Write the value of a metric, or another fact."""
    return text.number(value) if isinstance(value, float) else text.param_or_nothing(value)


def in_words(event: "Event") -> str:
    """Write what was done, and why where somebody said so.

    >>> from experiment_tracking.models.events import Event
    >>> facts = {"from": "Staging", "stage": "Production", "archived": [2]}
    >>> in_words(Event(7, "", "ann", "transitioned", 3, facts | {"reason": "better"}))
    'stage Staging → Production, version 2 archived: better'
    """
    write = _WORDS.get(event.kind)
    told = write(event.known) if write else event.kind
    reason = event.known.get("reason")
    return text.clean(f"{told}: {reason}" if reason else told)


def subject(name: str, event: "Event") -> str:
    """Write which model or version an event is about."""
    return text.clean(name if event.version is None else f"{name}/{event.version}")


def _registered(known: Mapping[str, Any]) -> str:
    aliases = "".join(f", @{alias}" for alias in known.get("aliases") or ())
    model = f", {known['artifact_path']}" if known.get("artifact_path") else ""
    step = f" at step {known['step']}" if known.get("step") is not None else ""
    return f"registered from {known.get('run')}{model}{step}{aliases}"


def _transitioned(known: Mapping[str, Any]) -> str:
    archived = ", ".join(map(str, known.get("archived") or ()))
    others = f", version {archived} archived" if archived else ""
    return f"stage {known.get('from', text.NOTHING)} → {known.get('stage')}{others}"


def _rolled_back(known: Mapping[str, Any]) -> str:
    return f"rolled back to {known.get('stage')}, version {known.get('from')} archived"


def _policy_set(known: Mapping[str, Any]) -> str:
    asked = list(known.get("require") or ())
    if approvers := known.get("approvers"):
        asked.append(f"{known.get('approvals')} of {', '.join(approvers)}")
    return f"gate of {known.get('stage')}: {' and '.join(asked) or 'none'}"


_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "registered": _registered,
    "transitioned": _transitioned,
    "rolled back": _rolled_back,
    "approved": lambda known: f"approved for {known.get('stage')}",
    "alias set": lambda known: f"alias @{known.get('alias')}",
    "alias deleted": lambda known: f"alias @{known.get('alias')} removed",
    "described": lambda known: f"description: {known.get('description') or text.NOTHING}",
    "tagged": lambda known: f"tags {text.tags(known.get('tags') or {})}",
    "untagged": lambda known: f"tags {', '.join(known.get('tags') or ())} removed",
    "policy set": _policy_set,
    "deleted": lambda known: "moved to the trash",
    "restored": lambda known: "back from the trash",
    "purged": lambda known: "deleted for good",
}


class Change(NamedTuple):
    """Something to do to a model."""

    model: str
    """Its name."""
    do: Callable[[], object]
    already: str
    """What to say where nothing came of it: how things are already."""


def tell(args: argparse.Namespace, registry: "ModelRegistry", *changes: Change) -> int:
    """Do something to models and print what that was, by the audit trails; return the exit code."""
    from experiment_tracking.folder.amendments import user_name

    done: list[tuple[str, Event]] = []
    try:
        for name, do, already in changes:
            known = len(registry.history(name))
            do()
            # Somebody else may be at work on it at the same time.
            events = [e for e in registry.history(name)[known:] if e.by == user_name()]
            done += [(name, event) for event in events]
            if not events:
                say(f"{already}; nothing was changed.")
    except ApprovalError as error:
        say(str(error))
        return NOT_MET
    finally:  # what was done before something failed was done
        _print(args, done)
    return DONE


def _print(args: argparse.Namespace, done: "list[tuple[str, Event]]") -> None:
    if args.json:
        json_out([{"model": name, **event.to_dict()} for name, event in done])
        return
    screen = Screen()
    for name, event in done:
        screen.line(Cell(subject(name, event), "bold"), Cell(f": {in_words(event)}"))
