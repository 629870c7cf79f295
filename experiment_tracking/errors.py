"""Every error this package raises on purpose.

ExperimentTrackingError
├── InvalidNameError (ValueError)       a name that cannot be a folder or a metric
├── InvalidValueError (ValueError)      a value outside what is allowed
├── InvalidTypeError (TypeError)        a value of a kind that cannot be kept
├── NotFoundError (LookupError)
│   ├── RootNotFoundError (FileNotFoundError)
│   ├── RunNotFoundError                no run answers to that key
│   └── MetricNotFoundError             no run has that metric
├── RunEndedError (RuntimeError)        logging to a run that has ended
├── RunBusyError (RuntimeError)         another live process writes that run
├── DamagedError (ValueError)           a file that cannot be read as what it should be
│   └── FormatError                     written by another version of the format
├── BackendError (ValueError)           unknown backend, or a signature that cannot be called
├── BackendUnavailableError (ConnectionError)  a backend's service does not answer just now
├── BackendBusyError (RuntimeError)     another live process follows the run for that backend
├── ApprovalError (PermissionError)      a model version lacks what a stage asks for
├── ReproductionError (RuntimeError)    what a run was made from cannot be had again here
├── MissingPackageError (ImportError)   a feature whose package is not installed
└── WriteError (OSError)                the disk refused, with ``on_error="raise"``

Each also inherits the builtin that a careful caller would catch. A message says what
failed, on which thing, what was found, what is allowed and what to do next.
"""


class ExperimentTrackingError(Exception):
    """Base of all errors raised by this package."""


def in_words(error: BaseException) -> str:
    """Say what went wrong: ours as they are, for they say it all, others behind their class."""
    if isinstance(error, ExperimentTrackingError):
        return str(error)
    return f"{type(error).__name__}: {error}"


class InvalidNameError(ExperimentTrackingError, ValueError):
    """A name that is refused; the message shows one that would do."""


class InvalidValueError(ExperimentTrackingError, ValueError):
    """A value outside what the argument allows."""


class InvalidTypeError(ExperimentTrackingError, TypeError):
    """A value of a kind that cannot be kept in this place."""


class NotFoundError(ExperimentTrackingError, LookupError):
    """Something that was asked for by name does not exist."""


class RootNotFoundError(NotFoundError, FileNotFoundError):
    """The folder of experiments does not exist; the message says where was looked."""


class RunNotFoundError(NotFoundError):
    """No run answers to the key, or several do."""


class MetricNotFoundError(NotFoundError):
    """No run in question has that metric; the message names near ones."""


class RunEndedError(ExperimentTrackingError, RuntimeError):
    """Something was logged to a run that has ended."""


class RunBusyError(ExperimentTrackingError, RuntimeError):
    """Another live process is writing the run."""


class DamagedError(ExperimentTrackingError, ValueError):
    """A file of a run that cannot be read as what it should be."""


class FormatError(DamagedError):
    """A run folder in a format that this version does not read."""


class BackendError(ExperimentTrackingError, ValueError):
    """An unknown backend, or one whose methods cannot be called as the contract says."""


class BackendUnavailableError(ExperimentTrackingError, ConnectionError):
    """A backend's service does not answer, or not now; the same call may work later."""


class BackendBusyError(ExperimentTrackingError, RuntimeError):
    """Another live process copies the run to that backend."""


class ApprovalError(ExperimentTrackingError, PermissionError):
    """A model version may not come to a stage: the message says what is missing."""


class ReproductionError(ExperimentTrackingError, RuntimeError):
    """What a run was made from cannot be put together again here."""


class MissingPackageError(ExperimentTrackingError, ImportError):
    """A feature was asked for whose package is not installed; the message has the install line."""

    def __init__(self, feature: str, package: str, install: str) -> None:
        """Say which ``feature`` needs which ``package`` and the exact line that installs it."""
        super().__init__(
            f"{feature} needs the package {package}, which is not installed. "
            f"Run: pip install {install}"
        )


class WriteError(ExperimentTrackingError, OSError):
    """The file system refused a write, and the tracker was told ``on_error="raise"``."""
