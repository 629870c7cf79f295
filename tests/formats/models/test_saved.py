"""A model read back: what was saved, or the reason why not. Folders may come from anybody."""

import copy
import hashlib
import itertools
import json
import math
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiment_tracking import ExperimentTracker
from experiment_tracking.errors import (
    DamagedError,
    FormatError,
    InvalidTypeError,
    InvalidValueError,
    NotFoundError,
)
from experiment_tracking.formats.models import saved
from experiment_tracking.formats.models.saved import SavedModel, saves_in
from experiment_tracking.registry.record import RunRecord

TREE = {"w": np.arange(6, dtype="float32").reshape(2, 3), "b": [np.zeros(0), np.int8(3)], "n": 7}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A model that a run has saved three times, with two saves kept."""
    tracker = ExperimentTracker(
        "p", root=tmp_path_factory.mktemp("root"), use_tensorboard=False, auto_log=False
    )
    with tracker.start_run("r") as run:
        for step in range(3):
            path = run.log_model(TREE | {"n": step}, step=step, metadata={"epoch": step})
    return path


@pytest.fixture
def folder(original, tmp_path):
    """A copy of it, to do with as one likes."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def document(folder):
    return json.loads((folder / "model.json").read_text())


def weights(folder):
    return folder / document(folder)["files"]["weights"]["file"]


def change(folder, edit):
    kept = document(folder)
    edit(kept)
    (folder / "model.json").write_text(json.dumps(kept))


def put(folder, data):
    """Put other weights in the place of the model's, with their own size and hash."""
    weights(folder).write_bytes(data)
    known = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change(folder, lambda kept: kept["files"]["weights"].update(known))


# ---------------------------------------------------------------------- what is there


def test_the_newest_save_comes_back_equal(folder):
    loaded = SavedModel(folder).load()
    assert loaded["w"].tobytes() == TREE["w"].tobytes()
    assert (loaded["w"].dtype, loaded["w"].shape) == ("float32", (2, 3))
    assert (loaded["b"][0].shape, loaded["b"][1], loaded["n"]) == ((0,), 3, 2)
    assert SavedModel(str(folder)).load()["n"] == 2


def test_what_is_loaded_is_private_memory_that_can_be_trained_on(folder):
    before = weights(folder).read_bytes()
    for verify in (True, False):
        loaded = SavedModel(folder).load(verify=verify)
        loaded["w"] += 1
        assert loaded["w"].tolist() == (TREE["w"] + 1).tolist()
    assert weights(folder).read_bytes() == before


def test_what_was_loaded_unverified_stays_when_its_file_is_deleted(folder):
    loaded = SavedModel(folder).load(verify=False)
    shutil.rmtree(folder)
    assert loaded["w"].tobytes() == TREE["w"].tobytes()


def test_an_earlier_save_is_named_by_its_step(folder):
    assert SavedModel(folder, step=1).load()["n"] == 1
    assert SavedModel(folder, step=1).document["metadata"] == {"epoch": 1}
    with pytest.raises(NotFoundError, match=r"no save of step 0 is kept, only of 2, 1\."):
        SavedModel(folder, step=0).load()


def test_its_document_says_what_was_kept(folder):
    model = SavedModel(folder)
    assert [save["step"] for save in model.saves] == [2, 1]
    assert (model.document["framework"], model.document["save"]) == ("arrays", 3)
    assert "earlier" not in model.document
    assert model.path == folder
    assert repr(model) == f"SavedModel({str(folder)!r})"
    model.verify()


def test_what_the_model_was_saved_without_is_named(folder):
    with pytest.raises(NotFoundError, match=r"saved without optimizer. It has weights\."):
        SavedModel(folder).load_optimizer()
    with pytest.raises(NotFoundError, match="saved without example"):
        SavedModel(folder).load_example()
    with pytest.raises(InvalidValueError, match="it has no program, only weights"):
        SavedModel(folder).load_program()


def test_other_versions_of_the_framework_are_told(folder, capsys):
    change(folder, lambda kept: kept["versions"].update(numpy="0.0.1", nothing="2", orjson=[]))
    SavedModel(folder)._save().warn_of_other_versions()
    said = capsys.readouterr().err
    assert f"was saved with numpy 0.0.1, this is {np.__version__}." in said
    assert said.count("was saved with") == 1


@pytest.mark.parametrize("make_", [lambda path: None, Path.mkdir, Path.touch, os.mkfifo])
def test_where_no_model_is_that_is_said(tmp_path, make_):
    make_(tmp_path / "none")
    with pytest.raises(NotFoundError, match=r"There is no model in .*none: it has no model\.json"):
        SavedModel(tmp_path / "none").load()
    with pytest.raises(FileNotFoundError):
        SavedModel(tmp_path / "none").document  # noqa: B018


# ---------------------------------------------------------------------- files that were changed


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def _as_large(path):
    with open(path, "wb") as file:
        file.truncate(50 * 2**30)


def _link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _into(make):
    def change(path):
        path.unlink()
        make(path)

    return change


def _socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # a socket's path may be 100 bytes long
        server.bind(path.name)


def _device(path):
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("making a device takes root")


CHANGES = {
    "a byte": (_flip, "does not have the SHA-256"),
    "zeros": (_zeros, "does not have the SHA-256"),
    "cut off": (lambda path: os.truncate(path, 20), "has 20 bytes, model.json says"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "bytes, model.json says"),
    "50 GB": (_as_large, "has 53,687,091,200 bytes, model.json says"),
    "empty": (lambda path: path.write_bytes(b""), "has 0 bytes, model.json says"),
    "gone": (Path.unlink, "is gone. It is named by model.json"),
    "a link": (_link, "is a link"),
    "a link to nothing": (_into(lambda path: path.symlink_to("nowhere")), "is a link"),
    "a link to itself": (_into(lambda path: path.symlink_to(path)), "is a link"),
    "a link to endless bytes": (_into(lambda path: path.symlink_to("/dev/zero")), "is a link"),
    "a folder": (_into(Path.mkdir), "is not a regular file"),
    "a pipe": (_into(os.mkfifo), "is not a regular file"),
    "a socket": (_into(_socket), "is not a regular file"),
    "a device": (_into(_device), "is not a regular file"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_weights_that_are_not_as_they_were_saved_are_refused(folder, what, monkeypatch):
    monkeypatch.chdir(folder)
    change_, why = CHANGES[what]
    change_(weights(folder))
    for call in (SavedModel(folder).load, SavedModel(folder).verify):
        with pytest.raises(DamagedError, match=why):
            call()


@pytest.mark.parametrize("what", [what for what in CHANGES if what not in ("a byte", "zeros")])
def test_what_cannot_be_mapped_is_refused_unverified_as_well(folder, what, monkeypatch):
    monkeypatch.chdir(folder)
    change_, why = CHANGES[what]
    change_(weights(folder))
    with pytest.raises(DamagedError, match=why):
        SavedModel(folder).load(verify=False)


DOCUMENTS = {
    "nothing": (Path.unlink, NotFoundError, "There is no model"),
    "a folder": (_into(Path.mkdir), DamagedError, "not a regular file"),
    "a pipe": (_into(os.mkfifo), DamagedError, "not a regular file"),
    "a socket": (_into(_socket), DamagedError, "not a regular file"),
    "a device": (_into(_device), DamagedError, "not a regular file"),
    "a link": (_link, DamagedError, "is a link"),
    "empty": (lambda path: path.write_bytes(b""), DamagedError, "is not JSON: empty"),
    "zeros": (_zeros, DamagedError, "all NUL bytes"),
    "half": (lambda path: os.truncate(path, 300), DamagedError, "is not JSON"),
    "a list": (lambda path: path.write_text("[]"), DamagedError, "expected a JSON object"),
    "brackets": (lambda path: path.write_text("[" * 10**5), DamagedError, "is not JSON"),
    "objects": (lambda path: path.write_text('{"a":' * 10**5), DamagedError, "is not JSON"),
    "digits": (lambda path: path.write_text('{"a":' + "9" * 5000), DamagedError, "is not JSON"),
    "50 GB": (_as_large, DamagedError, "more than the"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({})), DamagedError, "is not JSON"),
}


@pytest.mark.parametrize("what", DOCUMENTS)
def test_a_document_that_is_none_is_refused(folder, what, monkeypatch):
    monkeypatch.chdir(folder)
    change_, error, why = DOCUMENTS[what]
    change_(folder / "model.json")
    with pytest.raises(error, match=why):
        SavedModel(folder).load()


@pytest.mark.parametrize(
    "name",
    [
        "../w.safetensors", "/etc/passwd", "a/w", "a\\w", "..", ".", "", "w\0", None, 3, ["w"], {},
        "C:\\w", "C:w", "\\\\host\\w", "w:stream", ".hidden", "-rf", "~", "$HOME", "a b", "w\n",
        "x" * 128, "\ud800", "\u202egnp", "é", "w;", "%2e%2e%2fw", "file:w", True,
    ],
)  # fmt: skip
def test_a_name_that_may_lead_elsewhere_is_refused(folder, name):
    change(folder, lambda kept: kept["files"]["weights"].update(file=name))
    with pytest.raises(DamagedError, match="expected a file beside it"):
        SavedModel(folder).load()


@pytest.mark.parametrize("size", [None, "12", 1.5, -1, True, [], 2**63, 10**300])
def test_a_size_that_is_none_is_refused(folder, size):
    change(folder, lambda kept: kept["files"]["weights"].update(size_bytes=size))
    with pytest.raises(DamagedError, match="is no size"):
        SavedModel(folder).load(verify=False)


@pytest.mark.parametrize("sha256", [None, "", "0" * 63, "G" * 64, 3, ["0" * 64], "0" * 64 + "\n"])
def test_a_hash_that_is_none_is_refused(folder, sha256):
    change(folder, lambda kept: kept["files"]["weights"].update(sha256=sha256))
    with pytest.raises(DamagedError, match="is no SHA-256"):
        SavedModel(folder).load(verify=False)


@pytest.mark.parametrize("format_", [None, 0, 2, 99, -1, "1", 1.0, True, [], {"a": 1}])
def test_a_format_that_this_version_does_not_know_is_refused(folder, format_):
    change(folder, lambda kept: kept.update(format=format_))
    with pytest.raises(FormatError, match=r"this version reads 1\."):
        SavedModel(folder).load()


def test_a_framework_that_nobody_knows_is_refused(folder):
    change(folder, lambda kept: kept.update(framework="__import__('os')"))
    with pytest.raises(DamagedError, match="known are keras, torch"):
        SavedModel(folder).load()


# ---------------------------------------------------------------------- any other document


def _deep(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


WRONG = [None, True, 0, -1, 2**63, 1e308, "", "x", "\ud800", [], [1], {}, {"a": {}}, _deep(900)]


def _places(value, place=()):
    """Every place in a document, from the top down."""
    if place:
        yield place
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(item, (*place, key))


def _set(value, place, new):
    for key in place[:-1]:
        value = value[key]
    value[place[-1]] = new


def _use(model):
    for call in (model.load, model.load_program):
        try:
            call()
        except (DamagedError, NotFoundError, InvalidValueError) as error:
            assert str(error)  # noqa: PT017


def test_a_document_with_a_wrong_value_anywhere_is_read_or_refused_with_the_reason(folder):
    good = document(folder)
    places = list(_places(good))
    assert ("files", "weights", "tensors", "w", "dtype") in places
    assert ("earlier", 0, "files", "weights", "sha256") in places
    for place in places:
        for wrong in WRONG:
            kept = copy.deepcopy(good)
            _set(kept, place, wrong)
            (folder / "model.json").write_text(json.dumps(kept))
            _use(SavedModel(folder, step=1 if place[0] == "earlier" else None))


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
words = st.sampled_from(
    ["array", "dict", "list", "tuple", "int", "float", "complex", "namedtuple", "w", "b/0", "O",
     "f4,f4", "(2)f4", "<U3", "object", "datetime64[s]", "key<fry>", "V8", "torch", "jax", "x"]
)  # fmt: skip
trees = st.recursive(
    words | st.integers(-3, 3) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=2),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(st.sampled_from(["tree", "tensors", "format"]), trees | junk),
    st.dictionaries(st.sampled_from(["dtype", "shape", "library"]), trees),
)
def test_a_structure_that_is_none_is_read_or_refused_with_the_reason(folder, changes, of_w):
    kept = copy.deepcopy(document(folder))
    kept["files"]["weights"]["tensors"]["w"].update(of_w)
    kept["files"]["weights"].update(changes)
    before = (folder / "model.json").read_bytes()
    (folder / "model.json").write_text(json.dumps(kept))
    _use(SavedModel(folder))
    (folder / "model.json").write_bytes(before)


# ---------------------------------------------------------------------- enemies


class _Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("framework", ["arrays", "cloudpickle"])
def test_a_pickle_in_the_place_of_weights_is_never_opened(folder, tmp_path, framework):
    put(folder, pickle.dumps(_Trap(str(tmp_path / "sprung"))))
    change(folder, lambda kept: kept.update(framework=framework))
    model = SavedModel(folder)
    for call in (model.load, model.load_optimizer, model.load_program, model.load_example):
        with pytest.raises((DamagedError, NotFoundError, InvalidValueError)):
            call()
    model.verify()
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["../w", "/etc/w", "a\\w", "w\0", "C:w", "\u202ew", "b/../w"])
def test_the_name_of_a_tensor_is_no_path(folder, name):
    before = weights(folder).read_bytes()
    header, body = before[8:].split(b"}}", 1)
    header = json.loads(header + b"}}")
    header[name] = header.pop("w")
    text = json.dumps(header).encode()
    put(folder, len(text).to_bytes(8, "little") + text + body.lstrip(b" "))
    everything = sorted(folder.parent.rglob("*"))
    with pytest.raises(DamagedError):
        SavedModel(folder).load()

    def rename(kept):
        known = kept["files"]["weights"]
        known["tensors"][name] = known["tensors"].pop("w")
        known["tree"] = json.loads(
            json.dumps(known["tree"]).replace('{"array": "w"}', json.dumps({"array": name}))
        )

    change(folder, rename)
    assert SavedModel(folder).load()["w"].tobytes() == TREE["w"].tobytes()
    assert sorted(folder.parent.rglob("*")) == everything


def test_weights_swapped_between_the_check_and_the_use_do_not_count(folder, monkeypatch):
    """The enemy renames another file over the weights as soon as they have been opened."""
    evil = folder / "evil"
    evil.write_bytes(bytes(weights(folder).stat().st_size))
    place, real = weights(folder), saved._read_into

    def swap(fd, piece):
        if evil.exists():
            evil.rename(place)
        return real(fd, piece)

    monkeypatch.setattr(saved, "_read_into", swap)
    assert SavedModel(folder).load()["w"].tobytes() == TREE["w"].tobytes()
    assert not any(place.read_bytes())


def test_weights_that_grow_shorter_while_they_are_read_are_refused(folder, monkeypatch):
    real = saved._read_into

    def cut(fd, piece):
        os.truncate(weights(folder), 5)
        return real(fd, piece)

    monkeypatch.setattr(saved, "_read_into", cut)
    with pytest.raises(DamagedError, match="does not have the SHA-256"):
        SavedModel(folder).load()


def test_a_system_without_readv_reads_the_same(folder, monkeypatch):
    monkeypatch.delattr(os, "readv", raising=False)
    assert SavedModel(folder).load()["n"] == 2


_LOAD_WITH_LITTLE = """
import resource, sys
from experiment_tracking.errors import InvalidValueError
from experiment_tracking.formats.models.saved import SavedModel
import numpy

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)
try:
    SavedModel(sys.argv[1]).load()
except InvalidValueError as error:
    print(error)
# Of this program alone: getrusage also counts the process that it was forked from.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_a_file_larger_than_the_memory_is_refused_before_it_is_read(folder):
    _as_large(weights(folder))
    change(folder, lambda kept: kept["files"]["weights"].update(size_bytes=50 * 2**30))
    done = subprocess.run(
        [sys.executable, "-c", _LOAD_WITH_LITTLE, folder], capture_output=True, check=True
    )
    assert b"more than this process can have of memory" in done.stdout
    assert int(done.stdout.splitlines()[-1]) < 500_000


# ---------------------------------------------------------------------- saved again meanwhile


def test_a_file_that_a_later_save_took_away_is_looked_for_again(make, monkeypatch):
    with make("p").start_run("r") as run:
        for number in range(3):
            path = run.log_model({"n": number, "w": np.full(3, number)})
        real, numbers = saved.Save.read, iter(range(3, 13))

        def overtaken(save, role):
            for number in itertools.islice(numbers, 2):
                run.log_model({"n": number, "w": np.full(3, number)})
            return real(save, role)

        monkeypatch.setattr(saved.Save, "read", overtaken)
        loaded = SavedModel(path).load()
    assert (loaded["n"], loaded["w"].tolist()) == (12, [12] * 3)


def test_loads_beside_a_thread_that_saves_are_each_one_whole_save(make):
    run = make("p").start_run("r")
    path = run.log_model({"n": 0, "w": np.zeros(100)})
    done = threading.Event()

    def save():
        for number in range(1, 60):
            run.log_model({"n": number, "w": np.full(100, number)}, step=number)
        done.set()

    saver = threading.Thread(target=save)
    saver.start()
    seen = set()
    while not done.is_set():
        loaded = SavedModel(path).load()
        assert loaded["w"].tolist() == [loaded["n"]] * 100
        seen.add(loaded["n"])
    saver.join()
    run.end_run()
    assert len(seen) > 1


def test_a_record_refuses_a_model_behind_a_link(make, root):
    with make("p").start_run("r") as run:
        folder = run.log_model({"w": [1.0]}, "net")
    outside = root.parent / "outside"
    folder.rename(outside)
    folder.symlink_to(outside)
    with pytest.raises(DamagedError, match="leads out of the run"):
        RunRecord(run.path).load_model("net")
    folder.unlink()
    outside.rename(folder)
    assert RunRecord(run.path).load_model("net") == {"w": [1.0]}


def test_saves_are_read_at_most_as_they_were_written(folder):
    """The document of the newest save is what the earlier ones are, too."""
    newest, earlier = saves_in(str(folder))
    assert newest.keys() == earlier.keys()


# ---------------------------------------------------------------------- which save


@pytest.fixture
def trained(make):
    """A run whose model was saved at each of these values of its metrics."""
    with make("p").start_run("a") as run:
        for step, accuracy in enumerate((0.5, 0.9, 0.6, math.nan)):
            run.log_metrics({"val/acc": accuracy, "depth": step}, step=step)
            run.log_model({"w": np.full(2, step)}, keep=4)
        yield run


def test_the_save_of_a_metrics_best_value_is_found_by_its_goal(trained):
    best = trained.saved_model(best="val/acc")
    assert (best.step, best.metrics["val/acc"], best.load()["w"][0]) == (1, 0.9, 1)
    assert RunRecord(trained.path).load_model(best="val/acc")["w"][0] == 1
    assert math.isnan(trained.saved_model().metrics["val/acc"])


def test_a_metric_without_a_goal_says_which_end_is_better(trained):
    with pytest.raises(InvalidValueError, match="'depth:min' or 'depth:max'"):
        trained.saved_model(best="depth").load()
    assert trained.saved_model(best="depth:max").step == 3
    assert trained.saved_model(best="depth:min").step == 0
    with pytest.raises(NotFoundError, match="depth, val/acc"):
        trained.saved_model(best="val/accc").load()


def test_a_goal_that_was_defined_counts_for_the_best_save_too(make):
    with make("p").start_run("b") as run:
        run.define_metric("loss", goal="maximize")
        for step in range(3):
            run.log_metrics({"loss": step}, step=step)
            run.log_model({"w": np.full(2, step)}, keep=4)
        assert run.saved_model(best="loss").step == 2


@pytest.mark.parametrize("trusted", [True, 3, [None], ["a", 1]])
def test_names_that_are_to_be_trusted_are_names(trained, trusted):
    with pytest.raises(InvalidTypeError, match="full names"):
        trained.saved_model().load(trusted=trusted)
    assert trained.saved_model().load(trusted="my.name")["w"][0] == 3
