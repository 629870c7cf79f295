"""What can be logged: the ``log_`` methods that a run and a tracker both offer.

Tags, params, statuses and file names take the form in which they are kept here too.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from experiment_tracking.errors import InvalidNameError, InvalidTypeError, InvalidValueError
from experiment_tracking.folder import layout, values
from experiment_tracking.folder.documents import encode
from experiment_tracking.notices import notice

if TYPE_CHECKING:
    # Loaded when first used: neither pathlib nor a run's machinery is needed to import a tracker.
    from pathlib import Path

    from experiment_tracking.run import Run

_STATUS_WORDS = {
    "finished": "finished", "completed": "finished", "complete": "finished", "success": "finished",
    "succeeded": "finished", "ok": "finished", "done": "finished",
    "failed": "failed", "fail": "failed", "error": "failed", "crashed": "failed",
    "killed": "killed", "interrupted": "killed", "cancelled": "killed", "canceled": "killed",
}  # fmt: skip


_GOAL_WORDS = {
    "minimize": "minimize", "minimise": "minimize", "min": "minimize",
    "maximize": "maximize", "maximise": "maximize", "max": "maximize",
}  # fmt: skip


_PROGRESS_EVERY_S = 5.0


class PhysicsMetrics(Protocol):
    """What ``log_physics_metrics`` takes: the dataclasses of ``experiment_tracking.scientific``."""

    def to_dict(self, prefix: str | None = None) -> Mapping[str, Any]:
        """Return flat, prefixed names and values."""


class Logs(ABC):
    """The ``log_`` methods, as a run and a tracker both offer them."""

    @abstractmethod
    def _run(self) -> "Run":
        """Return the run that is logged to."""

    def log_param(self, name: str, value: Any) -> None:
        """Keep one hyperparameter; see :meth:`log_params`."""
        self.log_params({name: value})

    def log_params(self, params: Any) -> None:
        """Keep hyperparameters, nested as given.

        Parameters
        ----------
        params
            A mapping, dataclass (:class:`~experiment_tracking.ExperimentConfig`), ``Namespace``
            of argparse, or anything with ``to_dict()``. Paths, enums, dtypes, callables, sets and
            scalars of array packages take a plain form; arrays become shape and dtype.

        Raises
        ------
        InvalidValueError, InvalidNameError
            For containers that hold themselves or are nested deeper than 50, and for names
            that are not text. Nothing is kept then.

        Notes
        -----
        Replaces ``params.json`` before it returns (0.15 ms). A name that had another value is
        replaced, and the old value goes to ``amendments/``. Credentials are kept as ``***``:
        text under a name such as ``api_key``, tokens of well-known form, users in URLs.
        """
        self._run()._log_params(params)

    def log_metric(self, name: str, value: Any, step: int | None = None) -> None:
        """Log one number; see :meth:`log_metrics`."""
        self.log_metrics({name: value}, step)

    def log_metrics(
        self, metrics: Mapping[str, Any], step: int | None = None, timestamp: float | None = None
    ) -> None:
        """Log one row of numbers.

        When this returns, the row survives the death of the process. About 2 µs.

        Parameters
        ----------
        metrics
            Names to numbers: Python, numpy, torch or jax scalars of shape ``()`` or ``(1,)``.
            NaN and infinities are kept. ``/`` in a name groups.
        step
            Any whole number; may repeat or go back. By default the last step + 1, or the entry
            ``step`` of ``metrics``.
        timestamp
            Unix seconds, by default now.

        Raises
        ------
        InvalidTypeError, InvalidValueError, InvalidNameError
            For what is no number, no whole step, no name, or milliseconds.
        RunEndedError
            After the end of the run.
        """
        self._run().log_metrics(metrics, step, timestamp)

    def log_physics_metrics(
        self, metrics: PhysicsMetrics, step: int | None = None, prefix: str | None = None
    ) -> None:
        """Log one of the physics dataclasses as a row with names such as ``pinn/pde_residual``.

        ``prefix="val"`` puts ``val/`` in the place of the domain's own prefix.
        """
        if not hasattr(metrics, "to_dict"):
            raise InvalidTypeError(
                f"log_physics_metrics takes PINNMetrics, NeuralOperatorMetrics, L2OMetrics or "
                f"NeuralDFTMetrics, found {type(metrics).__name__}. Log a mapping with log_metrics."
            )
        self._run().log_metrics(metrics.to_dict(prefix), step)

    def log_model(
        self,
        model: Any,
        artifact_path: str = "model",
        metadata: Mapping[str, Any] | None = None,
        save_optimizer_state: bool = False,
        optimizer: Any = None,
        input_example: Any = None,
        signature: Any = None,
        step: int | None = None,
        aliases: Iterable[str] = (),
        *,
        scheduler: Any = None,
        registered_model_name: str | None = None,
        keep: int = 1,
        keep_best: tuple[str, int] | None = None,
        allow_unsafe: bool = False,
    ) -> "Path":
        """Save a model, or take the place of its last save; no pickle anywhere.

        Parameters
        ----------
        model
            A torch module, a flax.nnx or equinox module, an estimator of scikit-learn, XGBoost or
            LightGBM, a Keras or ONNX model; or a tree of arrays: a ``state_dict()``, linen's or
            JAX's params, nested mappings, lists and tuples of numpy, torch or jax arrays.
        artifact_path
            Name of the model in the run.
        metadata
            Plain values kept beside it.
        save_optimizer_state
            Whether the optimizer's state is saved, too; giving ``optimizer`` says so as well.
        optimizer
            The optimizer, or for trees its state as a tree.
        input_example
            What the model is called with: an array, a tuple of arguments, a mapping of named
            ones; its first axis is the batch. With it the model is computed a few times: its
            signature and the time of one inference are kept, and a program that runs without the
            model's code (``torch.export``, ``jax.export``).
        signature
            A mapping of ``inputs`` and ``outputs``, each a list of mappings with ``name``,
            ``dtype`` and ``shape``. By default that of the example.
        step
            Training step of these weights, by default that of the last row.
        aliases
            Words for this save, such as ``"champion"``: with ``registered_model_name`` they move
            to the new version. A copy in W&B has them too.
        scheduler
            A torch scheduler, saved with the optimizer.
        registered_model_name
            Make it the next version of that registered model at once; see
            :class:`~experiment_tracking.ModelRegistry`.
        keep
            How many of the last saves stay on the disk. The one before the last always does,
            since somebody may be reading it.
        keep_best
            A metric and a number, ``("val/loss", 3)``: so many saves stay beside, those with the
            best values of the metric when they were made. ``load_model(name, best="val/loss")``
            reads the best of them; without ``best`` it reads the newest.
        allow_unsafe
            Keep what no format takes by cloudpickle. To load it runs code.

        Returns
        -------
        pathlib.Path
            The model's folder, ``models/<artifact_path>``.

        Raises
        ------
        InvalidTypeError
            For what no format takes; the message says what to do.
        InvalidNameError, InvalidValueError
            For a name that cannot be a folder, and for wishes that cannot be met.

        Notes
        -----
        Writes and flushes ``weights-000001.safetensors`` and the like (hashed beside the writing;
        no copy in memory), then replaces ``model.json``, which names them with size and SHA-256
        and is what readers go by, then deletes what it no longer names. Killed at any point, the
        model is the last one or this one, whole. Costs about what writing the bytes to the disk
        does: 400 MB in about a second.
        """
        return self._run()._log_model(
            model, artifact_path, registered_model_name, metadata=metadata,
            save_optimizer_state=save_optimizer_state, optimizer=optimizer, scheduler=scheduler,
            input_example=input_example, signature=signature, step=step, aliases=aliases,
            keep=keep, keep_best=keep_best, allow_unsafe=allow_unsafe,
        )  # fmt: skip

    def log_artifact(
        self,
        path: str | os.PathLike[str],
        artifact_type: str | None = None,
        description: str | None = None,
        *,
        name: str | None = None,
        step: int | None = None,
    ) -> "Path":
        """Copy a file or a folder into ``artifacts/`` with its sha256; return where it is.

        Parameters
        ----------
        path
            File or folder. In a folder, links to files within it become files, links to folders
            within it are left out, and links that lead out of it are refused.
        artifact_type, description
            Free text, listed in ``artifacts.json``.
        name
            Path below ``artifacts/``, by default the file's own name. Logged again under the
            same name, a file is replaced.
        """
        return self._run()._log_artifact(path, artifact_type, description, name, step)

    def log_input(
        self,
        value: Any,
        name: str,
        *,
        hash: bool = True,  # noqa: A002 (the word that people look for)
    ) -> dict[str, Any]:
        """Record what the run was trained on, without copying it; return what is kept.

        Parameters
        ----------
        value
            A path of a file or folder, a URL, an array, a data frame, or a dataset; see
            :func:`~experiment_tracking.formats.inputs.describe_input`.
        name
            Under which it stands in ``inputs.json``; recorded again, it is replaced.
        hash
            Whether to read everything for a sha256, by which a rerun is verified. Long work is
            told on the terminal.

        Raises
        ------
        InvalidTypeError, InvalidValueError
            For what is none of these, or a path where nothing is.

        Examples
        --------
        >>> run.log_input("data/train.csv", "train")  # doctest: +SKIP
        {'kind': 'file', 'path': '/home/me/project/data/train.csv', 'size_bytes': 81920, ...}
        """
        from experiment_tracking.formats.inputs import describe_input

        check_file_name(name)
        progress = _HashProgress(name)
        description = describe_input(value, hash=hash, on_progress=progress.show)
        entry = {"name": name, **_without_secrets_in_urls(description)}
        self._run()._log_input(entry)
        return entry

    def seed_everything(self, seed: int | None = None) -> int:
        """Seed ``random`` and, where imported, numpy and torch; record and return the seed.

        JAX has no global state: ``key = jax.random.key(tracker.seed_everything(0))``. Call it
        behind the imports: a package that is imported later is not seeded.

        Parameters
        ----------
        seed
            0 to 2**32 - 1. None draws one, and ``experiments rerun`` gives the same again.
        """
        from experiment_tracking.capture.seeds import seed_everything

        seeds = seed_everything(seed)
        self._run()._keep_seeds(seeds.to_dict())
        return seeds.seed

    def log_figure(self, figure: Any, name: str, step: int | None = None) -> "Path":
        """Keep a figure in ``figures/``: matplotlib or anything with ``savefig`` as PNG, Plotly
        as HTML. With a step the name carries it; ``/`` in the name makes folders.
        """  # noqa: D205
        from experiment_tracking.formats.figures import encode_figure

        data, suffix = encode_figure(figure)
        return self._run()._save_picture(data, suffix, "figure", name, step)

    def log_image(self, image: Any, name: str, step: int | None = None) -> "Path":
        """Keep an image in ``figures/`` as PNG.

        Takes Pillow images and arrays of shape (H, W), (H, W, 1|3|4) or (1|3|4, H, W): uint8,
        or floats within 0 and 1.
        """
        from experiment_tracking.formats.images import encode_image

        data, suffix = encode_image(image)
        return self._run()._save_picture(data, suffix, "image", name, step)

    def log_table(self, table: Any, name: str, step: int | None = None) -> "Path":
        """Keep a table in ``artifacts/``: a DataFrame, a sequence of mappings or a mapping of
        columns. CSV, or JSON where the name ends in ``.json``.
        """  # noqa: D205
        from experiment_tracking.formats.tables import encode_table

        stem = check_file_name(name).removesuffix(".json").removesuffix(".csv")
        data, suffix = encode_table(table, "json" if name.endswith(".json") else "csv")
        return self._run()._save_value(data, suffix, "table", stem, step)

    def log_text(self, text: str, name: str, step: int | None = None) -> "Path":
        """Keep a text in ``artifacts/`` as UTF-8; it shows in TensorBoard as well."""
        if not isinstance(text, str):
            raise InvalidTypeError(f"log_text takes text, found {type(text).__name__}.")
        stem, suffix = os.path.splitext(check_file_name(name))
        data = text.encode("utf-8", "backslashreplace")
        run = self._run()
        path = run._save_value(data, suffix or ".txt", "text", stem, step)
        run._show("log_text", data.decode(), stem, step)
        return path

    def log_dict(self, value: Mapping[str, Any], name: str, step: int | None = None) -> "Path":
        """Keep a mapping in ``artifacts/`` as JSON; values take the plain forms of params."""
        stem = check_file_name(name).removesuffix(".json")
        data = encode(values.to_plain(value, name))
        return self._run()._save_value(data, ".json", "dict", stem, step)

    def log_histogram(
        self, data: Any, name: str, step: int | None = None, *, bins: int = 64
    ) -> "Path":
        """Keep the distribution of an array's values: counts and edges as JSON in
        ``artifacts/``, and a histogram in TensorBoard.
        """  # noqa: D205
        from experiment_tracking.formats.histograms import encode_histogram

        histogram = encode_histogram(data, bins)
        run = self._run()
        path = run._save_value(encode(histogram), ".json", "histogram", name, step)
        run._show("log_histogram", histogram, name, step)
        return path

    def set_tags(self, tags: Mapping[str, Any] | Iterable[str] | str) -> None:
        """Set tags: a mapping of text to text, or words. Other tags stay.

        Replaces ``summary.json`` before it returns (0.15 ms).
        """
        self._run()._set_tags(to_tags(tags))

    def remove_tags(self, *names: str) -> None:
        """Remove tags; those that are not there are passed over."""
        self._run()._remove_tags(names)

    def define_metric(self, name: str, goal: str | None = None) -> None:
        """Say whether less (``"minimize"``) or more (``"maximize"``) of a metric is better.

        None takes away the goal that the metric's name would suggest.
        """
        word = _GOAL_WORDS.get(goal.lower()) if isinstance(goal, str) else None
        if goal is not None and word is None:
            raise InvalidValueError(
                f"Metric {name!r}: goal must be 'minimize', 'maximize' or None, found {goal!r}."
            )
        self._run()._define_metric(values.stored_name(values.check_metric_name(name)), word)


class _HashProgress:
    """Tell how far the hashing of an input is, once it takes longer than a moment."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started = self._told = time.monotonic()

    def show(self, done_bytes: int, total_bytes: int) -> None:
        """Print a line every few seconds."""
        now = time.monotonic()
        if now - self._told < _PROGRESS_EVERY_S or not done_bytes:
            return
        self._told = now
        left_s = (now - self._started) * (total_bytes / done_bytes - 1)
        notice(
            f"input {self._name!r}: hashed {done_bytes / 1e9:.1f} of {total_bytes / 1e9:.1f} GB, "
            f"about {left_s:.0f} s left (hash=False leaves it out)."
        )


def to_status(status: object) -> str:
    """Turn a word for how a run ended into ours; an unknown one is finished, with a warning."""
    word = str(getattr(status, "value", status)).lower()
    if word not in _STATUS_WORDS:
        notice(f"status {status!r} is not known; the run counts as finished. Known: FINISHED, "
               "FAILED, KILLED.")  # fmt: skip
    return _STATUS_WORDS.get(word, "finished")


def to_text(value: Any, name: str) -> str:
    """Return a text as it can be written; half surrogate pairs are spelled out."""
    if not isinstance(value, str):
        raise InvalidTypeError(f"{name} must be text, found {value!r:.60}. Write {str(value)!r}.")
    return str(_without_secrets({name: values.to_plain(value, name)})[name])


def to_tags(tags: Any) -> dict[str, str]:
    """Turn what people give as tags into a mapping of text to text, without credentials."""
    tags = _without_secrets(values.to_tags(tags))
    # A word is a tag's name.
    return {to_text(name, "tag"): text for name, text in tags.items()}


def to_params(params: Any) -> dict[str, Any]:
    """Turn what people keep hyperparameters in into a plain mapping, without credentials."""
    if params is None:
        return {}
    if not isinstance(params, Mapping) and not hasattr(params, "__dataclass_fields__"):
        if hasattr(params, "to_dict"):
            params = params.to_dict()
        elif hasattr(params, "__dict__") and not callable(params):
            params = vars(params)
    plain = values.to_plain(params, "params", _note_cut)
    if not isinstance(plain, dict):
        raise InvalidTypeError(
            f"Params must be a mapping, dataclass or Namespace, found {type(params).__name__}. "
            "Write log_params({'lr': 0.1})."
        )
    return _without_secrets(plain)


def _without_secrets(plain: dict[str, Any]) -> dict[str, Any]:
    if not plain:
        return plain
    from experiment_tracking.capture.redaction import redact_params

    return redact_params(plain)


def _without_secrets_in_urls(description: dict[str, Any]) -> dict[str, Any]:
    """Copy an input's description; in a URL even the path may be a credential."""
    shown = dict(description)
    if shown["kind"] == "uri":
        shown["path"] = to_text(shown["path"], "path")
    if "parts" in shown:
        parts = shown["parts"].items()
        shown["parts"] = {name: _without_secrets_in_urls(part) for name, part in parts}
    return shown


def _note_cut(name: str) -> None:
    notice(f"{name} has a repr of over 1,000 characters; it was cut. Log it as an artifact.")


def _parts(name: str) -> list[str]:
    """Split a name that may hold ``/`` and check each part as a file's name."""
    if not isinstance(name, str):
        raise InvalidNameError(
            f"A file's name must be text, found {type(name).__name__}. The thing to keep comes "
            "first, then its name: log_figure(figure, 'confusion')."
        )
    return [
        layout.check_name(part, f"In the file's name {name!r} the part") for part in name.split("/")
    ]


def check_file_name(name: str) -> str:
    """Return the name of a file of a run, which may hold ``/``, if every part of it will do."""
    return "/".join(_parts(name))
