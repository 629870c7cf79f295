"""``experiments plot``: pictures of runs as files."""

import argparse
import os
import warnings
from typing import TYPE_CHECKING, Any

from experiment_tracking.cli import text
from experiment_tracking.cli.command import (
    DONE,
    RUN_HELP,
    Names,
    add_filters,
    add_project,
    named_or_chosen,
    new_command,
    say_problems,
)
from experiment_tracking.cli.screen import json_out, say
from experiment_tracking.cli.text import clean
from experiment_tracking.errors import InvalidValueError

if TYPE_CHECKING:
    from experiment_tracking.registry.runset import RunSet

_EXAMPLES = """
experiments plot val/loss --project digits --by '*-seed' --smooth 0.6 -o loss.png
experiments plot train/loss,val/loss latest latest~1 --log -o two.pdf
experiments plot val/acc --kind scatter --param lr --where 'status = "finished"' -o lr.html
experiments plot val/acc --kind heatmap --param lr --param model.depth -o sweep.svg
experiments plot val/acc --kind bars --by lr -o bars.png
"""

_OPTIONS = {
    "curves": ("x", "by", "band", "smooth", "log"),
    "scatter": ("param", "on", "log"),
    "parallel": ("param", "on"),
    "bars": ("by", "on"),
    "heatmap": ("param", "on", "log"),
}
"""What may be said about each kind of picture."""

_INTERACTIVE = ("curves", "scatter", "parallel")
_FORMATS = (".png", ".svg", ".pdf", ".html")
_DPI = 150


def add(commands: Any) -> None:
    """Add the command."""
    summary = "draw curves, bars or a sweep of runs into a file"
    parser = new_command(commands, "plot", plot, summary, _EXAMPLES)
    parser.add_argument("metric", metavar="METRIC", help="its name; A,B for several curves' panels")
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"{RUN_HELP}; by default all runs")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="as .png, .svg, .pdf, or .html (curves, scatter, parallel; needs plotly)",
    )
    parser.add_argument("--kind", choices=tuple(_OPTIONS), default="curves")
    add_project(parser, positional=False)
    parser.add_argument(
        "--x", metavar="X", help="curves over step (default), time, relative, or another metric"
    )
    parser.add_argument(
        "--param",
        action=Names,
        metavar="PARAM",
        help="scatter: one; heatmap: x and y; parallel: its axes, by default those that differ",
    )
    parser.add_argument(
        "--by",
        action=Names,
        metavar="G",
        help="means: '*-seed' over runs equal but for seed; lr,depth over those equal in both",
    )
    parser.add_argument(
        "--band",
        choices=("interval", "std", "sem", "range", "none"),
        help="around the means of --by: their 95%% interval (default), the runs' standard "
        "deviation, its standard error, or lowest to highest",
    )
    parser.add_argument(
        "--smooth", type=float, metavar="W", help="weight of TensorBoard's smoothing, 0 to 1"
    )
    parser.add_argument("--log", action="store_const", const=True, help="logarithmic values")
    parser.add_argument(
        "--on",
        choices=("best", "last", "min", "max", "mean"),
        help="which value of each run; best is by the metric's goal",
    )
    add_filters(parser)


def plot(args: argparse.Namespace) -> int:
    """Draw the picture and print its path."""
    suffix = _checked(args)
    runs = named_or_chosen(args)
    figure = _figure(args, runs, "plotly" if suffix == ".html" else None)
    say_problems(runs)
    path = os.path.abspath(os.path.expanduser(args.output))
    if suffix == ".html":
        figure.write_html(path)
    else:
        _save(figure, path)
    if args.json:
        json_out({"path": path, "kind": args.kind, "metric": args.metric, "runs": runs.keys})
    else:
        print(clean(path))
    return DONE


def _checked(args: argparse.Namespace) -> str:
    """Refuse what does not go together, before anything is read; return the file's suffix."""
    suffix: str = os.path.splitext(args.output)[1].lower()
    if suffix not in _FORMATS:
        raise InvalidValueError(
            f"-o {args.output}: the file's name must end in one of {', '.join(_FORMATS)}."
        )
    if suffix == ".html" and args.kind not in _INTERACTIVE:
        raise InvalidValueError(f"{args.kind} cannot be drawn as .html. Write .svg, for example.")
    folder = os.path.dirname(os.path.abspath(os.path.expanduser(args.output)))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"-o {args.output}: there is no folder {folder}. Make it first.")
    known = {name for names in _OPTIONS.values() for name in names}
    for name in sorted(known.difference(_OPTIONS[args.kind])):
        if getattr(args, name) is not None:
            kinds = ", ".join(kind for kind, names in _OPTIONS.items() if name in names)
            raise InvalidValueError(f"--{name} means nothing for {args.kind}, only for {kinds}.")
    if args.band and not args.by:
        raise InvalidValueError("--band means nothing without --by '*-seed' or the like.")
    count = {"scatter": 1, "heatmap": 2}.get(args.kind)
    if count not in (None, len(args.param or ())):
        raise InvalidValueError(f"{args.kind} needs --param {count} times, for example --param lr.")
    return suffix


def _figure(args: argparse.Namespace, runs: "RunSet", engine: str | None) -> Any:
    from experiment_tracking.registry import plots

    given = {name: getattr(args, name) for name in ("x", "smooth", "on") if getattr(args, name)}
    if args.by:
        given["by"] = args.by if len(args.by) > 1 else args.by[0]
    if args.band:
        given["band"] = None if args.band == "none" else args.band
    if args.kind == "curves":
        metrics = text.names(args.metric)
        return plots.plot_curves(runs, metrics, logy=bool(args.log), engine=engine, **given)
    if args.kind == "scatter":
        (param,) = args.param
        options = {"logy": bool(args.log), "engine": engine, **given}
        return plots.plot_scatter(runs, param, args.metric, **options)
    if args.kind == "parallel":
        return plots.plot_parallel(runs, args.metric, args.param, engine=engine, **given)
    if args.kind == "bars":
        return plots.plot_bars(runs, args.metric, **given)
    x_param, y_param = args.param
    return plots.plot_heatmap(runs, x_param, y_param, args.metric, log=args.log, **given)


def _save(figure: Any, path: str) -> None:
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        figure.savefig(path, dpi=_DPI, bbox_inches="tight")
    for message in dict.fromkeys(str(warning.message) for warning in met):
        say(message)  # mostly a character that the font does not have
