import hashlib
import json
import os
import shutil
import subprocess
import sys
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from experiment_tracking.errors import InvalidTypeError, InvalidValueError
from experiment_tracking.formats import inputs
from experiment_tracking.formats.inputs import describe_input, same_input

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's file system tools")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def hash_of(value):
    description = describe_input(value)
    assert json.loads(json.dumps(description)) == description
    return description["sha256"]


# Files and folders


def test_a_file_is_known_by_path_size_and_the_hash_of_its_bytes(tmp_path, monkeypatch):
    (tmp_path / "train.csv").write_bytes(b"a,b\n1,2\n")
    monkeypatch.chdir(tmp_path)
    description = describe_input("train.csv")
    modified_at = description.pop("modified_at")
    assert description == {
        "kind": "file",
        "path": f"{tmp_path}/train.csv",
        "size_bytes": 8,
        "sha256": sha256(b"a,b\n1,2\n"),
    }
    modified = datetime.fromisoformat(modified_at).timestamp()
    assert modified == pytest.approx((tmp_path / "train.csv").stat().st_mtime, abs=0.001)


@pytest.fixture
def folder(tmp_path):
    """A data set with what folders have in them."""
    folder = tmp_path / "data"
    (folder / "a" / "deep").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "a" / "deep" / "1.bin").write_bytes(b"1" * 3_000_000)
    (folder / "a.txt").write_bytes(b"sorts before a/, as a point is before a slash")
    (folder / ".hidden").write_bytes(b"counts")
    (folder / "zero").write_bytes(b"")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "2.bin").write_bytes(b"2")
    (folder / "link").symlink_to(tmp_path / "outside" / "2.bin")
    (folder / "linked").symlink_to(tmp_path / "outside")
    return folder


RECIPE = "find -L . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"


@linux_only
def test_the_hash_of_a_folder_is_that_of_the_documented_command(folder):
    with open(os.fsencode(folder) + b"/caf\xe9 \xff.txt", "wb") as file:
        file.write(b"not UTF-8")
    done = subprocess.run(["bash", "-c", RECIPE], cwd=folder, capture_output=True, check=True)
    assert RECIPE in " ".join(inputs.__doc__.split())
    assert describe_input(folder) == {
        "kind": "folder",
        "path": str(folder),
        "size_bytes": 3_000_000 + 45 + 6 + 1 + 1 + 9,
        "files": 7,
        "sha256": done.stdout.split()[0].decode(),
    }


def test_a_folder_keeps_its_hash_elsewhere_and_loses_it_with_any_name_or_byte(folder, tmp_path):
    original = hash_of(folder)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert hash_of(copy) == original
    (copy / "zero").rename(copy / "nought")
    renamed = hash_of(copy)
    (copy / ".hidden").write_bytes(b"Counts")
    assert len({original, renamed, hash_of(copy)}) == 3


@linux_only
def test_loops_broken_links_and_pipes_are_skipped_and_counted(folder):
    before = describe_input(folder)
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "self").symlink_to("self")
    (folder / "broken").symlink_to("missing")
    os.mkfifo(folder / "pipe")
    assert describe_input(folder) == before | {"skipped": 4}


@linux_only
def test_a_file_that_cannot_be_read_is_named(folder):
    (folder / "a" / "memory").symlink_to("/proc/self/mem")  # nobody may read its address 0
    with pytest.raises(InvalidValueError, match=r"data/a/memory' cannot be read \(Input/output"):
        describe_input(folder)
    assert describe_input(folder, hash=False)["files"] == 7


def test_a_file_that_changes_while_it_is_read_is_noted(folder):
    def append(done, total):
        with (folder / "zero").open("ab") as file:
            file.write(b"more")

    (folder / "zero").write_bytes(b"some")
    note = describe_input(folder / "zero", on_progress=append)["note"]
    assert note == "It changed while it was read."
    note = describe_input(folder, on_progress=append)["note"]
    assert note == "1 of the files changed while read: zero"


@pytest.mark.parametrize("name", ["a/deep/1.bin", "."])
def test_progress_is_told_and_ends_with_all(folder, name, monkeypatch):
    monkeypatch.setattr(inputs, "_TOLD_EVERY_S", 0)
    told = []
    size = describe_input(folder / name, on_progress=lambda *args: told.append(args))["size_bytes"]
    assert len(told) >= 3
    assert told == sorted(told)
    assert told[-1] == (size, size)
    assert {total for _, total in told} == {size}


def test_progress_is_not_told_for_each_piece(folder):
    told = []
    describe_input(folder / "a" / "deep" / "1.bin", on_progress=lambda *args: told.append(args))
    assert told[-1] == (3_000_000, 3_000_000)
    assert len(told) < 3


def test_without_hashing_nothing_is_read(folder):
    for value in (folder, folder / "zero", np.eye(2), pd.DataFrame({"a": [1]}), [np.eye(2)]):
        description = describe_input(value, hash=False)
        assert description == describe_input(value) | {"sha256": None} | (
            {"parts": description["parts"]} if "parts" in description else {}
        )
    assert description["parts"]["0"]["sha256"] is None


@linux_only
def test_a_name_that_is_not_utf8_is_shown_by_its_bytes(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9"
    with open(path, "wb"):
        assert describe_input(os.fsdecode(path))["path"] == f"{tmp_path}/caf\\xe9"


def test_a_path_at_which_nothing_is_says_where_was_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidValueError, match=f"looked for .* at '{tmp_path}/train.csv'"):
        describe_input("train.csv")
    for nowhere in ("", "a\0b"):
        with pytest.raises(InvalidValueError, match="Pass an existing path"):
            describe_input(nowhere)


@linux_only
def test_a_device_is_refused_for_it_can_be_read_but_once():
    with pytest.raises(InvalidValueError, match="'/dev/zero' is a pipe, socket or device"):
        describe_input("/dev/zero")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/train/", "s3://bucket/train/"),
        ("https://user:c4nary@host:81/a.csv", "https://host:81/a.csv"),
        ("https://host/a?X-Amz-Signature=c4nary", "https://host/a?***"),
        ("https://c4n@ry@host/a#part", "https://host/a?***"),
    ],
)
def test_a_url_is_kept_without_its_secrets_and_not_fetched(url, shown):
    assert describe_input(url) == {"kind": "uri", "path": shown}


# Arrays

DTYPES = st.one_of(
    nps.boolean_dtypes(),
    nps.integer_dtypes(),
    nps.unsigned_integer_dtypes(),
    nps.floating_dtypes(sizes=(16, 32, 64)),
    nps.complex_number_dtypes(sizes=(64, 128)),
    nps.datetime64_dtypes(),
    nps.byte_string_dtypes(),
)
ARRAYS = nps.arrays(DTYPES, nps.array_shapes(min_dims=0, min_side=0, max_side=5))


def by_hand(array):
    """The documented recipe, for arrays of fixed-size elements."""
    array = array.astype(array.dtype.newbyteorder("<"))
    name = array.dtype.str if array.dtype.kind == "S" else array.dtype.name
    header = f"{name} {'x'.join(map(str, array.shape))}\n"
    return sha256(header.encode() + array.tobytes(order="C"))


@given(ARRAYS)
def test_the_hash_of_an_array_is_that_of_the_documented_recipe(array):
    assert hash_of(array) == by_hand(array)


@given(ARRAYS, st.integers(1, 64))
def test_neither_memory_order_nor_the_size_of_blocks_changes_the_hash(array, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "_BLOCK", block)
        assert hash_of(array) == by_hand(array)
        assert hash_of(np.array(array, order="F")) == by_hand(array)
        assert hash_of(array.T) == by_hand(array.T)


SHARED = ("bool", "uint8", "int8", "int16", "int32", "float16", "float32", "complex64")


@pytest.mark.parametrize("dtype", SHARED)
def test_equal_arrays_of_all_frameworks_are_the_same_input(dtype):
    torch = pytest.importorskip("torch", reason="pip install torch")
    jnp = pytest.importorskip("jax.numpy", reason="pip install jax")
    array = np.arange(-6, 6).astype("int8").reshape(3, 4).astype(dtype)
    description = describe_input(array)
    assert describe_input(torch.from_numpy(array)) == description
    assert describe_input(torch.from_numpy(array.T.copy()).T) == description
    assert describe_input(jnp.asarray(array)) == description


def test_bfloat16_is_hashed_by_its_bytes():
    torch = pytest.importorskip("torch", reason="pip install torch")
    jnp = pytest.importorskip("jax.numpy", reason="pip install jax")
    values = [1.5, -2.0]
    description = describe_input(torch.tensor(values, dtype=torch.bfloat16))
    assert description == describe_input(jnp.asarray(values, dtype="bfloat16"))
    assert description["sha256"] == sha256(b"bfloat16 2\n\xc0\x3f\x00\xc0")


def test_a_tensor_is_taken_as_its_values_read_block_by_block(monkeypatch):
    torch = pytest.importorskip("torch", reason="pip install torch")
    monkeypatch.setattr(inputs, "_BLOCK", 16)
    array = np.arange(24, dtype="complex64").reshape(2, 3, 4) * (1 + 1j)
    tensor = torch.from_numpy(array.conj()).conj().requires_grad_()
    assert hash_of(tensor) == by_hand(array)


def test_shape_and_dtype_belong_to_the_hash():
    zeros = np.zeros(4, "float32")
    others = (zeros.reshape(2, 2), zeros.view("int32"), zeros[:0], np.float32(0))
    assert len({hash_of(array) for array in (zeros, *others)}) == 5


@pytest.mark.parametrize("array", [
    np.array(["a", None], dtype=object),
    np.zeros(2, dtype=[("a", "i1"), ("b", "f8")]),
    np.zeros(2, dtype=np.longdouble),
], ids=["objects", "records", "long doubles"])  # fmt: skip
def test_arrays_whose_bytes_do_not_tell_equality_have_no_hash(array):
    description = describe_input(array)
    assert (description["shape"], description["sha256"]) == ([2], None)


def test_empty_text_has_a_hash_though_no_bytes():
    assert hash_of(np.zeros((2, 0), "U3")) == sha256(b"<U3 2x0\n")


def test_a_matrix_of_one_row_comes_to_an_end(monkeypatch):
    monkeypatch.setattr(inputs, "_BLOCK", 8)
    array = np.arange(6).reshape(1, 6)
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(array)
    assert hash_of(matrix) == by_hand(array)


class OnDisk:
    """An array as h5py and zarr have them: slices are read when asked for."""

    def __init__(self, array):
        self._array = array
        self.shape, self.dtype, self.nbytes = array.shape, array.dtype, array.nbytes

    def __getitem__(self, rows):
        return self._array[rows]

    def __array__(self, dtype=None, copy=None):
        raise MemoryError("The whole array does not fit.")


def test_an_array_on_disk_is_never_read_whole(monkeypatch):
    monkeypatch.setattr(inputs, "_BLOCK", 100)
    array = np.arange(100).reshape(20, 5)
    assert hash_of(OnDisk(array)) == by_hand(array)


class ByDlpackOnly:
    def __init__(self, array):
        self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__


def test_an_array_may_come_by_dlpack():
    array = np.arange(3)
    assert hash_of(ByDlpackOnly(array)) == by_hand(array)


def test_a_sparse_tensor_is_refused_with_the_reason():
    torch = pytest.importorskip("torch", reason="pip install torch")
    with pytest.raises(InvalidTypeError, match=r"cannot be read as an array .*sparse.* dense"):
        describe_input(torch.eye(2).to_sparse())


# Frames


def frame(**columns):
    return pd.DataFrame({"x": [1, 2], "y": ["a", None]} | columns)


def test_a_frame_is_known_by_its_columns_and_values():
    description = describe_input(frame())
    assert description["kind"] == "frame"
    assert description["shape"] == [2, 2]
    assert description["columns"] == {name: str(kind) for name, kind in frame().dtypes.items()}
    assert description["library"] == f"pandas {pd.__version__}"
    assert description["size_bytes"] > 0
    assert description == describe_input(frame())


def test_values_dtypes_names_and_index_of_a_frame_belong_to_its_hash():
    others = (
        frame(),
        frame(x=[1, 3]),
        frame(x=[1.0, 2.0]),
        frame().rename(columns={"x": "z"}),
        frame().set_index(pd.Index([5, 6])),
        frame().iloc[::-1],
        frame()[["y", "x"]],
    )
    assert len({hash_of(other) for other in others}) == len(others)


def test_a_series_is_a_frame_of_one_column():
    description = describe_input(pd.Series([1.0, 2.0], name="loss"))
    assert (description["shape"], description["columns"]) == ([2], {"loss": "float64"})
    assert description["sha256"] == hash_of(pd.Series([1.0, 2.0], name="loss"))


def test_a_frame_with_lists_in_its_cells_has_no_hash():
    assert hash_of(pd.DataFrame({"tokens": [[1, 2], [3]]})) is None


def test_of_many_columns_the_first_thousand_are_listed():
    description = describe_input(pd.DataFrame(np.zeros((1, 1200))))
    assert (len(description["columns"]), description["shape"]) == (1000, [1, 1200])


# Data sets and groups


def test_a_torch_data_set_is_known_by_class_and_length():
    data = pytest.importorskip("torch.utils.data", reason="pip install torch")

    class Stream(data.IterableDataset):
        def __iter__(self):
            raise AssertionError("Its items are not read.")

    class Squares(data.Dataset):
        def __len__(self):
            return 7

    squares = describe_input(Squares())
    assert squares.pop("class").endswith("Squares")
    assert squares == {"kind": "dataset", "length": 7}
    assert describe_input(data.DataLoader(Squares(), batch_size=2))["length"] == 7
    assert describe_input(Stream())["length"] is None


class Fingerprinted:
    """What is needed of a Hugging Face Dataset."""

    _fingerprint = "3f9c"

    def __len__(self):
        return 5


def test_the_fingerprint_of_a_data_set_is_kept():
    description = describe_input(Fingerprinted())
    assert (description["length"], description["fingerprint"]) == (5, "3f9c")


def test_a_group_is_hashed_as_a_folder_of_its_parts(tmp_path):
    x, y = np.eye(2), np.arange(2)
    description = describe_input({"train": (x, y), "test": x})
    lines = f"{hash_of(x)}  0\n{hash_of(y)}  1\n".encode()
    assert description["parts"]["train"]["sha256"] == sha256(lines)
    lines = f"{hash_of(x)}  test\n{sha256(lines)}  train\n".encode()
    assert description["sha256"] == sha256(lines)
    assert description["size_bytes"] == 2 * x.nbytes + y.nbytes
    assert describe_input([x, "s3://bucket/a"])["sha256"] is None


def test_a_group_of_too_many_parts_or_levels_is_refused():
    endless = []
    endless.append(endless)
    for group in ([np.eye(1)] * 1001, endless):
        with pytest.raises(InvalidValueError, match="allowed are 1,000 and 10"):
            describe_input(group, hash=False)


@pytest.mark.parametrize("value", [None, 3, [1, 2], b"bytes", object(), {"a", "b"}])
def test_anything_else_is_refused_with_what_is_taken(value):
    with pytest.raises(InvalidTypeError, match="Pass a path, a URL, an array"):
        describe_input(value)


def test_no_framework_is_imported_to_describe_a_file_or_an_array(tmp_path):
    code = (
        "import sys; from experiment_tracking.formats.inputs import describe_input\n"
        "describe_input(sys.executable)\n"
        "print({'numpy', 'pandas', 'torch', 'jax'} & sys.modules.keys())\n"
        "import numpy; describe_input(numpy.eye(2))\n"
        "print({'pandas', 'torch', 'jax'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\nset()\n", done.stderr


# Comparison


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"kind": "file", "sha256": "a"}, {"kind": "file", "sha256": "a", "path": "b"}, True),
        ({"kind": "file", "sha256": "a"}, {"kind": "file", "sha256": "b"}, False),
        ({"kind": "file", "size_bytes": 3}, {"kind": "file", "size_bytes": 3}, None),
        ({"kind": "file", "size_bytes": 3}, {"kind": "file", "size_bytes": 4}, False),
        ({"kind": "file", "sha256": "a"}, {"kind": "file", "sha256": None}, None),
        ({"kind": "array", "shape": [2]}, {"kind": "array", "shape": [3]}, False),
        ({"kind": "uri", "path": "s3://a"}, {"kind": "uri", "path": "s3://a"}, None),
        (
            {"kind": "frame", "sha256": "a", "library": "pandas 2.3.3"},
            {"kind": "frame", "sha256": "b", "library": "pandas 3.1.0"},
            None,
        ),
        (
            {"kind": "frame", "sha256": "a", "library": "pandas 3.0.0"},
            {"kind": "frame", "sha256": "b", "library": "pandas 3.1.0"},
            False,
        ),
        ({"kind": "dataset", "fingerprint": "a"}, {"kind": "dataset", "fingerprint": "a"}, True),
        ({"kind": "dataset", "fingerprint": "a"}, {"kind": "dataset", "fingerprint": "b"}, None),
        ({"kind": "dataset", "length": 1}, {"kind": "dataset", "length": 2}, False),
        (
            {"kind": "group", "parts": {"x": {"sha256": "a"}, "y": {}}},
            {"kind": "group", "parts": {"x": {"sha256": "b"}, "y": {}}},
            False,
        ),
        ({"kind": "group", "parts": {"x": {}}}, {"kind": "group", "parts": {"y": {}}}, False),
        ({"kind": "group", "parts": {"x": {}}}, {"kind": "group", "parts": {"x": {}}}, None),
    ],
)
def test_two_inputs_are_compared_as_far_as_their_descriptions_tell(one, other, same):
    assert same_input(one, other) is same
    assert same_input(other, one) is same
