import os
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from experiment_tracking.capture.seeds import MAX_SEED, SEED_VARIABLE, Seeds, seed_everything
from experiment_tracking.errors import InvalidTypeError, InvalidValueError


@pytest.fixture(autouse=True)
def _no_seed_set(monkeypatch):
    monkeypatch.delenv(SEED_VARIABLE, raising=False)


def numbers():
    return random.random(), np.random.rand()


def seeded_after(imports):
    """What a fresh process seeds, and which libraries it has loaded then."""
    code = (
        f"import sys\n{imports}\n"
        "from experiment_tracking.capture.seeds import seed_everything\n"
        "print(*seed_everything(1).seeded)\n"
        "print(*{'numpy', 'torch', 'jax', 'tensorflow'} & set(sys.modules))"
    )
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("seed", [0, 7, MAX_SEED])
def test_the_same_seed_gives_the_same_numbers(seed):
    seed_everything(seed)
    first = numbers()
    assert numbers() != first
    seed_everything(seed)
    assert numbers() == first


def test_another_seed_gives_other_numbers_in_every_library():
    seed_everything(1)
    first = numbers()
    seed_everything(2)
    assert all(a != b for a, b in zip(first, numbers(), strict=True))


def test_the_numbers_are_those_of_the_libraries_own_seeding():
    seed_everything(5)
    assert numbers() == (random.Random(5).random(), np.random.RandomState(5).rand())


def test_torch_is_seeded():
    torch = pytest.importorskip("torch", reason="pip install torch==2.13.0")
    assert "torch" in seed_everything(5).seeded
    expected = torch.rand(3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(torch.rand(3), expected)


def test_jax_is_named_and_the_returned_seed_makes_its_key():
    jax = pytest.importorskip("jax", reason="pip install jax")
    seeds = seed_everything(MAX_SEED)
    assert "jax" in seeds.seeded
    assert jax.random.key(seeds.seed).shape == ()


def test_tensorflow_is_seeded_globally(monkeypatch):
    # A stand-in: the real one is half a gigabyte for one call.
    calls = []
    stand_in = SimpleNamespace(random=SimpleNamespace(set_seed=calls.append))
    monkeypatch.setitem(sys.modules, "tensorflow", stand_in)
    assert "tensorflow" in seed_everything(5).seeded
    assert calls == [5]


def test_a_library_that_is_not_loaded_is_not_loaded_for_it():
    assert seeded_after("") == [["random"], []]
    assert seeded_after("import numpy") == [["random", "numpy"], ["numpy"]]


def test_the_seeds_are_plain_values_for_json():
    assert Seeds(3, ("random", "numpy")).to_dict() == {"seed": 3, "seeded": ["random", "numpy"]}


def test_processes_that_name_no_seed_get_different_ones():
    assert len({seed_everything().seed for _ in range(3)}) > 1
    assert all(0 <= seed_everything().seed <= MAX_SEED for _ in range(20))


def test_a_drawn_seed_brings_its_numbers_back():
    drawn = seed_everything().seed
    first = numbers()
    seed_everything(drawn)
    assert numbers() == first


def test_the_variable_names_the_seed_only_where_the_caller_does_not(monkeypatch):
    monkeypatch.setenv(SEED_VARIABLE, "123")
    assert seed_everything().seed == 123
    assert seed_everything(4).seed == 4
    monkeypatch.setenv(SEED_VARIABLE, "")
    assert seed_everything(4).seed == 4


@pytest.mark.parametrize("text", ["x", "1.5", "-1", "²", "4294967296"])
def test_a_variable_that_is_no_seed_is_refused_with_what_is_allowed(monkeypatch, text):
    monkeypatch.setenv(SEED_VARIABLE, text)
    state = random.getstate()
    with pytest.raises(InvalidValueError, match=r"0 to 4294967295"):
        seed_everything()
    assert random.getstate() == state


@pytest.mark.parametrize("seed", [np.int64(9), np.uint8(9), np.array(9)])
def test_integers_of_other_libraries_are_seeds_too(seed):
    found = seed_everything(seed)
    assert (found.seed, type(found.seed)) == (9, int)


@pytest.mark.parametrize("seed", [True, False, np.True_, 1.0, "1", np.float64(1), np.array([1, 2])])
def test_what_is_no_integer_is_refused_by_its_type(seed):
    with pytest.raises(InvalidTypeError, match=f"type {type(seed).__name__}.*0 to 4294967295"):
        seed_everything(seed)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 2**64])
def test_an_integer_out_of_range_is_refused(seed):
    with pytest.raises(InvalidValueError, match=f"Cannot seed with {seed}:.*0 to 4294967295"):
        seed_everything(seed)
