"""scikit-learn's trees hold indices that its compiled code follows unchecked: checked here, once.

Its types are harmless, but a file of such a type with an index beyond its arrays crashes the
process at the first prediction (https://github.com/scikit-learn/scikit-learn/pull/34558), which is
why skops does not trust them. A forest grown by scikit-learn passes; what does not was damaged or
made by hand.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Container, Iterator
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from experiment_tracking.errors import DamagedError
from experiment_tracking.formats.models.interface import class_name


class _Inputs(NamedTuple):
    """What an estimator lets through to its trees."""

    width: int
    categories: frozenset[int] = frozenset()
    """The columns of which it has tables of known categories."""

    def common(self, other: _Inputs) -> _Inputs:
        """Return what is certain of a tree that two estimators hold."""
        return _Inputs(min(self.width, other.width), self.categories & other.categories)


def check_nodes(model: Any, trusted: Container[str], subject: str) -> None:
    """Look at every tree in an estimator.

    Parameters
    ----------
    model
        An estimator that was built from a file and has not computed yet.
    trusted
        Full names of classes that are not looked at.
    subject
        What the error is about.

    Raises
    ------
    DamagedError
        If one has an index that leads out of it, or stands where nothing checks the width of its
        input.
    """
    parts = list(_parts(model))
    for part in parts:
        if hidden := _hidden_methods(part):
            raise DamagedError(
                f"{subject}: its {class_name(part)} has other things in the places of its methods "
                f"({', '.join(hidden)}). Restore the file."
            )
    inputs: dict[int, _Inputs] = {}
    for tree, found in (owned for part in parts for owned in _owned(part)):
        inputs[id(tree)] = found.common(inputs.get(id(tree), found))
    for part in parts:
        name = class_name(part)
        if name in _SOUND and name not in trusted and not _SOUND[name](part, inputs.get(id(part))):
            raise DamagedError(
                f"{subject}: its {name} does not hold together, and could crash the process. "
                f"Restore the file; if you trust who made it: load_model(..., trusted=[{name!r}])."
            )


def _parts(model: Any) -> Iterator[Any]:
    """Give every object that a model holds, however deep, once."""
    import numpy as np

    waiting, seen = [model], {id(None): None}
    while waiting:
        part = waiting.pop()
        # A function knows its module, and so everything.
        if id(part) in seen or isinstance(part, type | ModuleType) or hasattr(part, "__globals__"):
            continue
        seen[id(part)] = part  # held, so that no address is given twice
        yield part
        if isinstance(part, np.ndarray):
            waiting += part.ravel().tolist() if part.dtype.hasobject else ()
        else:
            waiting += gc.get_referents(part)


def _hidden_methods(part: Any) -> list[str]:
    """Name what hides a method of scikit-learn's, for one that which checks an input's width."""
    if not type(part).__module__.startswith("sklearn."):
        return []
    state = getattr(part, "__dict__", {})
    return [name for name in state if callable(getattr(type(part), name, None))]


def _owned(part: Any) -> Iterator[tuple[Any, _Inputs]]:
    """Give the trees that an estimator computes with, and what it lets in."""
    known = getattr(part, "__dict__", {})
    width = known.get("n_features_in_") if isinstance(known, dict) else None
    if type(width) is not int:
        return
    inputs = _Inputs(width)
    if "tree_" in known:
        yield known["tree_"], inputs
    # Gradient boosting goes to the trees of its estimators past these, for each class in a row.
    stages: Any = known.get("estimators_")
    if getattr(stages, "ndim", 0) == 2 and stages.shape[1] == known.get("n_trees_per_iteration_"):
        yield from ((getattr(each, "tree_", None), inputs) for each in stages.ravel())
    if (preprocessor := known.get("_preprocessor")) is not None:
        if not _keeps_width(preprocessor, width):
            return
        inputs = _Inputs(width, _categories(known["_bin_mapper"], width))
    for stage in known.get("_predictors") or ():
        yield from ((each, inputs) for each in stage)


def _keeps_width(preprocessor: Any, width: int) -> bool:
    """Tell whether it is what boosting puts before its trees where some columns are categories.

    That encodes these and checks the others, so that as many come out as go in.
    """
    from sklearn.utils.validation import check_array

    if class_name(preprocessor) != _TRANSFORMER:
        return False
    # One more, for columns that are left over, can only add to them.
    (first, encoder, encoded), (second, checker, checked), *_ = preprocessor.transformers_
    places = preprocessor._transformer_to_input_indices
    return (
        (class_name(encoder), class_name(checker)) == (_ENCODER, _CHECKER)
        and type(checker.func) is partial
        and checker.func.func is check_array
        and encoded.shape == checked.shape == (width,)
        and encoded.dtype == checked.dtype == bool
        and bool((encoded ^ checked).all())
        and list(places[first]) == encoded.nonzero()[0].tolist()
        and list(places[second]) == checked.nonzero()[0].tolist()
        and len(getattr(preprocessor, "feature_names_in_", encoded)) == width
    )


_TRANSFORMER = "sklearn.compose._column_transformer.ColumnTransformer"
_ENCODER = "sklearn.preprocessing._encoders.OrdinalEncoder"
_CHECKER = "sklearn.preprocessing._function_transformer.FunctionTransformer"


def _categories(mapper: Any, width: int) -> frozenset[int]:
    known = mapper.is_categorical_
    return frozenset(known.nonzero()[0].tolist()) if known.shape == (width,) else frozenset()


def _is_sound_tree(tree: Any, inputs: _Inputs | None) -> bool:
    import numpy as np

    count, left, right = tree.node_count, tree.children_left, tree.children_right
    inner = left != -1
    after = np.flatnonzero(inner) + 1  # children come later, so that the way down ends
    return (
        inputs is not None
        and _are_within(left[inner], after, count)
        and _are_within(right[inner], after, count)
        and _are_within(tree.feature[inner], 0, inputs.width)
    )


def _is_sound_predictor(predictor: Any, inputs: _Inputs | None) -> bool:
    import numpy as np

    nodes, bits = predictor.nodes, predictor.raw_left_cat_bitsets
    inner = nodes["is_leaf"] == 0
    by_category = inner & (nodes["is_categorical"] != 0)
    after = np.flatnonzero(inner) + 1
    return (
        inputs is not None
        and _are_within(nodes["left"][inner], after, len(nodes))
        and _are_within(nodes["right"][inner], after, len(nodes))
        and _are_within(nodes["feature_idx"][inner], 0, inputs.width)
        and inputs.categories.issuperset(nodes["feature_idx"][by_category].tolist())
        and bits.shape[1:] == (_CATEGORIES // 32,)
        and _are_within(nodes["bitset_idx"][by_category], 0, len(bits))
    )


def _is_sound_neighbour_tree(tree: Any, inputs: _Inputs | None) -> bool:
    import numpy as np

    data, order, nodes, bounds = map(np.asarray, tree.get_arrays())
    last = np.arange(len(nodes)) * 2 + 2 >= len(nodes)
    return (
        order.shape == data.shape[:1]
        and bounds.shape[1:] == (len(nodes), data.shape[1])
        and _are_within(order, 0, len(data))
        and _are_within(nodes["idx_start"], 0, len(data) + 1)
        and _are_within(nodes["idx_end"], 0, len(data) + 1)
        and bool(nodes["is_leaf"][last].all())
    )


_CATEGORIES = 256
"""Of a column at most, in words of 32 bits."""


def _are_within(numbers: Any, start: Any, end: int) -> bool:
    return bool(((numbers >= start) & (numbers < end)).all())


_SOUND: dict[str, Callable[[Any, _Inputs | None], bool]] = {
    "sklearn.tree._tree.Tree": _is_sound_tree,
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor": _is_sound_predictor,
    "sklearn.neighbors._kd_tree.KDTree": _is_sound_neighbour_tree,
    "sklearn.neighbors._ball_tree.BallTree": _is_sound_neighbour_tree,
}
