"""What formats share whose package keeps a model whole, in one file of its own kind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from experiment_tracking.errors import InvalidTypeError, MissingPackageError
from experiment_tracking.formats.models.interface import (
    Form,
    ModelFormat,
    Streamed,
    Wishes,
    Written,
    class_name,
)
from experiment_tracking.formats.models.saved import Save

if TYPE_CHECKING:
    from numpy.typing import NDArray


class WholeFormat(ModelFormat):
    """Models that come back as the object they were; what computes them is their package."""

    @abstractmethod
    def pack(self, model: Any) -> tuple[Streamed | Written, dict[str, Any]]:
        """Return a model as a file, and what ``model.json`` says of it beside its class."""

    @abstractmethod
    def open(self, save: Save, trusted: Iterable[str]) -> Any:
        """Return the model that a save holds."""

    def encode(self, model: Any, wishes: Wishes) -> Form:
        """Give the file that the package itself writes."""
        if wishes.optimizer is not None or wishes.scheduler is not None:
            raise InvalidTypeError(
                f"A model of {self.framework} is kept whole. Leave optimizer= and scheduler= out."
            )
        file, known = self.pack(model)
        return Form(
            {"weights": file}, {"class": class_name(model), "parameter_count": None} | known
        )

    def load(self, save: Save, into: Any, *, as_numpy: bool, trusted: Iterable[str]) -> Any:
        """Return the model itself."""
        model = self.open(save, trusted) if into is None else self.fill(save, into)
        save.warn_of_other_versions()
        return model

    def fill(self, save: Save, into: Any) -> Any:
        """Return ``into`` with the weights of a save, where the package can do that."""
        raise InvalidTypeError(
            f"{save.subject} comes back whole, as a model of {self.framework}. Leave into= out."
        )

    def load_program(self, save: Save) -> Callable[..., Any]:
        """Return the model's prediction as a function; see the format's ``run`` for its arguments.

        It loads the whole model and so needs its package; types that must be trusted it refuses.
        """
        return self.program(self.load(save, None, as_numpy=True, trusted=()))


_FRAMEWORKS = ("keras", "lightgbm", "xgboost")


def needed(package: str, framework: str) -> Any:
    """Import what models of a framework need.

    Raises
    ------
    MissingPackageError
        If it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        missing = (error.name or package).partition(".")[0]
        # The extra brings what keeps models, not the frameworks that make them.
        install = missing if missing in _FRAMEWORKS else "'experiment_tracking[models]'"
        raise MissingPackageError(f"A model of {framework}", missing, install) from error


def is_a(value: object, module: str, *classes: str) -> bool:
    """Tell whether a value is of a class of a module, which need not be loaded."""
    import sys

    found = [getattr(sys.modules.get(module), name, None) for name in classes]
    return isinstance(value, tuple(each for each in found if isinstance(each, type)))


def the_table(args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    """Return the one argument of models that compute rows: a matrix, or a table of named columns.

    Raises
    ------
    InvalidTypeError
        If there are several.
    """
    if named and not args:
        import pandas as pd

        return pd.DataFrame(dict(named))
    if len(args) != 1 or named:
        raise InvalidTypeError(
            f"This model takes one matrix, or columns by name; found {len(args)} arguments and "
            f"{len(named)} names. Pass one array, or a mapping of column names to arrays."
        )
    return args[0]


def plain_array(result: Any) -> NDArray[Any]:
    """Return what a model gave as an array of numpy's, from sparse matrices and tables too."""
    import numpy as np

    return np.asarray(result.toarray() if hasattr(result, "toarray") else result)
