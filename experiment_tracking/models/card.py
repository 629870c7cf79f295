"""A version's model card: what is known of it, in Markdown, every word of it escaped."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote_from_bytes

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder.values import from_stored, shown_name
from experiment_tracking.models.stages import NONE
from experiment_tracking.registry.display.figures import inside
from experiment_tracking.registry.record import RunRecord, flat
from experiment_tracking.registry.text_tables import to_markdown
from experiment_tracking.registry.wording import plural, size_text, visible

if TYPE_CHECKING:
    from experiment_tracking.models.version import ModelVersion

_MAX_ROWS = 200
_MAX_FIGURES = 24

_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")
# As in tables: an underscore inside a word means nothing.
_MARKS = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
_BLOCKS = re.compile(r"^(#{1,6}(?=\s|$)|[-+=](?=[-+=\s]|$)|\d+(?=[.)](?:\s|$)))")

_WHOLE = ("sklearn", "xgboost", "lightgbm", "keras", "onnx", "cloudpickle")
"""Frameworks whose files hold the model and not its state alone."""

_REVIEW = "It runs code of these modules: look at them first. They have to be importable."

_LIBRARIES = {"torch": "pytorch", "flax.nnx": "flax", "sklearn": "sklearn", "arrays": "numpy"}
"""What the Hugging Face hub calls a framework, where that is another word."""

_INTO = {
    "torch": ("a module", "net"),
    "flax.nnx": ("a module", "model"),
    "equinox": ("a module", "model"),
    "jax": ("the form of a tree that you have", "params"),
}
"""What the state of a framework's models can be loaded into."""


class Figure(NamedTuple):
    """A figure of the run that a version came from."""

    name: str
    step: Any
    path: str
    """Where its file is, absolute."""
    place: str
    """Where it is in the run's folder, with ``/``."""


def model_card(
    version: ModelVersion,
    beside: str | os.PathLike[str] = ".",
    *,
    figures: Sequence[Figure] | None = None,
    loading: str | None = None,
) -> str:
    """Return a version's model card in Markdown; there is nothing in it but what is known.

    Parameters
    ----------
    version
        The version.
    beside
        Folder in which the card will stand: figures are linked relative to it.
    figures
        By default those of the run that are still there, the newest of each name.
    loading
        Python that loads the model, by default from the registry.

    Raises
    ------
    DamagedError
        If the version is not as it was registered.

    Notes
    -----
    Reads ``version.json``, ``model.json`` and, for the figures, the run's ``artifacts.json``.
    """
    document = version.model.document
    shown = figures_of(version) if figures is None else figures
    parts = [
        f"# {escaped(version.name)}, version {version.version}\n",
        _paragraphs(version.description),
        _facts(version, document),
        _section("How to load it", _code(loading or _loading(version, document))),
        _section("Inputs and outputs", _signature(document)),
        _section("Metrics", _metrics(version)),
        _section("Params", _table("param", flat(version.params))),
        _section("Training data", _inputs(version.lineage.get("inputs") or [])),
        _section("Where it came from", _origin(version, document)),
        _section("Figures", _pictures(shown, beside)),
        _section("Metadata", _table("name", flat(mapping(document.get("metadata"))))),
        _section("Tags", _table("tag", version.tags)),
    ]
    return "\n".join(part for part in parts if part)


def front_matter(version: ModelVersion) -> str:
    """Return what the Hugging Face hub reads at the head of a card, as YAML."""
    framework = version.framework
    entries = {
        "library_name": _LIBRARIES.get(framework, framework),
        "model_name": version.name,
        "tags": ["experiment_tracking", framework],
    }
    lines = [f"{key}: {_yaml(value)}\n" for key, value in entries.items() if value]
    return f"---\n{''.join(lines)}---\n\n"


def _yaml(value: Any) -> str:
    """Write texts as YAML takes them, which is as JSON where nothing in them is a control."""
    plain = [visible(each) for each in value] if isinstance(value, list) else visible(value)
    return json.dumps(plain, ensure_ascii=False)


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping from a document as it is; an empty one where there is something else."""
    return value if isinstance(value, Mapping) else {}


# ---------------------------------------------------------------------- text


def escaped(value: Any) -> str:
    r"""Return a text on one line of Markdown, in which nothing of it is markup.

    >>> escaped("<b>1*2*3</b>\n# no heading")
    '&lt;b&gt;1\\*2\\*3&lt;/b&gt; # no heading'
    """
    text = " ".join(visible(" ".join(str(value).split())).split())
    text = _MARKS.sub(lambda found: "\\" + found[0], text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _BLOCKS.sub(_unblocked, text)


def _unblocked(found: re.Match[str]) -> str:
    """Keep what stands at the start of a line from making it a heading or a list."""
    start = found[0]
    return f"{start}\\" if start[0].isdigit() else f"\\{start}"


def _paragraphs(text: str) -> str:
    """Return free text with its lines as they are."""
    lines = [escaped(line) for line in text.splitlines()]
    # Two spaces at the end break a line; an empty one ends a paragraph.
    broken = "".join(f"{line}  \n" if line else "\n" for line in lines).strip()
    return f"{broken}\n" if broken else ""


def _section(title: str, content: str) -> str:
    return f"## {title}\n\n{content}" if content else ""


def _bullets(facts: Mapping[str, Any]) -> str:
    known = {name: value for name, value in facts.items() if value not in (None, "", [])}
    return "".join(f"- {name}: {escaped(value)}\n" for name, value in known.items())


def _table(first: str, values: Mapping[str, Any], second: str = "value") -> str:
    columns = {first: list(values), second: list(values.values())}
    return _rows(columns) if values else ""


def _rows(columns: Mapping[str, Sequence[Any]]) -> str:
    count = len(next(iter(columns.values())))
    cut = {name: list(values[:_MAX_ROWS]) for name, values in columns.items()}
    more = f"\nand {plural(count - _MAX_ROWS, 'more row')}\n" if count > _MAX_ROWS else ""
    return to_markdown(cut) + more


def _code(lines: str) -> str:
    return f"```python\n{lines}```\n"


# ---------------------------------------------------------------------- what is known


def _facts(version: ModelVersion, document: Mapping[str, Any]) -> str:
    count = document.get("parameter_count")
    time_ms, device = document.get("inference_time_ms"), document.get("inference_device")
    return _bullets(
        {
            "Stage": None if version.stage == NONE else version.stage,
            "Aliases": ", ".join(version.aliases),
            "Registered": f"{version.created_at} by {version.by}",
            "Framework": _with_versions(version.framework, document),
            "Class": document.get("class"),
            "Parameters": f"{count:,}" if type(count) is int else None,
            "Size": size_text(document.get("size_bytes")),
            "One inference": f"{time_ms} ms on {device}" if time_ms else None,
        }
    )


def _with_versions(framework: str, document: Mapping[str, Any]) -> str:
    versions = mapping(document.get("versions"))
    words = ", ".join(f"{package} {version}" for package, version in versions.items())
    return f"{framework} ({words})" if words else framework


def _loading(version: ModelVersion, document: Mapping[str, Any]) -> str:
    root = str(version.path.parents[3])
    lines = [
        "from experiment_tracking import ModelRegistry\n\n",
        f"registry = ModelRegistry({root!a})\n",
        *loading_lines(document, f"registry.load({version.key!a}"),
    ]
    if "program" in mapping(document.get("files")):
        lines.append(f"compute = registry.get({version.key!a}).load_program()\n")
    return "".join(lines)


def loading_lines(document: Mapping[str, Any], load: str) -> list[str]:
    """Return the lines that load a model; ``load`` is the call but for its last bracket."""
    framework = document.get("framework")
    options = with_options(document)
    what = "model" if framework in _WHOLE else "state"
    lines = [f"{what} = {load}{options.removeprefix(', ') if load[-1] == '(' else options})\n"]
    if "trusted=" in options:
        lines.insert(0, f"# {_REVIEW}\n")
    if framework in _INTO:
        comma = "" if load.endswith("(") else ", "
        what, name = _INTO[str(framework)]
        lines.append(f"# Or into {what}: {load}{comma}into={name})\n")
    return lines


def with_options(document: Mapping[str, Any]) -> str:
    """Return what a call that loads the model has to say beside which one, with a comma before.

    That is what may run code: the types that nobody knows to be harmless are named.

    >>> with_options({"framework": "cloudpickle"})
    ', allow_unsafe=True'
    """
    if document.get("framework") == "cloudpickle":
        return ", allow_unsafe=True"
    own = to_trust(document)
    return f", trusted={own!a}" if own else ""


def to_trust(document: Mapping[str, Any]) -> list[str]:
    """Return the types and functions of a scikit-learn model that its reader has to trust."""
    from experiment_tracking.formats.models.sklearn import HARMLESS

    named = document.get("types")
    return sorted({*map(str, named)} - HARMLESS) if isinstance(named, list) else []


def _signature(document: Mapping[str, Any]) -> str:
    signature = mapping(document.get("signature"))
    entries = [(kind, e) for kind in ("inputs", "outputs") for e in signature.get(kind) or []]
    entries = [(kind, entry) for kind, entry in entries if isinstance(entry, Mapping)]
    columns = {
        "": [kind.removesuffix("s") for kind, _ in entries],
        **{key: [entry.get(key) for _, entry in entries] for key in ("name", "dtype", "shape")},
    }
    return _rows(columns) if entries else ""


def _metrics(version: ModelVersion) -> str:
    """Show each metric when the model was saved, and the best of the run where it has a goal."""
    summaries = mapping(version.lineage.get("run_metrics"))
    best = {shown_name(name): _best(kept) for name, kept in summaries.items()}
    values = version.metrics
    if not values:
        return ""
    columns = {"metric": list(values), "value": list(values.values())}
    if any(value is not None for value in best.values()):
        columns["best of the run"] = [best.get(name) for name in values]
    return _rows(columns)


def _best(kept: Any) -> float | None:
    return from_stored(kept.get("best")) if isinstance(kept, Mapping) else None


def _inputs(inputs: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        {
            "name": each.get("name"),
            "where": each.get("path") or each.get("url") or each.get("kind"),
            "shape": each.get("shape"),
            "size": size_text(each.get("size_bytes")) or None,
            "SHA-256": str(each.get("sha256") or "")[:12] or None,
        }
        for each in inputs
    ]
    names = [name for name in rows[0] if any(row[name] for row in rows)] if rows else []
    return _rows({name: [row[name] for row in rows] for name in names}) if names else ""


def _origin(version: ModelVersion, document: Mapping[str, Any]) -> str:
    run, code = (mapping(version.lineage.get(key)) for key in ("run", "code"))
    weights = mapping(mapping(document.get("files")).get("weights"))
    return _bullets(
        {
            "Run": f"{version.run} (id {version.run_id})",
            "Run began": run.get("created_at"),
            "Run by": run.get("user"),
            "Model in it": version.lineage.get("artifact_path"),
            "Commit": code.get("commit"),
            "Saved": document.get("saved_at"),
            "Step": document.get("step"),
            "SHA-256 of the weights": weights.get("sha256"),
        }
    )


# ---------------------------------------------------------------------- figures


def figures_of(version: ModelVersion) -> list[Figure]:
    """Return the newest figure of each name in the version's run, where they are still there."""
    place = mapping(version.lineage.get("run")).get("path")
    if not isinstance(place, str):
        return []
    try:
        # Relative where the run is below the root.
        record = RunRecord(os.path.join(version.path.parents[3], place))
        found = [_figure(record, entry) for entry in record.artifacts]
    except (OSError, DamagedError):  # The run is gone, or no run any more: the version is not.
        return []
    newest = {figure.name: figure for figure in found if figure}
    return list(newest.values())[:_MAX_FIGURES]


def _figure(record: RunRecord, entry: Any) -> Figure | None:
    if not isinstance(entry, Mapping) or entry.get("kind") not in ("figure", "image"):
        return None
    try:
        path = inside(record, str(entry.get("path")))
    except DamagedError:
        return None
    if not os.path.isfile(path):
        return None
    place = os.path.relpath(path, os.path.realpath(record.folder.path)).replace(os.sep, "/")
    return Figure(str(entry.get("name")), entry.get("step"), path, place)


def _pictures(figures: Sequence[Figure], beside: str | os.PathLike[str]) -> str:
    return "\n".join(_picture(figure, os.path.realpath(beside)) for figure in figures)


def _picture(figure: Figure, beside: str) -> str:
    at = "" if figure.step is None else f", step {figure.step}"
    caption = escaped(f"{figure.name}{at}")
    path = os.path.relpath(figure.path, beside).replace(os.sep, "/")
    target = quote_from_bytes(os.fsencode(path))
    if os.path.splitext(figure.path)[1].lower() in _PICTURES:
        return f"![{caption}]({target})  \n{caption}\n"
    return f"[{caption}]({target})\n"
