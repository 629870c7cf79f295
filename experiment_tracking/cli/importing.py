"""``experiments import``: runs that other trackers kept."""

import argparse
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli.command import (
    DONE,
    FAILED,
    Names,
    add_project,
    new_command,
    root_of,
)
from experiment_tracking.cli.screen import Cell, Screen, json_out, say
from experiment_tracking.cli.text import clean

if TYPE_CHECKING:
    from experiment_tracking.importers.detect import Place
    from experiment_tracking.importers.found import FoundRow, FoundRun, Options, Unreadable
    from experiment_tracking.importers.imported import Imported, Importer

KINDS = ("mlflow", "wandb", "ray", "lightning", "tensorboard", "csv")
"""What there are importers for; written out here so that help needs none of them."""

_EXAMPLES = """
experiments import ./mlruns
experiments import sqlite:///mlflow.db --dry-run
experiments import ./wandb --project digits
experiments import curves.csv --step epoch --run-column seed
experiments import table.csv --run-column Name --params lr,optimizer
"""
_PROGRESS_EVERY_S = 5.0
_SHOWN_LOSSES = 20


def add(commands: Any) -> None:
    """Add the command."""
    parser = new_command(
        commands,
        "import",
        import_runs,
        "make run folders of what other trackers kept",
        _EXAMPLES,
        one_root=True,
    )
    parser.description = fill(
        "Make run folders of what other trackers kept: an MLflow store (mlruns/ or sqlite), "
        "offline W&B folders, TensorBoard event files, Lightning's version_N, Ray Tune results, "
        "a CSV. The source stays as it is, and what was imported before is left alone.",
        80,
    )
    parser.add_argument("source", metavar="SOURCE", help="a file or folder; what is below counts")
    add_project(parser, "in place of those of the source", positional=False)
    parser.add_argument("--name", metavar="N", help="in place of the runs' names: N, N-2, …")
    parser.add_argument("--kind", choices=KINDS, help="take nothing else; default: all there is")
    parser.add_argument("--dry-run", action="store_true", help="read all of it, write nothing")
    parser.add_argument("--again", action="store_true", help="copy runs that are there once more")
    parser.add_argument("--deleted", action="store_true", help="also runs deleted in MLflow")
    parser.add_argument("--step", metavar="COLUMN", help="CSV: where the steps are")
    parser.add_argument("--time", metavar="COLUMN", help="CSV: where the times are")
    parser.add_argument("--run-column", metavar="COLUMN", help="CSV: a run for each value in it")
    parser.add_argument(
        "--params", action=Names, metavar="COLUMNS", help="CSV: where params are, as in lr,seed"
    )
    parser.add_argument(
        "--no-tensorboard", action="store_true", help="write no event files for TensorBoard"
    )


def import_runs(args: argparse.Namespace) -> int:
    """Import what there is; fail if a run could not be."""
    from experiment_tracking.importers import detect
    from experiment_tracking.importers.found import Options
    from experiment_tracking.importers.imported import Importer

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
    params = tuple(filter(None, args.params or ()))
    options = Options(args.step, args.time, args.run_column, params, args.deleted)
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
    from experiment_tracking.importers.found import Unreadable, reason_of

    try:
        yield from IMPORTERS[place.kind].runs(place.path, options)
    except Exception as error:
        if alone and isinstance(error, InvalidValueError):
            raise  # what was asked for cannot be
        yield Unreadable(place.path, reason_of(error))


def _counted(counts: "Counter[str]") -> str:
    return ", ".join(f"{number} of {kind}" for kind, number in counts.items())


class _Report:
    """What has become of the runs, told while it happens and summed up at the end."""

    def __init__(self, screen: Screen, *, quiet: bool) -> None:
        self.entries: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self._screen = screen
        self._quiet = quiet
        self._losses = Losses()

    def take(self, importer: "Importer", found: "FoundRun | Unreadable") -> None:
        """Import one run and say how that went."""
        from experiment_tracking.importers.found import Unreadable, reason_of

        if isinstance(found, Unreadable):
            self._fail(found.place, found.reason)
            return
        found.rows = _told(found.rows, f"{found.project}/{found.name}")
        try:
            imported = importer.take(found)
        except Exception as error:  # whatever a source makes of a reader ends its own run alone
            inside = "" if found.name in found.source else f": run {found.name!r}"
            self._fail(f"{found.source}{inside}", reason_of(error))
            return
        self._add(imported, found.source)

    def _fail(self, place: str, reason: str) -> None:
        self.counts["failed"] += 1
        # Most reasons name the place, or the very file below it.
        say(reason if place in reason else f"{place}: {reason}")
        self.entries.append({"run": None, "outcome": "failed", "source": place, "reason": reason})

    def _add(self, imported: "Imported", source: str) -> None:
        self.counts[imported.outcome] += 1
        self._losses.add(imported.not_carried)
        plain = imported._asdict()
        self.entries.append({"run": plain.pop("key"), **plain, "source": source})
        if self._quiet:
            return
        if imported.outcome == "known":
            shown = Cell("  imported before", "dim")
        else:
            counts = {"row": imported.rows, "metric": imported.metrics, "file": imported.files}
            shown = Cell("  " + ", ".join(_number_of(*count) for count in counts.items()))
        self._screen.line(Cell(clean(imported.key), "bold"), shown)

    def say_summary(self, root: str) -> None:
        """Say how many runs there are now, and what of them is not."""
        counts = self.counts
        if counts["found"]:
            say(f"{_number_of('run', counts['found'])} would be imported to {root}.")
        else:
            say(f"{_number_of('run', counts['imported'])} imported to {root}.")
        if counts["known"]:
            say(f"{_number_of('run', counts['known'])} imported before; --again copies them.")
        if counts["failed"]:
            say(f"{_number_of('run', counts['failed'])} could not be imported.")
        if losses := list(self._losses.lines()):
            say("\n".join(["not carried over (each run's summary.json lists its own):", *losses]))


class Losses:
    """What is not carried over, of all runs; many that differ in what they quote are one line."""

    def __init__(self) -> None:
        self._of_kind: dict[str, dict[str, _Loss]] = {}

    def add(self, not_carried: list[str]) -> None:
        """Add those of one run."""
        for text in dict.fromkeys(not_carried):  # as "models: they lie at …", one for each model
            what, _, number = text.rpartition(": ")
            if not number.isdecimal():
                what, number = text, "0"
            loss = self._of_kind.setdefault(_QUOTED.sub("…", what), {}).setdefault(
                what, _Loss(what)
            )
            loss.runs += 1
            loss.total += int(number)

    def lines(self) -> Iterator[str]:
        """Say them, those of most runs first."""
        shown = [loss for losses in self._of_kind.values() for loss in _in_few(losses)]
        shown.sort(key=lambda loss: -loss.runs)
        for loss in shown[:_SHOWN_LOSSES]:
            total = f": {loss.total:,}" if loss.total else ""
            yield f"{_number_of('run', loss.runs)}: {loss.what}{total}"
        if len(shown) > _SHOWN_LOSSES:
            yield f"and {len(shown) - _SHOWN_LOSSES} more"


_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_MOST_OF_A_KIND = 3


@dataclass
class _Loss:
    what: str
    runs: int = 0
    total: int = 0


def _in_few(losses: dict[str, _Loss]) -> list[_Loss]:
    all_of_kind = list(losses.values())
    if len(all_of_kind) <= _MOST_OF_A_KIND:
        return all_of_kind
    rest = all_of_kind[_MOST_OF_A_KIND - 1 :]
    what = f"{rest[0].what} (and {len(rest) - 1:,} others like it)"
    runs, total = max(loss.runs for loss in rest), sum(loss.total for loss in rest)
    return [*all_of_kind[: _MOST_OF_A_KIND - 1], _Loss(what, runs, total)]


def _number_of(what: str, number: int) -> str:
    return f"{number:,} {what}" + "s" * (number != 1)


def _told(rows: "Iterable[FoundRow]", name: str) -> "Iterator[FoundRow]":
    """Pass rows on, and say every few seconds how many there were."""
    told_at = time.monotonic()
    for number, row in enumerate(rows):
        yield row
        if number % 10_000 == 0 and time.monotonic() - told_at > _PROGRESS_EVERY_S:
            told_at = time.monotonic()
            say(f"{name}: {number:,} rows so far")
