"""Correct a run that has ended: tags, notes, params, a late metric. The old value is kept."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from experiment_tracking.capture.redaction import redact_params
from experiment_tracking.errors import (
    InvalidNameError,
    InvalidTypeError,
    RunBusyError,
    WriteError,
)
from experiment_tracking.folder import amendments, values
from experiment_tracking.folder.amendments import Amendment
from experiment_tracking.registry.record import RunRecord


class Edit:
    """Correct a run whose own process is gone; made by ``ExperimentRegistry.edit``.

    Every change becomes one small file in ``amendments/`` with who, when, the old value and the
    new; no file of the run is changed, so any number of people may do so at once. It is on the
    disk when a method returns (about 10 ms). Readers fold the changes in: the last one counts.
    A value that is there already is not kept again.

    Parameters
    ----------
    run
        The run as read. It is read again for every change, and shows it afterwards.
    force
        Also where the run reads ``running``.

    Raises
    ------
    RunBusyError
        If the run reads ``running``, now or when something is changed.

    Examples
    --------
    >>> edit = registry.edit("digits/baseline")  # doctest: +SKIP
    >>> edit.set_tags({"paper": "table 2"})  # doctest: +SKIP
    >>> edit.log_metric("test/acc", 0.93)  # doctest: +SKIP
    >>> [(a["by"], a["name"], a["new"]) for a in edit.history]  # doctest: +SKIP
    [('ann', 'paper', 'table 2'), ('ann', 'test/acc', 0.93)]
    """

    def __init__(self, run: RunRecord, force: bool = False) -> None:
        self.run = run
        self._force = force
        self._check_free(run)

    def __repr__(self) -> str:
        return f"<Edit of {self.run.key}>"

    @property
    def history(self) -> list[Amendment]:
        """Every correction so far, oldest first; see :attr:`RunRecord.amendments`.

        Also those that the run itself made (``by`` is ``"run"``), of params it logged again.
        """
        return self.run.refresh().amendments

    def set_tags(self, tags: Mapping[str, Any] | Iterable[str] | str) -> list[Amendment]:
        """Set tags: a mapping of text to text, or words. Other tags stay.

        Returns
        -------
        list of dict
            What was kept, one for each tag that was not so before.
        """
        given = redact_params(values.to_tags(tags))
        wanted = {_text(name, "tag"): text for name, text in given.items()}
        return self._keep("tag", lambda run: [_change(run.tags, name, wanted) for name in wanted])

    def remove_tags(self, *names: str) -> list[Amendment]:
        """Remove tags; those that are not there are passed over."""
        return self._keep("tag", lambda run: [_change(run.tags, name, {}) for name in names])

    def set_notes(self, text: str) -> list[Amendment]:
        """Replace the notes."""
        wanted = {"notes": _text(text, "notes")}
        return self._keep("notes", lambda run: [_change({"notes": run.notes}, "notes", wanted)])

    def set_param(self, name: str, value: Any) -> list[Amendment]:
        """Correct a param, or add one that was not logged.

        Parameters
        ----------
        name
            Its name; of one in a nested param with dots, ``"model.depth"``.
        value
            As :meth:`Run.log_params` takes it; credentials are kept as ``***``.

        Raises
        ------
        InvalidNameError, InvalidValueError
            As :meth:`Run.log_params` does.
        """
        if not isinstance(name, str) or not name.strip():
            raise InvalidNameError(
                f"A param's name must be text, found {name!r:.60}. Write for example 'lr'."
            )
        wanted = redact_params(values.to_plain({name: value}))

        def change(run: RunRecord) -> list[Amendment]:
            params, key = amendments.place_of(run.params, name)
            was = {name: params[key]} if key in params else {}
            return [_change(was, name, wanted)]

        return self._keep("param", change)

    def remove_params(self, *names: str) -> list[Amendment]:
        """Remove params, nested ones by names with dots; those not there are passed over."""

        def change(run: RunRecord) -> list[Amendment]:
            places = {name: amendments.place_of(run.params, name) for name in names}
            there = {name: params[key] for name, (params, key) in places.items() if key in params}
            return [_change(there, name, {}) for name in names]

        return self._keep("param", change)

    def log_metric(self, name: str, value: Any, step: int | None = None) -> list[Amendment]:
        """Log one number late, as a row behind all others.

        Parameters
        ----------
        name, value
            As :meth:`Run.log_metric` takes them.
        step
            Where the metric has a value at that very step, this one takes its place. By default
            the last step + 1, for which the history is read.
        """
        row, _ = values.to_row({name: value})
        wanted_step = None if step is None else values.to_step(step)
        ((stored, _),) = row.items()

        def change(run: RunRecord) -> list[Amendment]:
            at = _next_step(run) if wanted_step is None else wanted_step
            changed = _change(_value_at(run, stored, at), stored, row)
            return [changed and {**changed, "step": at, "time": time.time()}]

        return self._keep("metric", change)

    def rename(self, new_name: str) -> list[Amendment]:
        """Give the run another name; its folder is renamed, everything else finds it by its id.

        Raises
        ------
        InvalidNameError
            If the name may not be one, or is taken.
        """
        from experiment_tracking.registry.moves import rename

        old = self.run.name
        self.run = RunRecord(rename(self.run, new_name, self._force))
        return self._keep("name", lambda run: [{"name": "name", "old": old, "new": run.name}])

    def _keep(self, kind: str, find: Callable[[RunRecord], list[Amendment]]) -> list[Amendment]:
        """Keep what is to change of the run as it is now; nothing where nothing does."""
        run = self.run.refresh()
        self._check_free(run)
        who = {"by": amendments.user_name(), "kind": kind}
        changes = [who | change for change in find(run) if change]
        if not changes:
            return []
        try:
            kept = amendments.add(run.folder, *changes, durable=True)
            # Last: a cache that looks between the two would not look again.
            amendments.tell_caches(run.folder)
        except OSError as error:
            raise WriteError(
                f"Run {run.key}: the change cannot be kept in {run.folder.amendments} "
                f"({error.strerror or error}). Ask for the right to write there, or edit a copy "
                "of the run."
            ) from error
        run.refresh()
        return kept

    def _check_free(self, run: RunRecord) -> None:
        if run.status == "running" and not self._force:
            raise RunBusyError(
                f"Run {run.key} is running{f' ({run.status_note})' if run.status_note else ''}, "
                "and its own process writes it. Use set_tags, log_params and log_metrics there, "
                "wait for its end, or edit it all the same with force=True (--force)."
            )


def _change(was: Mapping[str, Any], name: str, wanted: Mapping[str, Any]) -> Amendment:
    """Return old and new value of one name, each where there is one; nothing where they agree."""
    known, given = name in was, name in wanted
    if known == given and (not known or _same(was[name], wanted[name])):
        return {}
    old, new = {"old": was[name]} if known else {}, {"new": wanted[name]} if given else {}
    return {"name": name, **old, **new}


def _same(one: Any, other: Any) -> bool:
    """Tell whether two plain values are the same; True is not 1, nor is 1.0."""
    return bool(one == other and type(one) is type(other))


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidTypeError(f"{what} must be text, found {value!r:.60}. Write {str(value)!r}.")
    return str(redact_params({what: values.to_plain(value, what)})[what])


def _next_step(run: RunRecord) -> int:
    """Return the step behind the last of the whole run, late rows included."""
    rows = run.rows("all")
    return rows[-1]["step"] + 1 if rows else 0


def _value_at(run: RunRecord, name: str, step: int) -> dict[str, Any]:
    """Return the last value of a metric at one step under its name, as stored."""
    found = [row[name] for row in run.rows() if row["step"] == step and name in row]
    return {name: found[-1]} if found else {}
