import copy
import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install torch")
pytest.importorskip("sklearn", reason="pip install scikit-learn")

from sklearn.datasets import load_digits  # noqa: E402
from torch import nn  # noqa: E402

from experiment_tracking.errors import (  # noqa: E402
    InvalidTypeError,
    InvalidValueError,
    NotFoundError,
)
from experiment_tracking.formats.models.torch import unwrapped  # noqa: E402
from experiment_tracking.registry.record import RunRecord  # noqa: E402


@functools.cache
def digits():
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


class Net(nn.Module):
    """A small network for digits, with buffers, dropout and parts within parts."""

    def __init__(self, hidden=32):
        super().__init__()
        self.body = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Flatten(), nn.Sequential(nn.Linear(144, hidden), nn.Dropout(0.2)),
        )  # fmt: skip
        self.head = nn.Linear(hidden, 10)

    def forward(self, x):
        return self.head(self.body(x))


class Tied(nn.Module):
    """What it reads by it writes by."""

    def __init__(self):
        super().__init__()
        self.read, self.write = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
        self.write.weight = self.read.weight

    def forward(self, ids):
        return self.write(self.read(ids))


def train(model, optimizer, steps=4, scheduler=None):
    images, labels = digits()
    losses = []
    for step in range(steps):
        some = slice(64 * step, 64 * step + 64)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[some]), labels[some])
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.item())
    return losses


@functools.cache
def trained_once():
    torch.manual_seed(0)
    model = Net()
    train(model, torch.optim.Adam(model.parameters()))
    return model


@pytest.fixture
def trained():
    return copy.deepcopy(trained_once())


@pytest.fixture
def log(make):
    """Log a model in a run of its own, and read that run."""

    def log(model, **asked):
        with make("digits").start_run() as run:
            run.log_model(model, **asked)
        return RunRecord(run.path)

    return log


def assert_same_bits(state, other):
    assert list(state) == list(other)
    for name, tensor in state.items():
        assert tensor.dtype == other[name].dtype, name
        assert tensor.shape == other[name].shape, name
        assert bits(tensor) == bits(other[name]), name


def bits(tensor):
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


# ---------------------------------------------------------------------- weights


def test_a_module_comes_back_bit_for_bit(log, trained):
    record = log(trained)
    assert_same_bits(record.load_model(), trained.state_dict())
    fresh = Net()
    assert record.load_model(into=fresh) is fresh
    assert_same_bits(fresh.state_dict(), trained.state_dict())


def test_a_saved_module_is_described(log, trained):
    saved = log(trained).saved_model()
    document = saved.document
    assert document["framework"] == "torch"
    assert document["class"].endswith(".Net")
    assert document["parameter_count"] == sum(p.numel() for p in trained.parameters())
    assert document["versions"]["torch"] == torch.__version__
    assert set(document["files"]) == {"weights"}


def test_weights_come_as_numpy_where_that_is_wished(log, trained):
    state = log(trained).load_model(as_numpy=True)
    assert all(isinstance(array, np.ndarray) for array in state.values())
    np.testing.assert_array_equal(state["head.weight"], trained.head.weight.detach())


def test_tied_weights_are_stored_once_and_stay_tied(log):
    torch.manual_seed(0)
    model = Tied()
    record = log(model)
    document = record.saved_model().document
    assert document["parameter_count"] == 80
    assert len(document["files"]["weights"]["tensors"]) == 1
    fresh = record.load_model(into=Tied())
    assert fresh.write.weight is fresh.read.weight
    assert_same_bits(fresh.state_dict(), model.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64])
def test_parameters_of_smaller_and_stranger_dtypes_come_back_bit_for_bit(log, dtype):
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    values = model.weight.detach().to(dtype)
    model.weight = nn.Parameter(values, requires_grad=False)
    record = log(model)
    fresh = nn.Linear(5, 3)
    fresh.weight = nn.Parameter(torch.zeros(3, 5).to(dtype), requires_grad=False)
    assert_same_bits(record.load_model(into=fresh).state_dict(), model.state_dict())
    assert_same_bits(record.load_model(), model.state_dict())


def test_weights_that_are_views_of_others_come_back_whole(log):
    whole = torch.arange(24.0).reshape(4, 6)
    model = nn.Module()
    model.register_buffer("columns", whole.t())
    model.register_buffer("every_other", whole[:, ::2])
    model.register_buffer("empty", torch.zeros(0, 3))
    state = log(model).load_model()
    assert torch.equal(state["columns"], whole.t())
    assert torch.equal(state["every_other"], whole[:, ::2])
    assert state["empty"].shape == (0, 3)


def test_a_module_without_weights_is_kept(log):
    record = log(nn.ReLU())
    assert record.load_model() == {}
    assert record.saved_model().document["parameter_count"] == 0
    assert isinstance(record.load_model(into=nn.ReLU()), nn.ReLU)


class Counting(nn.Module):
    """Keeps more than tensors in its state."""

    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def get_extra_state(self):
        return self.counts

    def set_extra_state(self, state):
        self.counts = state


def test_plain_extra_state_comes_back(log):
    counts = {"seen": 3, "classes": ["a", "b"], "mean": (0.1, None)}
    assert log(Counting(counts)).load_model(into=Counting({})).counts == counts


def test_extra_state_that_needs_pickle_is_refused_with_its_place(log):
    with pytest.raises(InvalidTypeError, match=r"_extra_state/when.*allow_unsafe=True"):
        log(Counting({"when": {1, 2}}))


def test_tensors_that_no_state_has_are_told_once(log, capsys):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
            self.scale = torch.ones(2)

    capsys.readouterr()
    log(Scaled())
    log(Scaled())
    (told,) = [line for line in capsys.readouterr().err.splitlines() if ": run " not in line]
    assert "Scaled holds tensors that are not saved" in told
    assert "buffers: scale. If" in told


def test_what_is_wrapped_is_kept_and_loaded_without_its_wrappers(log, trained):
    wrapped = nn.DataParallel(torch.compile(trained, backend="eager"))
    record = log(wrapped)
    assert record.saved_model().document["class"].endswith(".Net")
    assert_same_bits(record.load_model(), trained.state_dict())
    into = torch.compile(Net(), backend="eager")
    assert record.load_model(into=into) is into
    assert_same_bits(unwrapped(into).state_dict(), trained.state_dict())


def test_a_distributed_module_is_unwrapped(log, trained, tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        record = log(nn.parallel.DistributedDataParallel(trained))
    finally:
        torch.distributed.destroy_process_group()
    assert_same_bits(record.load_model(), trained.state_dict())


# ---------------------------------------------------------------------- what does not fit


def test_other_names_and_shapes_are_told_and_nothing_is_written(log, trained):
    record = log(trained)
    other = Net(hidden=16)
    other.extra = nn.Linear(2, 2)
    other.body[2] = nn.BatchNorm2d(4, affine=False)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(InvalidValueError) as raised:
        record.load_model(into=other)
    message = str(raised.value)
    assert "extra.weight, extra.bias missing" in message
    assert "body.2.weight, body.2.bias unexpected" in message
    assert "body.5.0.weight (32, 144), into= has (16, 144)" in message
    assert_same_bits(other.state_dict(), before)


def test_many_differences_are_counted_and_not_all_named(log):
    record = log(nn.Linear(2, 2))
    with pytest.raises(InvalidValueError, match=r"\d+ more missing") as raised:
        record.load_model(into=Net())
    assert len(str(raised.value)) < 600


def test_another_dtype_is_converted_and_told_once(log, trained, capsys):
    record = log(trained)
    capsys.readouterr()
    half = record.load_model(into=Net().half())
    assert half.head.weight.dtype == torch.float16
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "from torch.float32 to torch.float16" in told


def test_a_module_without_memory_is_refused(log, trained):
    with torch.device("meta"):
        empty = Net()
    with pytest.raises(InvalidValueError, match="to_empty"):
        log(trained).load_model(into=empty)


def test_something_other_than_a_module_is_refused(log, trained):
    with pytest.raises(InvalidTypeError, match=r"torch\.nn\.Module"):
        log(trained).load_model(into={})


def test_modules_are_told_how_their_state_was_laid_out(log):
    class Converting(nn.Module):
        _version = 2

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def _load_from_state_dict(self, state, prefix, metadata, *rest):
            assert metadata["version"] == 2
            super()._load_from_state_dict(state, prefix, metadata, *rest)

    log(nn.Sequential(Converting())).load_model(into=nn.Sequential(Converting()))


def test_another_version_of_torch_is_told(log, trained, monkeypatch, capsys):
    record = log(trained)
    monkeypatch.setattr(torch, "__version__", "9.0")
    record.load_model()
    assert "saved with torch" in capsys.readouterr().err


# ---------------------------------------------------------------------- optimizer, scheduler


def test_training_goes_on_from_a_saved_optimizer_as_if_never_stopped(log):
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
    train(model, optimizer, scheduler=scheduler)
    record = log(model, optimizer=optimizer, scheduler=scheduler)

    again = record.load_model(into=Net())
    resumed = torch.optim.Adam(again.parameters(), lr=1.0, amsgrad=True)
    rest = torch.optim.lr_scheduler.LambdaLR(resumed, lambda step: 0.9**step)
    saved = record.saved_model()
    assert saved.load_optimizer(into=resumed, scheduler=rest) is resumed
    for number, state in optimizer.state_dict()["state"].items():
        assert_same_bits(resumed.state_dict()["state"][number], state)
    assert rest.state_dict() == scheduler.state_dict()

    torch.manual_seed(1)
    expected = train(model, optimizer, scheduler=scheduler)
    torch.manual_seed(1)
    assert train(again, resumed, scheduler=rest) == expected
    assert rest.get_last_lr() == scheduler.get_last_lr()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad])
def test_the_state_of_another_kind_of_optimizer_is_refused_at_once(log, trained, kind):
    optimizer = torch.optim.Adam(trained.parameters())
    train(trained, optimizer, steps=1)
    saved = log(trained, optimizer=optimizer).saved_model()
    with pytest.raises(InvalidValueError, match="another kind of optimizer"):
        saved.load_optimizer(into=kind(trained.parameters(), lr=0.1))


def test_the_state_of_an_optimizer_of_other_shapes_is_refused_at_once(log, trained):
    optimizer = torch.optim.Adam(trained.parameters())
    train(trained, optimizer, steps=1)
    saved = log(trained, optimizer=optimizer).saved_model()
    others = [torch.nn.Parameter(torch.zeros(3)) for _ in trained.parameters()]
    with pytest.raises(InvalidValueError, match=r"exp_avg of parameter 0 is .* found \(3,\)"):
        saved.load_optimizer(into=torch.optim.Adam(others))


def test_what_is_no_optimizer_is_refused_before_anything_is_written(log, trained):
    with pytest.raises(InvalidTypeError, match=r"optimizer= or scheduler= is a \w+\. Pass one"):
        log(trained, optimizer=trained)
    with pytest.raises(InvalidValueError, match="belongs to an optimizer"):
        log(trained, scheduler=object())


def test_an_optimizers_state_comes_without_the_optimizer(log, trained):
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1, momentum=0.9)
    train(trained, optimizer, steps=1)
    states = log(trained, optimizer=optimizer).saved_model().load_optimizer()
    assert states["scheduler"] is None
    assert states["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 1, 3]),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.5, total_steps=9),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [
                torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=2),
                torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
            ],
            milestones=[2],
        ),
    ],
)
def test_schedulers_go_on_where_they_were(log, schedule):
    def made():
        model = nn.Linear(64, 10)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, schedule(optimizer)

    model, optimizer, scheduler = made()
    train(model, optimizer, steps=2, scheduler=scheduler)
    saved = log(model, optimizer=optimizer, scheduler=scheduler).saved_model()
    model2, optimizer2, scheduler2 = made()
    saved.load_optimizer(into=optimizer2, scheduler=scheduler2)
    assert type(vars(scheduler2).get("milestones")) is type(vars(scheduler).get("milestones"))
    for _ in range(3):
        assert scheduler2.get_last_lr() == scheduler.get_last_lr()
        train(model, optimizer, steps=1, scheduler=scheduler)
        train(model2, optimizer2, steps=1, scheduler=scheduler2)


def test_state_that_needs_pickle_is_refused_with_what_to_do(log, trained):
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    optimizer.param_groups[0]["names"] = {"a", "b"}
    with pytest.raises(InvalidTypeError, match=r"param_groups/0/names.*state_dict\(\) give"):
        log(trained, optimizer=optimizer)
    with pytest.raises(InvalidTypeError, match=r"is a str\. Pass one of torch's"):
        log(trained, optimizer="adam")


def test_an_optimizer_of_other_parameters_is_refused(log, trained):
    optimizer = torch.optim.Adam(trained.parameters())
    saved = log(trained, optimizer=optimizer).saved_model()
    with pytest.raises(InvalidValueError, match="does not fit the SGD"):
        saved.load_optimizer(into=torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    with pytest.raises(InvalidValueError, match="scheduler was not saved"):
        saved.load_optimizer(scheduler=scheduler)


def test_a_model_without_its_optimizer_says_so(log, trained):
    with pytest.raises(NotFoundError, match="without optimizer"):
        log(trained).saved_model().load_optimizer()


# ---------------------------------------------------------------------- computing


def test_saving_leaves_the_model_and_the_random_numbers_as_they_were(log, trained):
    images, labels = digits()
    nn.functional.cross_entropy(trained(images[:8]), labels[:8]).backward()
    trained.body.eval()
    trained.body[5].train()
    modes = [module.training for module in trained.modules()]
    before = copy.deepcopy(trained.state_dict())
    gradient, random = trained.head.weight.grad.clone(), torch.get_rng_state()
    log(trained, input_example=images[:4].numpy())
    assert [module.training for module in trained.modules()] == modes
    assert torch.equal(trained.head.weight.grad, gradient)
    assert torch.equal(torch.get_rng_state(), random)
    assert not trained._forward_hooks
    assert_same_bits(trained.state_dict(), before)


def test_an_example_gives_signature_and_time(log):
    model = nn.Linear(64, 10).to(torch.bfloat16)
    document = log(model, input_example=digits()[0][:4].double().numpy()).saved_model().document
    assert document["inference_device"] == "cpu"
    assert document["inference_time_ms"] > 0
    assert document["signature"]["inputs"] == [
        {"name": "input", "dtype": "float64", "shape": [-1, 64]}
    ]
    assert document["signature"]["outputs"] == [
        {"name": "output", "dtype": "bfloat16", "shape": [-1, 10]}
    ]


def test_an_example_that_the_model_cannot_be_called_with_is_refused(log, trained, capfd):
    with pytest.raises(InvalidValueError, match=r"Net cannot be computed on the example \(Runtime"):
        log(trained, input_example=np.ones((2, 63), np.float32))
    assert "without a program" not in capfd.readouterr().err


class Branching(nn.Module):
    """Does what no graph says: it depends on the numbers."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x * self.scale if x.sum() > 0 else x


def test_a_model_that_cannot_be_exported_is_kept_without_program(log, capfd):
    model = Branching()
    saved = log(model, input_example=np.ones((2, 3), np.float32)).saved_model()
    _, told = capfd.readouterr().err.splitlines()  # after the line that names the run
    assert "saved without a program" in told
    assert "data-dependent" in told
    assert set(saved.document["files"]) == {"weights", "example"}
    assert_same_bits(saved.load(), model.state_dict())
    with pytest.raises(InvalidValueError, match="no program"):
        saved.load_program()
