"""Not yet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from experiment_tracking.formats.models.interface import Form, ModelFormat, Wishes
from experiment_tracking.formats.models.saved import Save


class EquinoxFormat(ModelFormat):
    """Not yet."""

    framework = "equinox"

    def takes(self, model: object) -> bool:
        """Take none."""
        return False

    def encode(self, model: Any, wishes: Wishes) -> Form:
        """Not yet."""
        raise NotImplementedError

    def load(self, save: Save, into: Any, *, as_numpy: bool, trusted: Iterable[str]) -> Any:
        """Not yet."""
        raise NotImplementedError
