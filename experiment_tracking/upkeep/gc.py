"""Which runs are not worth their space; those go to the trash, nothing is deleted."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar

from experiment_tracking.errors import DamagedError, ExperimentTrackingError, InvalidValueError
from experiment_tracking.folder.liveness import FINAL, STATUSES, read_heartbeat
from experiment_tracking.registry.columns import find_metric
from experiment_tracking.registry.progress import Progress
from experiment_tracking.registry.record import RunRecord
from experiment_tracking.registry.summary import Unreadable
from experiment_tracking.upkeep.trash import Trashed, remove

T = TypeVar("T")

ENDED_BADLY = ("failed", "killed", "crashed")

_SIDES = {"minimize": "min", "maximize": "max"}


class Verdict(NamedTuple):
    """What is to become of one run."""

    run: RunRecord
    goes: bool
    reason: str
    """Why it goes, or what keeps it."""


class Plan:
    """What :func:`gc` would do.

    Attributes
    ----------
    verdicts
        One per run, in their order.
    problems
        Runs that were not moved, by :meth:`apply`, or could not be judged, and so stay.
    """

    def __init__(self, verdicts: Sequence[Verdict], problems: list[Unreadable]) -> None:
        self.verdicts = list(verdicts)
        self.problems = problems

    def __repr__(self) -> str:
        return f"<Plan: {len(self.going)} of {len(self.verdicts)} runs go to the trash>"

    @property
    def going(self) -> list[RunRecord]:
        """The runs that go."""
        return [verdict.run for verdict in self.verdicts if verdict.goes]

    def apply(self) -> list[Trashed]:
        """Move those runs to the trash; one that is written again by now stays."""
        moved: list[Trashed] = []
        with Progress("moving to the trash") as progress:
            for done, run in enumerate(self.going, 1):
                try:
                    moved.append(remove(run))
                except (OSError, ExperimentTrackingError) as error:
                    self.problems.append(Unreadable(run.folder.path, str(error)))
                progress(done, len(self.going))
        return moved


class _Best(NamedTuple):
    metric: str
    top: int
    mode: str | None


def gc(
    runs: Iterable[RunRecord],
    older_than_days: float | None = None,
    keep_best: str | tuple[str, int] | None = None,
    keep_tags: Iterable[str] | str = (),
    statuses: Iterable[str] = ENDED_BADLY,
) -> Plan:
    """Find runs that may go; a run goes if every condition lets it.

    Parameters
    ----------
    runs
        Those to judge, a RunSet for one. Running ones never go.
    older_than_days
        Runs that ended (a crashed one: last gave a sign of life) longer ago than that.
    keep_best
        A metric, whose best run of each project stays; ``("val/loss", 5)`` or ``"val/loss:5"``:
        the best five; ``"reward:max"``, ``"reward:max:5"`` for one without a goal. Each run
        counts with its own best value, whatever its status.
    keep_tags
        Runs with one of these tags stay; a word, or ``key=value``.
    statuses
        Only runs of these statuses go; by default what did not end well.

    Returns
    -------
    Plan
        Nothing has been moved until its ``apply()``.

    Raises
    ------
    InvalidValueError
        For an unknown status, ``"running"`` among them, or a metric without a goal.
    MetricNotFoundError
        If no run has the metric that the best are kept by.
    """
    wanted = _checked(statuses)
    problems: list[Unreadable] = []
    records = list(runs)
    best = _places(records, _to_best(keep_best), problems) if keep_best else {}
    tags = {keep_tags} if isinstance(keep_tags, str) else set(keep_tags)

    def judged(run: RunRecord) -> Verdict:
        kept = _by_status(run, wanted) or _by_age(run, older_than_days) or _by_tags(run, tags)
        kept = kept or best.get(run.folder.path)
        return Verdict(run, not kept, kept or _why_it_goes(run))

    return Plan([_read(run, judged, problems) or _unread(run) for run in records], problems)


def _read(run: RunRecord, read: Callable[[RunRecord], T], problems: list[Unreadable]) -> T | None:
    try:
        return read(run)
    except (DamagedError, OSError) as error:
        problems.append(Unreadable(run.folder.path, str(error)))
        return None


def _unread(run: RunRecord) -> Verdict:
    return Verdict(run, False, "cannot be read")


def _checked(statuses: Iterable[str]) -> set[str]:
    wanted = {statuses} if isinstance(statuses, str) else set(statuses)
    allowed = [status for status in STATUSES if status != "running"]
    if unknown := wanted.difference(allowed):
        raise InvalidValueError(
            f"Runs of status {', '.join(sorted(unknown))} are not collected. Allowed: "
            f"{', '.join(allowed)}."
        )
    return wanted


# ---------------------------------------------------------------------- what keeps a run


def _by_status(run: RunRecord, wanted: set[str]) -> str | None:
    return None if run.status in wanted else run.status


def _by_age(run: RunRecord, older_than_days: float | None) -> str | None:
    if older_than_days is None:
        return None
    ended = _ended(run)
    if ended is None:
        return "nobody knows when it ended"
    days = (datetime.now(UTC) - ended) / timedelta(days=1)
    return None if days > older_than_days else f"ended {days:.1f} days ago"


def _by_tags(run: RunRecord, tags: Iterable[str]) -> str | None:
    borne = {*run.tags, *(f"{key}={value}" for key, value in run.tags.items())}
    found = sorted(borne.intersection(tags))
    return f"tag {found[0]}" if found else None


def _why_it_goes(run: RunRecord) -> str:
    ended = _ended(run)
    return f"{run.status}, {ended:%Y-%m-%d}" if ended else run.status


def _ended(run: RunRecord) -> datetime | None:
    try:
        if run.status not in FINAL and (seen := read_heartbeat(run.folder.heartbeat)):
            return datetime.fromtimestamp(seen[1], UTC)
        moment = datetime.fromisoformat(run.ended_at or run.created_at or "")
    except (ValueError, TypeError, OverflowError, OSError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# ---------------------------------------------------------------------- the best


def _to_best(words: str | tuple[str, int]) -> _Best:
    """Read ``metric``, ``metric:5``, ``metric:max`` or ``metric:max:5``."""
    metric, top = words if isinstance(words, tuple) else (words, 1)
    name, colon, number = metric.rpartition(":")
    if colon and number.isascii() and number.isdigit():
        metric, top = name, int(number)
    name, colon, word = metric.rpartition(":")
    mode = word if colon and word in ("min", "max") else None
    if top < 1:
        raise InvalidValueError(f"keep_best must keep 1 or more runs, found {top}.")
    return _Best(name if mode else metric, top, mode)


def _places(runs: Sequence[RunRecord], best: _Best, problems: list[Unreadable]) -> dict[str, str]:
    """Say of the runs that stay for their metric, or as nobody can tell, why they do."""
    metrics = {run.folder.path: _read(run, lambda run: run.metrics, problems) for run in runs}
    kept = {path: "its metrics cannot be read" for path, each in metrics.items() if each is None}
    names = dict.fromkeys(name for each in metrics.values() for name in each or ())
    metric = find_metric(best.metric, names)
    projects: dict[str, list[RunRecord]] = {}
    for run in runs:
        if metric in (metrics[run.folder.path] or ()):
            projects.setdefault(run.folder.project, []).append(run)
    for having in projects.values():
        kept |= _best_of(having, best._replace(metric=metric))
    return kept


def _best_of(runs: Sequence[RunRecord], best: _Best) -> dict[str, str]:
    side = best.mode or _side(runs, best.metric)
    values = [(run.number(best.metric, side), run) for run in runs]
    ranked = sorted(
        ((value, run) for value, run in values if value is not None and value == value),
        key=lambda pair: pair[0],
        reverse=side == "max",
    )
    return {
        run.folder.path: f"number {place} of {len(ranked)} by {best.metric} ({value:.5g})"
        for place, (value, run) in enumerate(ranked[: best.top], 1)
    }


def _side(runs: Sequence[RunRecord], metric: str) -> str:
    goals = {goal for run in runs if (goal := run.goal(metric))}
    if len(goals) != 1:
        raise InvalidValueError(
            f"Metric {metric!r} of project {runs[0].project!r} has "
            f"{'several goals' if goals else 'no goal'}, so no run is its best. Write "
            f"'{metric}:min' or '{metric}:max'."
        )
    return _SIDES[goals.pop()]
