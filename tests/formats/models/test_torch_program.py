import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install torch")
pytest.importorskip("sklearn", reason="pip install scikit-learn")

from sklearn.datasets import load_digits  # noqa: E402
from torch import nn  # noqa: E402

from experiment_tracking.errors import (  # noqa: E402
    DamagedError,
    InvalidTypeError,
    InvalidValueError,
)
from experiment_tracking.formats.models.saved import SavedModel  # noqa: E402
from experiment_tracking.formats.models.torch_program import Program  # noqa: E402
from experiment_tracking.tracker import ExperimentTracker  # noqa: E402

REPOSITORY = str(Path(__file__).parents[3])


class Net(nn.Module):
    """A small network for digits; it has what behaves otherwise in training."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Flatten(), nn.Dropout(), nn.Linear(144, 10),
        )  # fmt: skip
        self.register_buffer("shift", torch.ones(10), persistent=False)

    def forward(self, x):
        return {"logits": self.body(x) + self.shift, "batch": x.shape[0]}


def trained():
    torch.manual_seed(0)
    data = load_digits()
    images = torch.tensor(data.data / 16, dtype=torch.float32)
    model, labels = Net(), torch.tensor(data.target)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for start in range(0, 320, 64):
        optimizer.zero_grad()
        logits = model(images[start : start + 64])["logits"]
        nn.functional.cross_entropy(logits, labels[start : start + 64]).backward()
        optimizer.step()
    return model, images.numpy()


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A model trained and logged once, with images to ask it about."""
    root = tmp_path_factory.mktemp("logged")
    model, images = trained()
    tracker = ExperimentTracker("digits", root=root, use_tensorboard=False, auto_log=False)
    with tracker.start_run("a") as run:
        folder = run.log_model(model, input_example=images[:1].astype(float))
    return model, images, folder


@pytest.fixture
def keep(make):
    """Log a model with an example; return it as it was saved."""

    def keep(model, example):
        with make("p").start_run() as run:
            return SavedModel(run.log_model(model, input_example=example))

    return keep


def computed(model, *args, **named):
    with torch.no_grad():
        return model.eval()(*args, **named)


# ---------------------------------------------------------------------- computing


_FRESH = """
import sys
import numpy as np
from experiment_tracking.registry.registry import ExperimentRegistry
program = ExperimentRegistry(sys.argv[1]).get("digits/a").saved_model().load_program()
outputs = program(np.load(sys.argv[2]))
assert outputs["batch"] == 33
assert not {"sklearn", "pytest"} & set(sys.modules)
np.save(sys.argv[3], outputs["logits"])
"""


def test_a_program_gives_the_same_in_a_process_without_the_models_code(logged, tmp_path):
    model, images, folder = logged
    np.save(tmp_path / "in.npy", images[:33])
    given = [folder.parents[3], tmp_path / "in.npy", tmp_path / "out.npy"]
    environment = os.environ | {"PYTHONPATH": REPOSITORY}
    subprocess.run([sys.executable, "-c", _FRESH, *given], env=environment, check=True)
    expected = computed(model, torch.from_numpy(images[:33]))["logits"].numpy()
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_an_example_of_one_gives_a_program_for_any_number(logged):
    model, images, folder = logged
    saved = SavedModel(folder)
    assert saved.document["files"]["program"]["batch"] == "dynamic"
    program = saved.load_program()
    for count in (1, 2, 7):
        outputs = program(images[:count])
        expected = computed(model, torch.from_numpy(images[:count]))
        np.testing.assert_array_equal(outputs["logits"], expected["logits"])
        assert outputs["batch"] == count


def test_tensors_and_other_floats_go_in_as_well(logged):
    _, images, folder = logged
    program = SavedModel(folder).load_program()
    outputs = program(x=torch.from_numpy(images[:2]))["logits"]
    np.testing.assert_array_equal(outputs, program(images[:2].astype(np.float64))["logits"])


def test_the_file_is_one_that_torch_itself_opens_and_without_any_pickle(logged):
    model, images, folder = logged
    (path,) = folder.glob("program-*.pt2")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "load", None)
        program = torch.export.load(path)
    two = torch.from_numpy(images[:2])
    torch.testing.assert_close(program.module()(two), computed(model, two))


Pair = namedtuple("Pair", "first second")


class Manner(nn.Module):
    """Takes and gives trees, and computes in ways of its own."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.out = nn.Linear(4, 5, bias=False)
        self.out.weight = self.table.weight

    def forward(self, ids, *, extra, times, scale=None):
        hidden = self.table(ids).mean(1)
        hidden += extra["a"][0]
        with torch.autocast("cpu", torch.bfloat16):
            low = self.out(hidden)
        with torch.no_grad():
            best = hidden.topk(2)
        either = torch.cond(hidden.sum() > 0, lambda h: h + 1, lambda h: h - 1, (hidden,))
        extra["a"][0].zero_()
        return Pair(best, [low, either * times]), scale, torch.full((1,), float("inf"))


def test_trees_branches_autocast_and_constants_are_computed(keep):
    torch.manual_seed(0)
    model = Manner()

    def asked(count, sign):
        a = np.full((count, 4), sign, np.float32)
        return {"ids": np.arange(2 * count).reshape(count, 2) % 5, "extra": {"a": [a]}, "times": 3}

    program = keep(model, asked(2, 3.0)).load_program()
    for given in (asked(2, 3.0), asked(3, -3.0)):
        tensors = given | {"ids": torch.tensor(given["ids"])}
        tensors["extra"] = {"a": [torch.tensor(given["extra"]["a"][0])]}
        (best, (low, either)), scale, endless = computed(model, **tensors)
        outputs, nothing, infinite = program(**given)
        np.testing.assert_array_equal(outputs[0][0], best.values)
        np.testing.assert_array_equal(outputs[0][1], best.indices)
        np.testing.assert_array_equal(outputs[1][0], low.float())
        np.testing.assert_array_equal(outputs[1][1], either)
        assert (nothing, scale) == (None, None)
        assert infinite == endless
        assert given["extra"]["a"][0].any()  # what the model overwrote was a copy


def test_arguments_that_are_not_as_the_examples_are_refused(logged, keep):
    _, images, folder = logged
    program = SavedModel(folder).load_program()
    with pytest.raises(InvalidValueError, match=r"'x': found shape \(2, 63\).*\(any, 64\)"):
        program(images[:2, :63])
    with pytest.raises(InvalidTypeError, match=r"takes \(x\); found 2 by place"):
        program(images, images)
    with pytest.raises(InvalidTypeError, match=r"takes \(x\); found 0 by place and y by name"):
        program(y=images)
    with pytest.raises(InvalidTypeError, match=r"complex64, the program takes torch\.float32"):
        program(images.astype(np.complex64))
    example = {"ids": np.ones((2, 2), int), "extra": {"a": [np.ones((2, 4))]}, "times": 3}
    program = keep(Manner(), example).load_program()
    with pytest.raises(InvalidValueError, match="'times': found 4, the program was made for 3"):
        program(**example | {"times": 4})
    with pytest.raises(InvalidTypeError, match="found a list, the example had a mapping"):
        program(**example | {"extra": [1]})


def test_programs_of_another_schema_are_not_loaded(rewritten):
    def say(document):
        document["schema_version"]["major"] = 9

    with pytest.raises(InvalidValueError, match="it is in schema 9, this version reads 8"):
        rewritten(inside("model.json", say)).load_program()


# ---------------------------------------------------------------------- hostile files


@pytest.fixture
def rewritten(logged, tmp_path):
    """Rewrite the members of a program, and model.json so that all hashes are right again."""

    def rewritten(change, **options):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(logged[2], folder)
        (path,) = folder.glob("program-*.pt2")
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        changed = change(members)
        if isinstance(changed, bytes):
            path.write_bytes(changed)
        else:
            path.write_bytes(zipped(changed or members, **options))
        document = json.loads((folder / "model.json").read_bytes())
        known = document["files"]["program"]
        known["size_bytes"] = path.stat().st_size
        known["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "model.json").write_text(json.dumps(document))
        return SavedModel(folder)

    return rewritten


def zipped(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def canary(tmp_path):
    """What must not come to life: code, a pickle and torch's kind of pickle that make a folder."""

    class Canary:
        path = tmp_path / "alive"
        code = f"__import__('os').mkdir({str(path)!r})"

        def __reduce__(self):
            return os.mkdir, (str(self.path),)

    canary = Canary()
    canary.pickle = pickle.dumps(canary)
    buffer = io.BytesIO()
    torch.save(canary, buffer)
    canary.torch_pickle = buffer.getvalue()
    yield canary
    assert not canary.path.exists()
    for come_to_life in (lambda: pickle.loads(canary.pickle), lambda: eval(canary.code)):
        come_to_life()
        canary.path.rmdir()


def tried(saved, images):
    """Load and compute, and give what was raised."""
    try:
        saved.load_program()(images[:2])
    except Exception as error:
        return error
    return None


def inside(document, change):
    """Give the graph's JSON, changed, in the place of the old."""

    def changed(members):
        (name,) = (name for name in members if name.endswith(document))
        known = json.loads(members[name])
        change(known)
        members[name] = json.dumps(known).encode()

    return changed


PLACES = (
    "data/sample_inputs/model.pt", "data/weights/weight_0", "data/constants/tensor_0",
    "data/weights/model_weights_config.json", "data/constants/model_constants_config.json",
    "models/model.json", "archive_format", "archive_version", "byteorder", ".data/version",
    ".data/serialization_id", "data/weights/model.pt", "data/constants/model.pt",
    "data/constants/custom_obj_0", "data/constants/opaque_obj_0", "extra/model.pt",
    "data/aotinductor/model/model.so", "serialized_state_dict.pt", "version",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["pickle", "torch_pickle"])
def test_a_pickle_in_any_member_is_never_opened(rewritten, logged, canary, kind):
    known = set()
    for place in PLACES:

        def put(members, place=place):
            known.update(members)
            members[f"archive/{place}"] = getattr(canary, kind)

        error = tried(rewritten(put), logged[1])
        assert error is None or isinstance(error, DamagedError), place
    assert known <= {f"archive/{place}" for place in PLACES} | {
        f"archive/data/weights/weight_{number}" for number in range(1, 9)
    }


@pytest.mark.parametrize("place", ["weights", "constants"])
@pytest.mark.parametrize("file", ["weight_0", "tensor_0", "custom_obj_0", "opaque_obj_0"])
def test_a_weight_that_says_it_is_a_pickle_is_refused(rewritten, logged, canary, place, file):
    def put(members):
        def say(document):
            for payload in document["config"].values():
                payload |= {"use_pickle": True, "path_name": file}

        inside(f"model_{place}_config.json", say)(members)
        members[f"archive/data/{place}/{file}"] = canary.pickle

    with pytest.raises(InvalidValueError, match="is a pickle in it"):
        rewritten(put).load_program()
    assert isinstance(tried(rewritten(put), logged[1]), InvalidValueError)


def test_expressions_guards_and_names_of_a_graph_are_never_run(rewritten, logged, canary):
    model, images, _ = logged
    expected = computed(model, torch.from_numpy(images[:2]))["logits"]

    def fill(document):
        document["guards_code"] = [canary.code]
        document["range_constraints"][canary.code] = {"min_val": 0, "max_val": None}
        graph = document["graph_module"]["graph"]
        for meta in graph["tensor_values"].values():
            for size in meta["sizes"]:
                size.get("as_expr", {})["expr_str"] = canary.code
        for number in graph["sym_int_values"].values():
            number["as_expr"] = {"expr_str": canary.code, "hint": None}

    def rename(members):
        inside("model.json", fill)(members)
        text = members["archive/models/model.json"].decode()
        named = text.replace('"linear"', json.dumps(f"x={canary.code}"))
        assert named != text
        members["archive/models/model.json"] = named.encode()

    outputs = rewritten(rename).load_program()(images[:2])
    np.testing.assert_array_equal(outputs["logits"], expected)


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.mkdir", "torch.serialization.os.mkdir", "_operator.methodcaller",
        "_operator.attrgetter", "math.__loader__.load_module", "torch.load", "os.mkdir", "mkdir",
        "torch.ops.load_library", "torch.ops.aten.save.default", "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__.mro", "torch.ops.aten.add.__class__", "#os:mkdir",
        "torch.ops.os.mkdir.default", "torch.ops.aten.add.Tensor.__call__", "",
        "torch.ops.higher_order.call_torchbind", "torch.ops.aten.nothing.default",
    ],
)  # fmt: skip
def test_what_is_no_operator_on_tensors_is_refused(rewritten, canary, target):
    def call(document):
        node = document["graph_module"]["graph"]["nodes"][0]
        node["target"] = target
        path = {"name": "", "arg": {"as_string": str(canary.path)}, "kind": 1}
        node["inputs"] = [path]

    with pytest.raises(InvalidValueError, match="is not an operator that computes on tensors"):
        rewritten(inside("model.json", call)).load_program()


def test_an_enumeration_in_a_tree_imports_nothing(rewritten, logged, tmp_path, monkeypatch):
    (tmp_path / "canary_of_keys.py").write_text("class Key: pass")
    monkeypatch.syspath_prepend(tmp_path)
    key = {"__enum__": True, "fqn": "canary_of_keys:Key", "name": "A"}

    def say(document):
        call = document["graph_module"]["module_call_graph"][0]["signature"]
        call["out_spec"] = call["out_spec"].replace(
            '\\"logits\\"', json.dumps(json.dumps(key))[1:-1]
        )
        assert "canary_of_keys" in call["out_spec"]

    assert isinstance(tried(rewritten(inside("model.json", say)), logged[1]), DamagedError)
    assert "canary_of_keys" not in sys.modules


def leave_out(members):
    del members["archive/data/weights/weight_0"]


def put_twice(members):
    return zipped([*members.items(), ("archive/byteorder", b"little")])


def stretch(document):
    document["config"]["body.6.weight"]["tensor_meta"]["sizes"] = [{"as_int": 1 << 30}]


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # zipfile's, of the test
@pytest.mark.parametrize(
    "change",
    [
        leave_out,
        put_twice,
        lambda members: zipped(members, zipfile.ZIP_DEFLATED),
        lambda members: zipped(members)[:-100],
        lambda members: zipped(members)[100:],
        lambda members: b"",
        lambda members: b"PK\x05\x06" + bytes(18),
        inside("weights_config.json", stretch),
        inside("model.json", lambda document: document.clear()),
    ],
)
def test_a_damaged_program_is_told_as_such(rewritten, change):
    with pytest.raises(DamagedError, match=r"not a \.pt2 that this version reads"):
        rewritten(change).load_program()


def test_no_changed_byte_does_more_than_an_error(logged):
    (path,) = logged[2].glob("program-*.pt2")
    original, random = path.read_bytes(), np.random.default_rng(0)
    start = original.index(b'{"graph_module"')
    for place in [*random.integers(start, len(original), 300), *range(-60, 0)]:
        data = bytearray(original)
        data[place] ^= random.integers(1, 256)
        with contextlib.suppress(DamagedError, InvalidValueError):
            Program(memoryview(data), "Model")
