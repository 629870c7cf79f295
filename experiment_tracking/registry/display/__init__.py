"""How runs look in a notebook: plain tables, everything in them escaped."""

from experiment_tracking.registry.display.aggregate import aggregate_html
from experiment_tracking.registry.display.diff import diff_html
from experiment_tracking.registry.display.html import table_html
from experiment_tracking.registry.display.record import record_html
from experiment_tracking.registry.display.runs import comparison_html, registry_html, runs_html

__all__ = [
    "aggregate_html",
    "comparison_html",
    "diff_html",
    "record_html",
    "registry_html",
    "runs_html",
    "table_html",
]
