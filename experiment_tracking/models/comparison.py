"""Versions side by side, a column each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiment_tracking.models.version import ModelVersion
from experiment_tracking.registry.record import flat

if TYPE_CHECKING:
    import pandas as pd

_FACTS = ("framework", "class", "parameter_count", "size_bytes", "step")


def compare(versions: Sequence[ModelVersion]) -> pd.DataFrame:
    """Return a table with a column a version, by its key.

    Rows are stage, aliases, registration and run, what the model is, then ``params.…`` and
    ``metrics.…`` of all, None where a version has none.

    Raises
    ------
    DamagedError
        If what was registered of a version has been changed.
    """
    import pandas as pd

    columns = {version.key: _facts(version) for version in versions}
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    ordered = sorted(
        rows, key=lambda row: row.startswith("params.") + 2 * row.startswith("metrics.")
    )
    table = {key: [column.get(row) for row in ordered] for key, column in columns.items()}
    return pd.DataFrame(table, index=ordered, dtype=object)


def _facts(version: ModelVersion) -> dict[str, Any]:
    model = version.lineage["model"]
    return {
        "stage": version.stage,
        "aliases": ", ".join(version.aliases),
        "created_at": version.created_at,
        "by": version.by,
        "run": version.run,
        "artifact_path": version.lineage.get("artifact_path"),
        "commit": version.lineage["code"]["commit"],
        **{name: model.get(name) for name in _FACTS},
        **{f"params.{name}": value for name, value in flat(version.params).items()},
        **{f"metrics.{name}": value for name, value in version.metrics.items()},
    }
