"""How fast a training loop went."""

from collections.abc import Mapping, Sequence
from typing import Any


class Throughput:
    """How fast a training loop went, from the rows that it logged in this attempt."""

    def __init__(self) -> None:
        self._rows = 0
        self._first: tuple[int, float] | None = None
        self._last_at = 0.0
        self._top = 0

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a batch of history rows in file order; only its first and last are looked at."""
        if not rows:
            return
        first, last = rows[0], rows[-1]
        if self._first is None:
            self._first = first["step"], first["time"]
            self._top = first["step"]
        self._rows += len(rows)
        self._last_at = last["time"]
        self._top = max(self._top, first["step"], last["step"])

    def to_dict(self) -> dict[str, int | float]:
        """Give ``rows`` and, from two rows at different times on, the rest.

        Returns
        -------
        dict
            ``training_s`` from the first row to the last, ``rows``, ``steps`` from the first
            step to the highest, ``rows_per_s`` and ``steps_per_s`` to four digits. What came
            before the first row and after the last is not counted: data loading, compilation.
        """
        if self._first is None:
            return {}
        step, began = self._first
        seconds = self._last_at - began
        if self._rows < 2 or seconds <= 0:
            return {"rows": self._rows}
        steps = self._top - step
        return {
            "training_s": round(seconds, 3),
            "rows": self._rows,
            "steps": steps,
            # The first row ends no interval that was timed.
            "rows_per_s": _four_digits((self._rows - 1) / seconds),
            "steps_per_s": _four_digits(steps / seconds),
        }


def _four_digits(number: float) -> float:
    return float(f"{number:.4g}")
