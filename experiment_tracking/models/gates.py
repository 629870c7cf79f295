"""What a version needs before it comes to a stage: conditions on its metrics, and approvals.

``policy.json`` of a model says it, written by hand or by ``set_policy``::

    {"Production": {"require": ["val/accuracy >= 0.9"], "approvers": ["alice"], "approvals": 1}}
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiment_tracking.errors import (
    ApprovalError,
    DamagedError,
    InvalidTypeError,
    InvalidValueError,
    MetricNotFoundError,
)
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import encode, read_document
from experiment_tracking.folder.values import from_stored
from experiment_tracking.models.events import Event
from experiment_tracking.models.references import to_do
from experiment_tracking.models.stages import to_guarded
from experiment_tracking.models.version import ModelVersion
from experiment_tracking.registry.columns import near, values
from experiment_tracking.registry.filters.filter import parse
from experiment_tracking.registry.index.segments import NUMBERS, RUN_COLUMNS, Builder
from experiment_tracking.registry.record import flat
from experiment_tracking.registry.table import RunTable

SET = "policy set"
"""Kind of the event that says of a gate that it was set."""

_PATIENCE_S = 2.0
_PAUSE_S = 0.01


class Gate(NamedTuple):
    """What a version needs to come to one stage."""

    require: tuple[str, ...] = ()
    """Conditions in the language of docs/FILTERS.md."""
    approvers: tuple[str, ...] = ()
    """Whose approvals count."""
    approvals: int = 0
    """How many of them have to approve."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as it stands in ``policy.json``."""
        said: dict[str, Any] = {"require": list(self.require)} if self.require else {}
        if self.approvers:
            said |= {"approvers": list(self.approvers), "approvals": self.approvals}
        return said


def read_policy(path: str) -> dict[str, Gate]:
    """Read the gates of a model by stage; none where there is no such file.

    Raises
    ------
    DamagedError
        If something in it is no gate: a mistake must not leave a stage open.
    OSError
        If it cannot be read now.
    """
    try:
        said = read_document(path)
    except FileNotFoundError:
        return {}
    gates: dict[str, Gate] = {}
    for word, gate in said.items():
        try:
            stage = to_guarded(word)
            if stage in gates:
                raise InvalidValueError(f"{stage} has two gates.")
            gates[stage] = _to_gate(gate)
        except (InvalidValueError, InvalidTypeError) as error:
            raise DamagedError(
                f"{path}, {word!r:.40}, is no gate. Correct it, or delete the file for no gates. "
                f"{error}"
            ) from error
    return gates


def set_gate(path: str, stage: str, gate: Gate) -> None:
    """Put the gate of a stage into the policy; an empty one takes it away."""
    gates = {**read_policy(path), stage: gate}
    said = {each: known for each in gates if (known := gates[each].to_dict())}
    io.replace_file(path, encode(said), durable=True)


def wait_for_last(path: str, events: Callable[[], Sequence[Event]]) -> None:
    """Wait until the gate that was set last is in the policy, 2 s at most.

    Its event comes before the file. Who reads the file in between would write it back without
    that gate. It may also have been edited by hand since, or whoever set it was killed.
    """
    until = time.monotonic() + _PATIENCE_S
    while not _has_last(path, events()) and time.monotonic() < until:
        time.sleep(_PAUSE_S)


def _has_last(path: str, events: Sequence[Event]) -> bool:
    known = next((event.known for event in reversed(events) if event.kind == SET), None)
    if known is None:
        return True
    gate = read_policy(path).get(str(known.get("stage")), Gate())
    return gate.to_dict() == {key: known[key] for key in Gate._fields if key in known}


def _to_gate(said: Any) -> Gate:
    if not isinstance(said, dict):
        raise InvalidTypeError(f"A gate is an object, found {said!r:.60}.")
    for key in said.keys() - set(Gate._fields):
        raise InvalidValueError(f"{key!r:.40} is no part of a gate. {near(key, Gate._fields)}")
    for key in ("require", "approvers"):
        if not isinstance(said.get(key, []), list):
            raise InvalidTypeError(f"{key} is a list of texts, found {said[key]!r:.60}.")
    return make_gate(said.get("require", ()), said.get("approvers", ()), said.get("approvals"))


def make_gate(require: Any = (), approvers: Any = (), approvals: Any = None) -> Gate:
    """Return a gate, checked.

    Parameters
    ----------
    require
        A condition, or several; each has to hold.
    approvers
        A name, or several.
    approvals
        How many of them have to approve, by default one where there are any.

    Raises
    ------
    InvalidValueError, InvalidTypeError
        If a condition is none, or more approvals are asked for than there are approvers.
    """
    conditions = _texts(require, "require")
    for condition in conditions:
        parse(condition)
    names = _texts(approvers, "approvers")
    for name in names:
        _check_one(name)
    count = approvals if approvals is not None else min(1, len(names))
    if type(count) is not int or not min(1, len(names)) <= count <= len(names):
        raise InvalidValueError(f"approvals is {count!r:.40}. {_allowed(names)}")
    return Gate(conditions, names, count)


def _check_one(name: str) -> None:
    # Whom nobody is called like, nobody could approve as.
    if "," in name:
        names = [part.strip() for part in name.split(",") if part.strip()]
        raise InvalidValueError(
            f"{name!r:.80} is no approver's name, for it holds a comma. Pass a list: "
            f"{names!r:.120}."
        )


def _allowed(names: Sequence[str]) -> str:
    if not names:
        return "No approver is named. Name those who may approve."
    if len(names) == 1:
        return f"{names[0]} is the only approver. Ask for 1, or name more approvers."
    return f"There are {len(names)} approvers: {', '.join(names)}. Ask for 1 to {len(names)}."


def _texts(given: str | Iterable[str], what: str) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise InvalidTypeError(f"{what} is one text or several, found {given!r:.60}.")
    return tuple(dict.fromkeys(texts))


def check_known(gate: Gate, name: str, versions: Sequence[ModelVersion]) -> None:
    """Refuse conditions on what no version has, most likely a mistyped name.

    Raises
    ------
    InvalidValueError
        With near names.
    """
    tables = list(_tables(versions)) if gate.require else []
    for condition in gate.require if tables else ():
        for column in parse(condition).names:
            if any(_has(table, column) for table in tables):
                continue
            try:
                values(sum(tables[1:], tables[0]), column)
            except (InvalidValueError, MetricNotFoundError) as error:
                raise InvalidValueError(
                    f"No version of {name} could meet {condition}: {error}"
                ) from error


def _tables(versions: Iterable[ModelVersion]) -> Iterator[RunTable]:
    for version in versions:
        # One that is damaged may come to no stage; `verify` tells of it.
        with contextlib.suppress(DamagedError, OSError):
            yield as_table(version)


def _has(table: RunTable, column: str) -> bool:
    try:
        return values(table, column)[0] is not None
    except (InvalidValueError, MetricNotFoundError):  # told if no other has it either
        return False


# ---------------------------------------------------------------------- passing


def check_approver(gate: Gate | None, name: str, stage: str, by: str) -> None:
    """Refuse an approval that would not count.

    Raises
    ------
    InvalidValueError
        With whose do, or that none does.
    """
    gate = gate or Gate()
    if not gate.approvers:
        how = _how_to_set(gate._replace(approvers=(by,), approvals=1), name, stage)
        raise InvalidValueError(
            f"{name} asks for no approval for {stage}, so none counts. To ask for one: {how}."
        )
    if by not in gate.approvers:
        how = to_do(["policy", name, stage], f"policy({name!r})")
        raise InvalidValueError(
            f"{by!r:.60} is no approver of {name} for {stage}: {', '.join(gate.approvers)} "
            f"{'is' if len(gate.approvers) == 1 else 'are'}. Ask one of them to approve it, or "
            f"change the policy: {how}."
        )


def _how_to_set(gate: Gate, name: str, stage: str) -> str:
    # All of it: what is not given would be taken away.
    words = ["policy", name, stage, "--approver", ",".join(gate.approvers)]
    for condition in gate.require:
        words += ["--require", condition]
    said = ", ".join(f"{key}={value!r}" for key, value in gate.to_dict().items())
    return to_do(words, f"set_policy({name!r}, {stage!r}, {said})")


def check_passes(gate: Gate, version: ModelVersion, stage: str) -> dict[str, Any]:
    """Return what the version has passed by, for the audit trail.

    Raises
    ------
    ApprovalError
        With every condition that does not hold, what was found, and what to do.
    DamagedError
        If the version's own documents are not as they were registered.
    """
    approved = [by for by in version.approvals.get(stage, []) if by in gate.approvers]
    reasons = list(_unmet(gate.require, version)) if gate.require else []
    if len(approved) < gate.approvals:
        how = to_do(
            ["approve", version.key, stage],
            f"approve({version.name!r}, {version.version}, {stage!r})",
        )
        reasons.append(
            f"it needs {gate.approvals} approval{'s' * (gate.approvals > 1)} by "
            f"{' or '.join(gate.approvers)}, and has {', '.join(approved) or 'none'} ({how})"
        )
    if reasons:
        raise ApprovalError(f"{version.key} may not go to {stage}: {'; '.join(reasons)}.")
    met = {"met": list(gate.require)} if gate.require else {}
    return met | ({"approved_by": approved} if approved else {})


def _unmet(conditions: Iterable[str], version: ModelVersion) -> Iterable[str]:
    table = as_table(version)
    for condition in conditions:
        filter_ = parse(condition)
        try:
            columns = {name: values(table, name) for name in filter_.names}
            found = {name: column[0] for name, column in columns.items()}
            holds = filter_.keep(columns.__getitem__, 1)[0]
            if not holds or _is_undecided(condition, found.values()):
                yield f"it needs {condition}, found {_in_words(found)}"
        except (InvalidValueError, MetricNotFoundError) as error:
            yield f"it needs {condition}, and that cannot be told of it: {error}".rstrip(".")


def _is_undecided(condition: str, found: Collection[Any]) -> bool:
    """Tell whether a value is missing or NaN that the condition does not itself ask for.

    ``not val/loss > 0.3`` holds for a loss that is NaN, but says nothing good of the model.
    """
    is_nan = any(isinstance(value, float) and math.isnan(value) for value in found)
    words = condition.lower()
    return (None in found and "null" not in words) or (is_nan and "nan" not in words)


def _in_words(found: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} nothing" if value is None else f"{name} {value!r:.60}"
        for name, value in found.items()
    )


def as_table(version: ModelVersion) -> RunTable:
    """Return a version as filters see it: a table of one run, as it was registered.

    A metric's bare name is its value when the model was saved; ``val/loss:min``, ``best_…`` and
    the like are the run's.
    """
    known = version.lineage
    run, last = known["run"], known["metrics"]
    summaries = {**{name: {} for name in last}, **known["run_metrics"]}
    metrics = {
        name: _numbers({**kept, **({"last": last[name]} if name in last else {})})
        for name, kept in summaries.items()
    }
    builder = Builder()
    facts = (run["key"], 0, 0, *(run.get(name) for name in RUN_COLUMNS))
    builder.add(facts, flat(known["params"]), metrics, run["tags"])
    path = os.path.join(os.sep, run["project"], run["name"])
    return RunTable([path], [builder.segment()], [0], [])


def _numbers(kept: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: from_stored(kept.get(name)) for name in NUMBERS}
    numbers: dict[str, Any] = {n: float(v) for n, v in found.items() if v is not None}
    return numbers | ({"goal": kept["goal"]} if kept.get("goal") else {})
