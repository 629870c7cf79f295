"""Runs to keep in order, made and damaged as for the registry's own tests."""

from tests.registry.conftest import (  # noqa: F401
    damage,
    edit,
    killed,
    registry,
    root,
    track,
    tracker,
)
