import pytest

from experiment_tracking import backends
from experiment_tracking.backends import BackendInterface, catalog
from experiment_tracking.backends.catalog import Target
from experiment_tracking.errors import (
    BackendError,
    BackendUnavailableError,
    InvalidTypeError,
    MissingPackageError,
)


class Here(BackendInterface):
    """An object of this process."""

    def start_run(self, run_name, config):
        pass

    def log_metrics(self, metrics, step):
        pass

    def log_model(self, model, path):
        pass


class Elsewhere(Here):
    """One that says that it can be made anew."""

    name = "elsewhere"

    def __init__(self, options):
        self.options = options


def test_ours_and_those_of_installed_packages_are_known_by_name(service):
    assert catalog.names() == ["mlflow", "wandb", "tensorboard", "tofile"]


def test_a_backend_is_made_from_its_name_and_options(service):
    assert catalog.make("tofile", {"token": "t"}).token == "t"


def test_an_unknown_name_is_refused_with_those_that_are_known(service):
    with pytest.raises(BackendError, match=r"'mlflow', 'wandb', 'tensorboard', 'tofile'"):
        catalog.make("tofyle", {})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mlfow", "Did you mean 'mlflow'?"),
        ("MLflow", "Did you mean 'mlflow'?"),
        ("W&B", "Did you mean 'wandb'?"),
        ("tofyle", "Did you mean 'tofile'?"),
        ("mlflow, wandb", "list, ['mlflow', 'wandb'], on the command line as --to mlflow --to wan"),
        (
            "http://me:hunter2@host",
            "'http://...' is an address, not a name. That of MLflow goes to",
        ),
    ],
)
def test_a_wrong_name_is_answered_with_what_was_probably_meant(service, name, told):
    for ask in (lambda: catalog.make(name, {}), lambda: catalog.join(name)):
        with pytest.raises(BackendError) as caught:
            ask()
        assert told in str(caught.value)
        assert "hunter2" not in str(caught.value)


def test_the_run_s_own_files_are_nothing_to_be_copied_to():
    with pytest.raises(BackendError, match="always written: nothing is to be copied"):
        catalog.make("files", {})
    with pytest.raises(BackendError, match="Did you mean 'files'"):
        catalog.join("file")


@pytest.mark.parametrize("what", [3, True, {"mlflow"}, {"mlflow": {}}, ["mlflow", 3]])
def test_what_has_none_of_the_methods_is_refused_with_what_is_allowed(what):
    with pytest.raises(
        BackendError, match=r"is not a backend\. Allowed are 'mlflow'.*lists of these"
    ):
        catalog.join(what)


@pytest.mark.parametrize("flag", ["use_mlflow", "use_wandb"])
def test_an_address_in_place_of_a_flag_is_not_taken_for_true(flag):
    with pytest.raises(InvalidTypeError, match=f"{flag} takes True or False") as caught:
        catalog.join(**{flag: "http://me:hunter2@host"})
    assert "hunter2" not in str(caught.value)


def test_a_backend_that_is_switched_off_is_left_out(service):
    class Off(Here):
        mode = "disabled"

    here = Here()
    joined = catalog.join([Off(), here, "tofile"])
    assert [bound.backend for bound in joined.bound] == [here]
    assert [target.name for target in joined.targets] == ["tofile"]


def test_wandb_that_its_variable_switches_off_is_left_out(monkeypatch):
    if not catalog.is_installed("wandb"):
        pytest.skip("needs pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert catalog.join(use_wandb=True) == ((), (), False)


def test_options_that_the_class_does_not_take_are_named(service):
    with pytest.raises(BackendError, match=r"these options \(colour\)"):
        catalog.make("tofile", {"colour": "red"})


def test_what_can_be_made_anew_follows_elsewhere_and_what_cannot_here(service):
    here, again = Here(), service.backend("t")
    joined = catalog.join([here, "tofile", again, None, "files"])
    options = {"folder": str(service.folder), "token": None}
    assert joined.targets == (
        Target("tofile", options, "tofile"),
        Target("tofile", options | {"token": "t"}, "tofile-2"),
    )
    assert [bound.backend for bound in joined.bound] == [here]
    assert not joined.event_files


def test_nothing_is_asked_for_by_default():
    for backend in (None, "files", ["files", None]):
        assert catalog.join(backend) == ((), (), False)


@pytest.mark.parametrize("backend", ["tensorboard", backends.TensorBoardBackend()])
def test_tensorboard_without_a_folder_is_the_run_s_own(backend):
    assert catalog.join([backend]) == ((), (), True)


def test_tensorboard_with_a_folder_is_a_backend(tmp_path):
    joined = catalog.join(backends.TensorBoardBackend(tmp_path))
    assert not joined.event_files
    assert len(joined.bound) + len(joined.targets) == 1


def test_options_under_a_name_that_nobody_offers_are_refused():
    with pytest.raises(BackendError, match="Offer it as an entry point"):
        catalog.join(Elsewhere({}))


def test_options_that_cannot_be_told_to_another_process_are_refused(service):
    backend = service.backend(object())
    with pytest.raises(BackendError, match="cannot be told to another process"):
        catalog.join(backend)


def test_a_flag_adds_nothing_to_what_was_passed_as_backend():
    if not catalog.is_installed("mlflow"):
        pytest.skip("needs pip install mlflow-skinny")
    backend = backends.MLflowBackend("http://localhost:5000", "mine")
    joined = catalog.join(backend, use_mlflow=True)
    assert [target.options["experiment_name"] for target in joined.targets] == ["mine"]
    with pytest.raises(BackendError, match="beside an MLflowBackend"):
        catalog.join(backend, tracking_uri="http://localhost:6000")


def test_an_address_goes_to_mlflow_and_asks_for_it():
    if not catalog.is_installed("mlflow"):
        pytest.skip("needs pip install mlflow-skinny")
    for options in ({}, {"use_mlflow": True}, {"backend": "mlflow"}):
        (target,) = catalog.join(**options, tracking_uri="http://localhost:5000").targets
        assert (target.name, target.options["tracking_uri"]) == ("mlflow", "http://localhost:5000")


def test_asking_every_backend_finds_one_that_does_not_answer(service):
    class Closed(Here):
        def check_connection(self):
            raise OSError("closed today")

    catalog.check_connections(catalog.join([Here(), service.backend()]))
    with pytest.raises(BackendError, match=r"'Closed' cannot be reached.*OSError: closed today"):
        catalog.check_connections(catalog.join(Closed()))


def test_a_backend_that_says_itself_what_is_wrong_is_quoted_alone():
    class Away(Here):
        def check_connection(self):
            raise BackendUnavailableError("host does not answer")

    with pytest.raises(BackendError, match=r"cannot be reached \(host does not answer\)"):
        catalog.check_connections(catalog.join(Away()))


def test_a_package_is_found_without_being_imported(tmp_path, monkeypatch):
    (tmp_path / "lone.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "wandb_runs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert catalog.is_installed("lone")
    assert not catalog.is_installed("wandb_runs")  # W&B leaves such a folder behind
    assert not catalog.is_installed("no_such_package")


def test_what_is_installed_is_told_by_the_package(monkeypatch):
    assert catalog.is_installed("mlflow") is backends.MLFLOW_AVAILABLE
    assert catalog.is_installed("wandb") is backends.WANDB_AVAILABLE
    monkeypatch.setattr(catalog, "is_installed", lambda package: package == "wandb")
    assert not backends.MLFLOW_AVAILABLE
    assert backends.WANDB_AVAILABLE


def test_a_misspelled_name_is_no_attribute():
    with pytest.raises(AttributeError):
        _ = backends.WandBackend


def test_a_package_that_is_missing_is_told_with_its_install_line(monkeypatch):
    from importlib import util

    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install"):
        catalog.make("wandb", {})


def test_a_run_has_one_copy_in_wandb(monkeypatch):
    wandb = pytest.importorskip("wandb", reason="pip install 'experiment_tracking[wandb]'")
    assert wandb
    monkeypatch.setenv("WANDB_MODE", "offline")
    two = [backends.WandbBackend(project="a"), backends.WandbBackend(project="b")]
    with pytest.raises(BackendError, match="is given twice"):
        catalog.to_targets(two)


def test_what_a_backend_advises_is_said_once(service, capsys):
    backend = service.backend()
    backend.advice = "this backend keeps to this machine"
    for _ in range(2):
        catalog.to_targets([backend])
    assert capsys.readouterr().err.count("keeps to this machine") == 1
