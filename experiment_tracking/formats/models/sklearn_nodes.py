"""scikit-learn's trees hold indices that its compiled code follows unchecked: checked here, once.

Its types are harmless, but a file of such a type with an index beyond its arrays crashes the
process at the first prediction (https://github.com/scikit-learn/scikit-learn/pull/34558), which is
why skops does not trust them. A forest grown by scikit-learn passes; what does not was damaged or
made by hand.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Container, Iterator
from types import ModuleType
from typing import Any

from experiment_tracking.errors import DamagedError
from experiment_tracking.formats.models.interface import class_name


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
    widths: dict[int, int] = {}
    for tree, width in (owned for part in parts for owned in _owned(part)):
        widths[id(tree)] = min(width, widths.get(id(tree), width))
    for part in parts:
        name = class_name(part)
        if name in _SOUND and name not in trusted and not _SOUND[name](part, widths.get(id(part))):
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


def _owned(part: Any) -> Iterator[tuple[Any, int]]:
    """Give the trees that an estimator computes with, and the width of input that it lets in."""
    known = getattr(part, "__dict__", {})
    width = known.get("n_features_in_")
    if not isinstance(known, dict) or type(width) is not int:
        return
    if "tree_" in known:
        yield known["tree_"], width
    # Gradient boosting goes to the trees of its estimators past these, for each class in a row.
    stages: Any = known.get("estimators_")
    if getattr(stages, "ndim", 0) == 2 and stages.shape[1] == known.get("n_trees_per_iteration_"):
        yield from ((getattr(each, "tree_", None), width) for each in stages.ravel())
    # With a preprocessor the width is not that of the input.
    if known.get("_preprocessor") is None:
        for stage in known.get("_predictors") or ():
            yield from ((each, width) for each in stage)


def _is_sound_tree(tree: Any, width: int | None) -> bool:
    import numpy as np

    count, left, right = tree.node_count, tree.children_left, tree.children_right
    inner = left != -1
    after = np.flatnonzero(inner) + 1  # children come later, so that the way down ends
    return (
        width is not None
        and _are_within(left[inner], after, count)
        and _are_within(right[inner], after, count)
        and _are_within(tree.feature[inner], 0, width)
    )


def _is_sound_predictor(predictor: Any, width: int | None) -> bool:
    import numpy as np

    nodes = predictor.nodes
    inner = nodes["is_leaf"] == 0
    after = np.flatnonzero(inner) + 1
    return (
        width is not None
        and not nodes["is_categorical"][inner].any()  # these lead on into three more tables
        and _are_within(nodes["left"][inner], after, len(nodes))
        and _are_within(nodes["right"][inner], after, len(nodes))
        and _are_within(nodes["feature_idx"][inner], 0, width)
    )


def _is_sound_neighbour_tree(tree: Any, width: int | None) -> bool:
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


def _are_within(numbers: Any, start: Any, end: int) -> bool:
    return bool(((numbers >= start) & (numbers < end)).all())


_SOUND: dict[str, Callable[[Any, int | None], bool]] = {
    "sklearn.tree._tree.Tree": _is_sound_tree,
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor": _is_sound_predictor,
    "sklearn.neighbors._kd_tree.KDTree": _is_sound_neighbour_tree,
    "sklearn.neighbors._ball_tree.BallTree": _is_sound_neighbour_tree,
}
