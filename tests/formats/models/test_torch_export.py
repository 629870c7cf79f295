import warnings
from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install torch")

from torch import nn  # noqa: E402

from experiment_tracking.errors import InvalidValueError  # noqa: E402


def test_the_same_program_gives_the_same_file(saved):
    example = np.ones((2, 3), np.float32)
    model = nn.Linear(3, 2)
    first, second = (
        saved(model, input_example=example).document["files"]["program"] for _ in range(2)
    )
    assert first["sha256"] == second["sha256"]


class Fixed(nn.Module):
    """Holds the batch to a number."""

    def forward(self, x):
        return x.reshape(4, 3).t() @ x.new_ones(4, 1)


def test_a_model_of_one_batch_size_gives_a_static_program(saved):
    kept = saved(Fixed(), input_example=np.ones((4, 3)))
    assert kept.document["files"]["program"]["batch"] == "static"
    program = kept.load_program()
    assert program(np.ones((4, 3))).tolist() == [[4], [4], [4]]
    with pytest.raises(InvalidValueError, match=r"takes \(4, 3\)"):
        program(np.ones((5, 3)))


class Branching(nn.Module):
    """Asks for the size of its batch."""

    def __init__(self, asks):
        super().__init__()
        self.asks = asks

    def forward(self, x, y):
        return x.sum() + y.sum() if self.asks(x.shape[0], y.shape[0]) else x.sum() - y.sum()


def test_a_program_refuses_batches_for_which_the_model_computes_in_another_way(saved):
    example = {"x": np.ones((2, 3)), "y": np.ones((3, 3))}
    kept = saved(Branching(lambda x, y: x > 4), input_example=example)
    assert kept.document["files"]["program"]["batch"] == "dynamic"
    assert kept.load_program()(np.ones((4, 3)), np.ones((1, 3))) == 9
    with pytest.raises(InvalidValueError, match=r"'x': found size 5 in axis 0, .+ takes 0 to 4"):
        kept.load_program()(np.ones((5, 3)), np.ones((1, 3)))
    example["y"] = np.ones((2, 3))
    kept = saved(Branching(lambda x, y: x == y), input_example=example)
    assert kept.load_program()(np.ones((4, 3)), np.ones((4, 3))) == 24
    with pytest.raises(InvalidValueError, match=r"'y': found size 3 in axis 0, .* 4, as elsewhere"):
        kept.load_program()(np.ones((4, 3)), np.ones((3, 3)))


@pytest.mark.parametrize("asks", [lambda x, y: x % 2, lambda x, y: x > y])
def test_a_batch_of_which_only_code_could_say_what_it_may_be_is_static(saved, asks):
    kept = saved(Branching(asks), input_example={"x": np.ones((2, 3)), "y": np.ones((3, 3))})
    assert kept.document["files"]["program"]["batch"] == "static"
    with pytest.raises(InvalidValueError, match=r"takes \(2, 3\)"):
        kept.load_program()(np.ones((4, 3)), np.ones((3, 3)))


class Otherwise(nn.Module):
    """Is exported as something else than it computes; gives a class of its own."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        x += 1
        return Outputs(x if torch.compiler.is_compiling() else x * self.factor)


@dataclass
class Outputs:
    """What a model may give."""

    logits: torch.Tensor


@pytest.mark.parametrize(("factor", "told"), [(1, ""), (2, "other numbers than the model (by 50%")])
def test_a_program_that_gives_other_numbers_than_its_model_is_told(saved, capsys, factor, told):
    example = torch.ones(2, 3)
    kept = saved(Otherwise(factor), input_example=example)
    told_of = [line for line in capsys.readouterr().err.splitlines() if ": run " not in line]
    assert len(told_of) == bool(told)
    assert told in "".join(told_of)
    assert kept.load_program()(example.numpy())["logits"].tolist() == [[2] * 3] * 2
    assert kept.document["signature"]["outputs"][0]["name"] == "logits"
    assert example.tolist() == [[1] * 3] * 2  # computed in place on copies


def test_a_model_that_uses_what_a_program_may_not_is_kept_without(saved, capsys):
    @torch.library.custom_op("experiment_tracking_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(torch.empty_like)

    class Own(nn.Module):
        def forward(self, x):
            return twice(x)

    kept = saved(Own(), input_example=np.ones((2, 2)))
    assert "'torch.ops.experiment_tracking_test.twice.default'" in capsys.readouterr().err
    assert "program" not in kept.document["files"]


def test_torchscript_is_kept_without_and_told_so(saved, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.script(nn.Linear(3, 2))
    assert "program" not in saved(script, input_example=np.ones((2, 3))).document["files"]
    assert "log the module that it was made of" in capsys.readouterr().err


@pytest.mark.parametrize("version", [(9, 1), 4])  # a number until torch 2.3
def test_a_torch_that_writes_another_schema_keeps_no_program(saved, capsys, monkeypatch, version):
    monkeypatch.setattr(torch._export.serde.schema, "SCHEMA_VERSION", version)
    kept = saved(nn.Linear(3, 2), input_example=np.ones((2, 3)))
    assert f"writes schema {version}" in capsys.readouterr().err
    assert "program" not in kept.document["files"]
