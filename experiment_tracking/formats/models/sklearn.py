"""scikit-learn's estimators, by skops: types are named in the file and reviewed before it is built.

skops (https://skops.readthedocs.io) writes a zip of JSON and arrays. To build the model again it
imports the classes and functions that the file names, so the names decide what can happen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from experiment_tracking.errors import DamagedError, InvalidTypeError, InvalidValueError
from experiment_tracking.formats.models.interface import Streamed
from experiment_tracking.formats.models.saved import Save
from experiment_tracking.formats.models.sklearn_nodes import check_nodes
from experiment_tracking.formats.models.whole import (
    WholeFormat,
    is_a,
    needed,
    plain_array,
    the_table,
)

_BUILT_BY = {
    "builtins": "object",
    "collections": "OrderedDict",
    "functools": "partial",
    "numpy": "dtype mean median",
    "lightgbm.basic": "Booster",
    "lightgbm.sklearn": "LGBMModel LGBMClassifier LGBMRegressor LGBMRanker",
    "sklearn._loss.loss": "HalfTweedieLoss HalfTweedieLossIdentity",
    "sklearn.calibration": "_CalibratedClassifier _SigmoidCalibration",
    "sklearn.cluster._bisect_k_means": "_BisectingTree",
    "sklearn.cluster._kmeans": "_kmeans_single_elkan _kmeans_single_lloyd",
    "sklearn.compose._column_transformer": "make_column_selector",
    "sklearn.ensemble._hist_gradient_boosting.predictor": "TreePredictor",
    "sklearn.feature_selection._mutual_info": "mutual_info_classif mutual_info_regression",
    "sklearn.feature_selection._univariate_selection":
        "chi2 f_classif f_oneway f_regression r_regression",
    "sklearn.gaussian_process._gpc": "_BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels":
        "CompoundKernel ConstantKernel DotProduct ExpSineSquared Exponentiation Hyperparameter "
        "Matern PairwiseKernel Product RBF RationalQuadratic Sum WhiteKernel",
    "sklearn.impute._iterative": "_ImputerTriplet",
    "sklearn.metrics._classification":
        "accuracy_score balanced_accuracy_score brier_score_loss f1_score jaccard_score log_loss "
        "matthews_corrcoef precision_score recall_score",
    "sklearn.metrics._dist_metrics": "EuclideanDistance64 ManhattanDistance64",
    "sklearn.metrics.pairwise":
        "additive_chi2_kernel chi2_kernel cosine_similarity laplacian_kernel linear_kernel "
        "polynomial_kernel rbf_kernel sigmoid_kernel",
    "sklearn.metrics._ranking": "average_precision_score roc_auc_score top_k_accuracy_score",
    "sklearn.metrics._regression":
        "explained_variance_score max_error mean_absolute_error mean_absolute_percentage_error "
        "mean_gamma_deviance mean_poisson_deviance mean_squared_error mean_squared_log_error "
        "median_absolute_error r2_score root_mean_squared_error root_mean_squared_log_error",
    "sklearn.metrics._scorer": "_CurveScorer _MultimetricScorer _PassthroughScorer _Scorer",
    "sklearn.model_selection._search_successive_halving":
        "HalvingGridSearchCV HalvingRandomSearchCV",
    "sklearn.model_selection._split":
        "GroupKFold GroupShuffleSplit KFold LeaveOneGroupOut LeaveOneOut LeavePOut PredefinedSplit "
        "RepeatedKFold RepeatedStratifiedKFold ShuffleSplit StratifiedGroupKFold StratifiedKFold "
        "StratifiedShuffleSplit TimeSeriesSplit",
    "sklearn.multiclass": "_ConstantPredictor",
    "sklearn.neighbors._ball_tree": "BallTree",
    "sklearn.neighbors._kd_tree": "KDTree",
    "sklearn.neural_network._stochastic_optimizers": "AdamOptimizer SGDOptimizer",
    "sklearn.tree._tree": "Tree",
    "sklearn.utils._bunch": "Bunch",
    "sklearn.utils._metadata_requests": "MetadataRequest MethodMetadataRequest",
    "sklearn.utils.validation": "check_array",
    "xgboost.core": "Booster",
    "xgboost.sklearn":
        "XGBClassifier XGBRFClassifier XGBRFRegressor XGBRanker XGBRegressor",
}  # fmt: skip

HARMLESS = frozenset(
    f"{module}.{name}" for module, names in _BUILT_BY.items() for name in names.split()
)
"""What the usual public estimators are built of beside the types that skops itself trusts: found by
fitting all of ``sklearn.utils.all_estimators``, and read. Each is named in full. Whole modules are
not: a pipeline may hold any function, and scikit-learn has some that read files or the network."""


class SklearnFormat(WholeFormat):
    """Estimators, pipelines, searches: whatever is a ``BaseEstimator``."""

    framework = "sklearn"
    packages = ("sklearn", "skops")

    def takes(self, model: object) -> bool:
        """Take estimators."""
        return is_a(model, "sklearn.base", "BaseEstimator")

    def pack(self, model: Any) -> tuple[Streamed, dict[str, Any]]:
        """Give skops' file, and the names in it that skops does not trust by itself."""
        return packed(model, self.framework)

    def open(self, save: Save, trusted: Iterable[str]) -> Any:
        """Build the model, if all types that its file names are known or trusted."""
        return opened(save, trusted)

    def run(self, model: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Predict, or transform where there is nothing to predict.

        What goes in is a matrix, a table of pandas' (a must for columns of categories, such as
        LightGBM and XGBoost take), texts, or columns by name. A dense array comes out.
        """
        for method in ("predict", "transform"):
            if hasattr(model, method):
                return plain_array(getattr(model, method)(the_table(args, named)))
        return super().run(model, args, named)


def packed(model: Any, framework: str) -> tuple[Streamed, dict[str, Any]]:
    """Give an estimator as skops' file, and the names in it that are for its reader to review.

    Raises
    ------
    InvalidTypeError
        If skops does not know how to keep it.
    InvalidValueError
        If it holds a function that could not be found again.
    """
    skops = needed("skops.io", framework)
    try:
        data = skops.dumps(model)
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidTypeError(
            f"skops cannot keep this {type(model).__name__} ({error}). Replace that part, or keep "
            "it with cloudpickle, which runs code when it is loaded: allow_unsafe=True."
        ) from error
    names = skops.get_untrusted_types(data=data)
    if lost := [name for name in names if name.endswith(">") or ".<locals>." in name]:
        raise InvalidValueError(
            f"This {type(model).__name__} holds {', '.join(lost)}, which has no name to find it "
            "by again. Define the function with def at the top of a module, or keep it with "
            "cloudpickle, which runs code when it is loaded: allow_unsafe=True."
        )
    return Streamed(".skops", "skops", lambda: [data]), {"types": names}


def opened(save: Save, trusted: Iterable[str]) -> Any:
    """Build an estimator from skops' file.

    Raises
    ------
    DamagedError
        If it is no such file.
    InvalidValueError
        If the file names a type or function that is neither known to be harmless nor trusted.
    """
    skops = needed("skops.io", str(save.document.get("framework")))
    data, trusted = save.read("weights").tobytes(), frozenset(trusted)
    with _named(save):
        names = frozenset(skops.get_untrusted_types(data=data))
    if strange := sorted(names - HARMLESS - trusted):
        raise InvalidValueError(
            f"{save.subject} is built of {', '.join(strange)}, which may do anything when the "
            "model is loaded or used. If you know and trust them: load_model(..., "
            f"trusted={strange})."
        )
    with _named(save):
        model = skops.loads(data, trusted=sorted(names))
        check_nodes(model, trusted, save.subject)
    return model


@contextmanager
def _named(save: Save) -> Iterator[None]:
    try:
        yield
    except DamagedError:
        raise
    except (ImportError, AttributeError) as error:
        raise InvalidValueError(
            f"{save.subject} needs a class or function that is not here ({error}). Make the "
            "modules it was trained with importable, in the versions that model.json gives."
        ) from error
    # What a zip, a JSON document and every __setstate__ of a library can raise has no common class.
    except Exception as error:
        raise DamagedError(
            f"{save.subject} is not a whole skops file ({type(error).__name__}: {error}). Restore "
            "it from where it was saved."
        ) from error
