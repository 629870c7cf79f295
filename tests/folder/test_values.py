import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import json
import math
import pathlib
import typing
from unittest.mock import MagicMock, Mock

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_tracking.errors import InvalidNameError, InvalidTypeError, InvalidValueError
from experiment_tracking.folder.documents import encode
from experiment_tracking.folder.values import (
    RESERVED,
    check_metric_name,
    check_timestamp,
    from_stored,
    shown_name,
    stored_name,
    to_number,
    to_plain,
    to_row,
    to_step,
    to_stored,
)


def torch():
    return pytest.importorskip("torch", reason="pip install torch==2.13.0")


def jax_numpy():
    return pytest.importorskip("jax", reason="pip install jax").numpy


class Level(enum.IntEnum):
    LOW = 3


class Kind(enum.StrEnum):
    PINN = "pinn"


class Choice(enum.Enum):
    BOTH = ("a", 1)


class Refuses:
    """Raises whatever is asked of it (but what pytest asks)."""

    def __getattribute__(self, name):
        if name == "__class__":
            return Refuses
        raise ZeroDivisionError(name)

    def __repr__(self):
        raise ZeroDivisionError


class RaisesInFloat:
    def __float__(self):
        raise ZeroDivisionError("no")


class ShapeIsAMethod:
    def shape(self):
        return (3,)

    def __float__(self):
        return 2.5

    def __repr__(self):  # the name of a test, the same in each process
        return "ShapeIsAMethod()"


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1.5, 1.5), (3, 3), (True, 1), (False, 0), (-0.0, -0.0), (Level.LOW, 3),
        (decimal.Decimal("0.1"), 0.1), (fractions.Fraction(1, 4), 0.25), (ShapeIsAMethod(), 2.5),
        (2**63 - 1, 2**63 - 1), (-(2**63), -(2**63)), (2**63, 2.0**63), (-(2**70), -(2.0**70)),
        (np.float64(1.5), 1.5), (np.float32(0.5), 0.5), (np.float16(0.5), 0.5),
        (np.longdouble(0.5), 0.5), (np.int8(-3), -3), (np.uint64(2**64 - 1), float(2**64)),
        (np.bool_(True), 1), (np.array(2.5), 2.5), (np.array([2.5]), 2.5), (np.array([7]), 7),
    ],
    ids=repr,
)  # fmt: skip
def test_numbers_become_plain_ints_and_floats(value, number):
    found = to_number(value, "x")
    assert found == number
    assert type(found) is type(number)
    assert math.copysign(1, found) == math.copysign(1, number)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [float, np.float32, np.array, decimal.Decimal, lambda v: [v][0]])
def test_non_finite_numbers_are_numbers(value, kind):
    found = to_number(kind(value), "x")
    assert type(found) is float
    assert found == value or (math.isnan(value) and math.isnan(found))


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "bfloat16", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_torch_scalars_are_numbers(kind, shape):
    tensor = torch().ones(shape, dtype=getattr(torch(), kind))
    assert to_number(tensor, "x") == 1
    assert to_number(tensor.double().requires_grad_(), "x") == 1.0


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int32", "bool_"])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_jax_scalars_are_numbers(kind, shape):
    assert to_number(jax_numpy().ones(shape, dtype=kind.strip("_")), "x") == 1


def test_torch_and_jax_vectors_are_refused():
    for vector in (torch().ones(2), jax_numpy().ones(2)):
        with pytest.raises(InvalidTypeError, match=r"shape \(2,\)"):
            to_number(vector, "x")


def test_a_tensor_without_data_is_refused():
    with pytest.raises(InvalidTypeError, match="Tensor"):
        to_number(torch().ones((), device="meta"), "x")


def test_a_traced_jax_value_is_refused():
    jax = pytest.importorskip("jax", reason="pip install jax")

    with pytest.raises(InvalidTypeError, match="'x'"):
        jax.jit(lambda value: to_number(value, "x"))(1.0)


@pytest.mark.parametrize("shape", [(0,), (2,), (1, 1), (2, 3)])
def test_an_array_says_what_to_do_instead(shape):
    with pytest.raises(InvalidTypeError) as raised:
        to_number(np.zeros(shape), "loss")
    assert str(raised.value) == (
        f"Metric 'loss' is an array of shape {shape}; a metric is one number. Log loss.mean(), "
        "one name per element, or log_histogram(values, 'loss')."
    )


@pytest.mark.parametrize(
    "value", ["0.5", b"1", bytearray(b"1"), memoryview(b"1"), None, np.str_("1")]
)
def test_text_says_what_to_do_instead(value):
    with pytest.raises(InvalidTypeError, match=r"'x' is .* Keep text with log_param, log_text"):
        to_number(value, "x")


@pytest.mark.parametrize(
    "value",
    [
        1j, np.complex64(1), [1.0], (1.0,), {}, {1}, object(), RaisesInFloat(), Refuses(), 10**400,
        decimal.Decimal("sNaN"), np.array(["a"]), np.array([None]), Mock(),
        datetime.datetime.now(), int, np.float32, lambda: 1,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(InvalidTypeError, match="Metric 'x'") as raised:
        to_number(value, "x")
    assert isinstance(raised.value, TypeError)


@given(st.floats() | st.integers(-(2**63), 2**63 - 1))
def test_numbers_come_back_from_json_exact(value):
    found = from_stored(orjson.loads(orjson.dumps(to_stored(to_number(value, "x")))))
    assert type(found) is type(value)
    assert found == value or (value != value and found != found)


@pytest.mark.parametrize("stored", [None, True, "nan", "1", [], {}, "-NaN"])
def test_what_is_stored_and_no_number_is_none(stored):
    assert from_stored(stored) is None


# ---------------------------------------------------------------- names, steps, times


def test_reserved_names_are_stored_under_another_and_shown_as_given():
    for name in RESERVED:
        assert stored_name(name) == f"metric:{name}"
        assert shown_name(stored_name(name)) == name
    for name in ("loss", "train/loss", "metric:loss", "times"):
        assert shown_name(stored_name(name)) == name


@pytest.mark.parametrize("name", ["train/loss", "β", "a b", "line\nbreak", "}{", ":null", "\x00"])
def test_any_text_is_a_metric_name(name):
    assert check_metric_name(name) == name


@pytest.mark.parametrize("name", ["", "  ", None, 7, b"loss", ("a",), "half \ud800"])
def test_what_is_no_text_is_refused_as_a_metric_name(name):
    with pytest.raises(InvalidNameError, match="name"):
        check_metric_name(name)


@pytest.mark.parametrize(
    ("step", "whole"),
    [
        (7, 7), (-1, -1), (True, 1), (3.0, 3), (2**63 - 1, 2**63 - 1), (-(2**63), -(2**63)),
        (Level.LOW, 3), (np.int32(5), 5), (np.float32(5), 5), (np.float64(5), 5),
        (np.longdouble(5), 5), (np.array(5), 5), (np.array([5]), 5), (np.array([5.0]), 5),
        (np.bool_(True), 1),
    ],
    ids=repr,
)  # fmt: skip
def test_whole_numbers_are_steps(step, whole):
    assert to_step(step) == whole
    assert type(to_step(step)) is int


def test_torch_and_jax_scalars_are_steps():
    for tensor in (torch().tensor(5), torch().tensor([5.0]), jax_numpy().array(5)):
        assert to_step(tensor) == 5


@pytest.mark.parametrize(
    "step",
    [1.5, math.nan, math.inf, "7", None, [1], 1j, np.float64(1.5), np.array([1, 2]),
     np.ones((1, 1)), np.array([1.5]), object(), Refuses(), int],
    ids=lambda step: type(step).__name__,
)  # fmt: skip
def test_what_is_no_whole_number_is_refused_as_a_step(step):
    with pytest.raises(InvalidTypeError, match="step must be a whole number"):
        to_step(step)


@pytest.mark.parametrize("step", [2**63, -(2**63) - 1, 1e30, np.uint64(2**63), 10**400])
def test_a_step_beyond_64_bits_is_refused(step):
    with pytest.raises(InvalidValueError, match="64 bits"):
        to_step(step)


@pytest.mark.parametrize("seconds", [0, 1.5, 1763640000, np.float64(1763640000.5), 1e11])
def test_unix_seconds_are_timestamps(seconds):
    assert check_timestamp(seconds) == seconds
    assert type(check_timestamp(seconds)) is float


@pytest.mark.parametrize("wrong", [1763640000000, 1.1e11, -1, math.nan, math.inf])
def test_milliseconds_and_other_numbers_are_refused_as_timestamps(wrong):
    with pytest.raises(InvalidValueError, match="Divide milliseconds by 1000"):
        check_timestamp(wrong)


@pytest.mark.parametrize("wrong", ["now", datetime.datetime.now(), None])
def test_what_is_no_number_is_refused_as_a_timestamp(wrong):
    with pytest.raises(InvalidTypeError):
        check_timestamp(wrong)


def test_a_mapping_of_metrics_becomes_a_row():
    row, step = to_row({"loss": np.float32(0.5), "time": True, "nan": math.nan, "β": 2})
    assert row == {"loss": 0.5, "metric:time": 1, "nan": "NaN", "β": 2}
    assert step is None


def test_a_step_in_the_mapping_is_the_step():
    assert to_row({"step": np.array([3.0]), "x": 1}) == ({"x": 1}, 3)


@pytest.mark.parametrize("metrics", [{}, {"step": 1}])
def test_a_mapping_without_metrics_is_refused(metrics):
    with pytest.raises(InvalidValueError, match="no metric"):
        to_row(metrics)


@pytest.mark.parametrize("metrics", [None, 1.0, [("a", 1)], "loss"])
def test_what_is_no_mapping_says_what_to_write(metrics):
    with pytest.raises(InvalidTypeError, match=r"log_metrics\(\{'loss': value\}"):
        to_row(metrics)


# ---------------------------------------------------------------- params


@dataclasses.dataclass
class Config:
    rate: float
    layers: tuple[int, ...] = (1, 2)
    kind: typing.ClassVar[str] = "class"
    only_init: dataclasses.InitVar[int] = 0
    unset: int = dataclasses.field(init=False)


@dataclasses.dataclass
class OnlyInit:
    x: int
    given: dataclasses.InitVar[int]


class Point(typing.NamedTuple):
    x: int
    y: float


class Text(str):
    def __str__(self):
        return self


class Half(float):
    value = "not a number"


class Broken:
    def __repr__(self):
        raise ZeroDivisionError


class Plain:
    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text


def function():
    """Stand for a callable."""


HERE = __name__
CASES = [
    (None, None), (True, True), (7, 7), (2**70, 2**70), (1.5, 1.5), ("text", "text"),
    (math.nan, "NaN"), (-math.inf, "-Infinity"), ("half \ud800", "half \\ud800"),
    (Level.LOW, 3), (Kind.PINN, "pinn"), (Choice.BOTH, ["a", 1]), (Text("t"), "t"),
    (Half(0.5), 0.5),
    ([1, [2, (3,)]], [1, [2, [3]]]), ({"a": {"b": 1}}, {"a": {"b": 1}}),
    (collections.OrderedDict(a=1), {"a": 1}), (collections.Counter("aab"), {"a": 2, "b": 1}),
    ({1: "a", 2.5: "b", None: "c", False: "d"}, {"1": "a", "2.5": "b", "None": "c", "False": "d"}),
    ({Kind.PINN: 1, Choice.BOTH: 2, Level.LOW: 3}, {"pinn": 1, "['a', 1]": 2, "3": 3}),
    ({Text("t"): 1}, {"t": 1}),
    ({"b", "a"}, ["a", "b"]), (frozenset({2, 1}), [1, 2]), (set(), []),
    (Point(1, 2.5), {"x": 1, "y": 2.5}), (Point, f"{HERE}.Point"),
    (Config(0.1), {"rate": 0.1, "layers": [1, 2]}), (OnlyInit(1, 2), {"x": 1}),
    (Config, f"{HERE}.Config"),
    (pathlib.PurePosixPath("a/b"), "a/b"), (pathlib.PurePath, "pathlib.PurePath"),
    (datetime.date(2026, 1, 2), "2026-01-02"), (datetime.date, "datetime.date"),
    (datetime.datetime(2026, 1, 2, 3), "2026-01-02T03:00:00"), (datetime.time(1), "01:00:00"),
    (np.float32(0.5), 0.5), (np.float64(0.5), 0.5), (np.longdouble(0.5), 0.5), (np.int64(3), 3),
    (np.bool_(True), True), (np.str_("s"), "s"), (np.array(1.5), 1.5), (np.array([3]), 3),
    (np.float64("nan"), "NaN"), (np.datetime64("2026-01-02"), "2026-01-02"),
    (np.datetime64("NaT"), None), (np.complex64(1j), "1j"),
    (np.zeros((2, 3)), {"shape": [2, 3], "dtype": "float64"}),
    (np.array(["a", "b"]), {"shape": [2], "dtype": "<U1"}),
    (np.dtype("float32"), "float32"), (np.float32, "numpy.float32"), (int, "builtins.int"),
    (function, f"{HERE}.function"), (str.lower, "str.lower"), (len, "builtins.len"),
    (pathlib.PurePath.joinpath, "pathlib.PurePath.joinpath"),
    (Plain("here").__repr__, f"{HERE}.Plain.__repr__"),
    (b"bytes", "b'bytes'"), (1j, "1j"), (decimal.Decimal("0.1"), "Decimal('0.1')"),
    (range(3), "range(0, 3)"), (Plain("p"), "p"), (..., "Ellipsis"),
    (Broken(), "<Broken whose repr raised ZeroDivisionError>"),
    (Refuses(), "<Refuses whose repr raised ZeroDivisionError>"),
    ({"a": [Refuses()]}, {"a": ["<Refuses whose repr raised ZeroDivisionError>"]}),
    (10**5000, "<int whose repr raised ValueError>"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "plain"), CASES, ids=[f"{n} {type(v).__name__}" for n, (v, _) in enumerate(CASES)]
)
def test_params_take_a_plain_form_that_json_gives_back(value, plain):
    found = to_plain(value)
    assert found == plain
    assert type(found) is type(plain)
    assert json.loads(encode({"value": found})) == {"value": plain}


def test_objects_that_answer_every_question_are_kept_by_their_repr():
    assert to_plain(Mock(name="m")).startswith("<Mock name='m'")
    to_plain(MagicMock())


def test_a_partial_function_is_kept_by_its_repr():
    assert "functools.partial" in to_plain(functools.partial(function, 1))


def test_torch_values_take_a_plain_form():
    t = torch()
    assert to_plain(t.tensor(0.5)) == 0.5
    assert to_plain(t.tensor([3])) == 3
    assert to_plain(t.zeros(2, 3)) == {"shape": [2, 3], "dtype": "torch.float32"}
    assert to_plain(t.nn.Parameter(t.zeros(2))) == {"shape": [2], "dtype": "torch.float32"}
    assert to_plain(t.bfloat16) == "torch.bfloat16"
    assert to_plain(t.device("cpu")) == "cpu"
    assert to_plain(t.Size([2, 3])) == [2, 3]
    assert to_plain(t.optim.Adam) == "torch.optim.adam.Adam"
    assert to_plain(t.nn.Linear(2, 3)) == "Linear(in_features=2, out_features=3, bias=True)"
    assert "device='meta'" in to_plain(t.zeros((), device="meta"))


def test_jax_values_take_a_plain_form():
    jnp = jax_numpy()
    import jax

    assert to_plain(jnp.float32(0.5)) == 0.5
    assert to_plain(jnp.zeros((2, 3))) == {"shape": [2, 3], "dtype": "float32"}
    assert to_plain(jnp.zeros(2).dtype) == "float32"
    assert to_plain(jnp.zeros(2, "bfloat16").dtype) == "bfloat16"
    assert "float32" in to_plain(jnp.float32)
    assert "cpu" in to_plain(jax.devices()[0]).lower()
    assert "tanh" in to_plain(jnp.tanh)


def test_a_long_repr_is_cut_and_told_once_by_its_name():
    cuts = []
    plain = to_plain({"model": [Plain("é" * 5000), Plain("é" * 1000)]}, "params", cuts.append)
    assert plain["model"][0] == "é" * 999 + "…"
    assert plain["model"][1] == "é" * 1000
    assert cuts == ["params.model[0]"]


def test_long_text_is_kept_whole():
    assert to_plain("x" * 5000) == "x" * 5000


def _cyclic_list():
    value = [1]
    value.append({"a": value})
    return value


def _cyclic_dict():
    value = {}
    value["self"] = [value]
    return value


def _cyclic_dataclass():
    value = Config(0.1)
    value.layers = [value]
    return value


@pytest.mark.parametrize("make", [_cyclic_list, _cyclic_dict, _cyclic_dataclass])
def test_a_container_that_holds_itself_is_refused(make):
    with pytest.raises(InvalidValueError, match="holds itself"):
        to_plain(make())


def test_the_same_container_twice_is_no_cycle():
    shared = [1]
    assert to_plain([shared, {"a": shared}, shared]) == [[1], {"a": [1]}, [1]]


def test_fifty_levels_are_kept_and_one_more_is_refused():
    value = 0
    for _ in range(50):
        value = [value]
    assert to_plain(value) == value
    with pytest.raises(InvalidValueError, match="deeper than 50"):
        to_plain([value])


@pytest.mark.parametrize("value", [{"half \ud800": 1}, {"a": {"half \ud800": 1}}])
def test_a_key_that_is_no_valid_text_is_refused(value):
    with pytest.raises(InvalidNameError, match="half a surrogate pair"):
        to_plain(value)


_params = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.dates(),
        st.decimals(), st.complex_numbers(), st.sampled_from([np.float32(1), Level.LOW, Config]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner),
        st.dictionaries(st.integers() | st.none() | st.dates() | st.just("k"), inner, max_size=3),
        st.frozensets(st.integers() | st.text(), max_size=3),
    ),
    max_leaves=10,
)  # fmt: skip


@given(_params)
def test_any_params_are_encoded_and_plain_ones_stay(value):
    plain = to_plain(value)
    assert to_plain(plain) == plain
    assert json.loads(encode({"value": plain})) == {"value": plain}
