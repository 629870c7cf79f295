"""``experiments import``: runs that other trackers kept."""

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from textwrap import fill
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli.command import DONE, FAILED, new_command, root_of
from experiment_tracking.cli.screen import Cell, Screen, json_out, say
from experiment_tracking.cli.text import clean

if TYPE_CHECKING:
    from experiment_tracking.importers.detect import Place
    from experiment_tracking.importers.imported import (
        FoundRow,
        FoundRun,
        Imported,
        Importer,
        Options,
        Unreadable,
    )

KINDS = ("mlflow", "wandb", "ray", "lightning", "tensorboard", "csv")
"""What there are importers for; written out here so that help needs none of them."""

_EXAMPLES = """
experiments import ./mlruns
experiments import sqlite:///mlflow.db --dry-run
experiments import ./wandb --project digits
experiments import results.csv --step epoch --run-column seed
"""
_PROGRESS_EVERY_S = 5.0
_SHOWN_LOSSES = 20


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(
        commands, "import", import_runs, "make run folders of what other trackers kept", _EXAMPLES
    )
    parser.description = fill(
        "Make run folders of what other trackers kept: an MLflow store (mlruns/ or sqlite), "
        "offline W&B folders, TensorBoard event files, Lightning's version_N, Ray Tune results, "
        "a CSV. The source stays as it is, and what was imported before is left alone.",
        80,
    )
    parser.add_argument("source", metavar="SOURCE", help="a file or folder; what is below counts")
    parser.add_argument("--project", metavar="P", help="in place of those of the source")
    parser.add_argument("--name", metavar="N", help="in place of the runs' names: N, N-2, …")
    parser.add_argument("--kind", choices=KINDS, help="take nothing else; default: all there is")
    parser.add_argument("--dry-run", action="store_true", help="read all of it, write nothing")
    parser.add_argument("--again", action="store_true", help="copy runs that are there once more")
    parser.add_argument("--deleted", action="store_true", help="also runs deleted in MLflow")
    parser.add_argument("--step", metavar="COLUMN", help="CSV: where the steps are")
    parser.add_argument("--time", metavar="COLUMN", help="CSV: where the times are")
    parser.add_argument("--run-column", metavar="COLUMN", help="CSV: a run for each value in it")
    parser.add_argument(
        "--no-tensorboard", action="store_true", help="write no event files for TensorBoard"
    )


def import_runs(args: argparse.Namespace) -> int:
    """Import what there is; fail if a run could not be."""
    from experiment_tracking.importers import detect
    from experiment_tracking.importers.imported import Importer, Options

    places = detect.find_places(detect.to_path(args.source), args.kind)
    if len(places) > 1:
        say(f"found {_counted(Counter(place.kind for place in places))}.")
    importer = Importer(
        root_of(args),
        project=args.project,
        name=args.name,
        again=args.again,
        tensorboard=not args.no_tensorboard,
        write=not args.dry_run,
    )
    options = Options(args.step, args.time, args.run_column, args.deleted)
    report = _Report(Screen(), quiet=args.json)
    for place in places:
        for found in _runs(place, options, alone=len(places) == 1):
            report.take(importer, found)
    if args.json:
        json_out(report.entries)
    report.say_summary(importer.root)
    return FAILED if report.counts["failed"] else DONE


def _runs(place: "Place", options: "Options", *, alone: bool) -> "Iterator[FoundRun | Unreadable]":
    """Yield the runs of a place; where it fails as a whole, the others go on."""
    from experiment_tracking.errors import InvalidValueError
    from experiment_tracking.importers.detect import IMPORTERS
    from experiment_tracking.importers.imported import Unreadable

    try:
        yield from IMPORTERS[place.kind].runs(place.path, options)
    except (OSError, ValueError, LookupError) as error:
        if alone and isinstance(error, InvalidValueError):
            raise  # what was asked for cannot be
        yield Unreadable(place.path, str(error))


def _counted(counts: "Counter[str]") -> str:
    return ", ".join(f"{number} of {kind}" for kind, number in counts.items())


class _Report:
    """What has become of the runs, told while it happens and summed up at the end."""

    def __init__(self, screen: Screen, *, quiet: bool) -> None:
        self.entries: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self._screen = screen
        self._quiet = quiet
        self._losses: Counter[str] = Counter()

    def take(self, importer: "Importer", found: "FoundRun | Unreadable") -> None:
        """Import one run and say how that went."""
        from experiment_tracking.importers.imported import Unreadable

        if isinstance(found, Unreadable):
            self._fail(found.place, found.reason)
            return
        found.rows = _told(found.rows, f"{found.project}/{found.name}")
        try:
            imported = importer.take(found)
        except (OSError, ValueError, LookupError) as error:
            self._fail(found.source, str(error))
            return
        self._add(imported, found.source)

    def _fail(self, place: str, reason: str) -> None:
        self.counts["failed"] += 1
        say(f"{place}: {reason}")
        self.entries.append({"run": None, "outcome": "failed", "source": place, "reason": reason})

    def _add(self, imported: "Imported", source: str) -> None:
        self.counts[imported.outcome] += 1
        self._losses.update(imported.not_carried)
        plain = imported._asdict()
        self.entries.append({"run": plain.pop("key"), **plain, "source": source})
        if self._quiet:
            return
        if imported.outcome == "known":
            shown = Cell("  imported before", "dim")
        else:
            shown = Cell(f"  {imported.rows:,} rows, {imported.files:,} files")
        self._screen.line(Cell(clean(imported.key), "bold"), shown)

    def say_summary(self, root: str) -> None:
        """Say how many runs there are now, and what of them is not."""
        counts = self.counts
        if counts["found"]:
            say(f"{_runs_of(counts['found'])} would be imported to {root}.")
        else:
            say(f"{_runs_of(counts['imported'])} imported to {root}.")
        if counts["known"]:
            say(f"{_runs_of(counts['known'])} imported before; --again copies them.")
        if counts["failed"]:
            say(f"{_runs_of(counts['failed'])} could not be imported.")
        if self._losses:
            say("\n".join(self._missing()))

    def _missing(self) -> "Iterator[str]":
        yield "not carried over (each run's summary.json lists its own):"
        for loss, number in self._losses.most_common(_SHOWN_LOSSES):
            yield f"{_runs_of(number)}: {loss}"
        if len(self._losses) > _SHOWN_LOSSES:
            yield f"and {len(self._losses) - _SHOWN_LOSSES} more"


def _runs_of(number: int) -> str:
    return f"{number:,} run" + "s" * (number != 1)


def _told(rows: "Iterable[FoundRow]", name: str) -> "Iterator[FoundRow]":
    """Pass rows on, and say every few seconds how many there were."""
    told_at = time.monotonic()
    for number, row in enumerate(rows):
        yield row
        if number % 10_000 == 0 and time.monotonic() - told_at > _PROGRESS_EVERY_S:
            told_at = time.monotonic()
            say(f"{name}: {number:,} rows so far")
