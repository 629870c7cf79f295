"""A progress bar for scans that take long enough to make people wonder."""

import sys
import time
from types import TracebackType
from typing import Any

_PATIENCE_S = 1.0
_EVERY_S = 0.1


class Progress:
    """Shows how far something has come, from its second second on; quick work shows nothing.

    In a notebook it is a widget, in a terminal a line, elsewhere nothing (tqdm decides). Called
    with how much is done and how much there is.

    Parameters
    ----------
    title
        What is being done.
    unit
        What is counted.
    """

    def __init__(self, title: str, unit: str = "runs") -> None:
        self._title = title
        self._unit = unit
        self._next = time.monotonic() + _PATIENCE_S
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        """Tell that ``done`` of ``total`` are done."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_S
        if self._bar is None:
            self._bar = _bar(self._title, self._unit)
        self._bar.total = total
        self._bar.update(done - self._bar.n)


def _bar(title: str, unit: str) -> Any:
    import warnings

    with warnings.catch_warnings():
        # tqdm would have ipywidgets installed; its plain bar does as well.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    is_watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(desc=title, unit=f" {unit}", leave=False, disable=not is_watched)
