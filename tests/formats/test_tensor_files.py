"""Tensors in safetensors files, held against the package that defines them."""

import json
import struct
import subprocess
import sys

import numpy as np
import orjson
import pytest
import safetensors
import safetensors.numpy
from hypothesis import example, given
from hypothesis import strategies as st

from experiment_tracking.errors import DamagedError, InvalidValueError
from experiment_tracking.formats.tensor_files import SIZES, Tensor, parse, size_bytes, stream

NUMPYS = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "F16": "float16",
    "I32": "int32", "U32": "uint32", "F32": "float32", "C64": "complex64", "F64": "float64",
    "I64": "int64", "U64": "uint64",
}  # fmt: skip


def tensor(dtype, shape, data):
    return Tensor(dtype, tuple(shape), lambda: memoryview(data))


def from_numpy(array):
    dtype = next(dtype for dtype, name in NUMPYS.items() if name == array.dtype.name)
    return tensor(dtype, array.shape, array.tobytes())


def streamed(tensors):
    return b"".join(stream(tensors))


def file_of(header, body=b""):
    text = header if isinstance(header, bytes) else orjson.dumps(header)
    return struct.pack("<Q", len(text)) + text + body


def parsed(data):
    return parse(memoryview(data), "The file")


def reason(data):
    with pytest.raises(DamagedError, match="The file is not a whole safetensors file") as caught:
        parsed(data)
    return str(caught.value)


# ---------------------------------------------------------------------- writing

dtypes = st.sampled_from(sorted(NUMPYS))
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def trees(draw):
    kinds = draw(st.dictionaries(names, st.tuples(dtypes, shapes), max_size=6))
    chance = np.random.default_rng(draw(st.integers(0, 9)))
    return {
        name: np.frombuffer(chance.bytes(int(np.prod(shape)) * SIZES[dtype]), NUMPYS[dtype])
        .reshape(shape)
        .view("uint8" if dtype == "BOOL" else NUMPYS[dtype])
        for name, (dtype, shape) in kinds.items()
    }


@given(trees())
@example({'\x00\n\x1b\x7f"\\/é🦉': np.zeros(1)})
@example({})
def test_a_file_has_the_bytes_that_the_reference_writes_and_comes_back_equal(arrays):
    tensors = {name: from_numpy(array) for name, array in arrays.items()}
    data = streamed(tensors)
    assert data == safetensors.numpy.save(arrays)
    assert data == streamed(dict(reversed(tensors.items())))
    parts = parsed(data)
    assert parts.keys() == arrays.keys()
    for name, array in arrays.items():
        assert parts[name][:2] == (tensors[name].dtype, array.shape)
        assert bytes(parts[name].data) == array.tobytes()


def test_dtypes_that_numpy_does_not_have_are_laid_out_as_the_reference_does():
    every = {dtype.lower(): tensor(dtype, (3,), bytes(3 * SIZES[dtype])) for dtype in SIZES}
    data = streamed(every)
    read = safetensors.deserialize(data)
    assert {(name, kept["dtype"], *kept["shape"]) for name, kept in read} == {
        (dtype.lower(), dtype, 3) for dtype in SIZES
    }
    ends = [(SIZES[part.dtype], name) for name, part in parsed(data).items()]
    assert [size for size, _ in ends] == sorted((size for size, _ in ends), reverse=True)
    assert size_bytes(every) == sum(3 * size for size in SIZES.values())


def test_a_tensor_is_asked_for_its_bytes_when_its_turn_has_come():
    asked = []

    def give(name):
        asked.append(name)
        return memoryview(bytes(4))

    tensors = {name: Tensor("F32", (1,), lambda name=name: give(name)) for name in "ab"}
    pieces = stream(tensors)
    next(pieces)
    assert asked == []
    next(pieces)
    assert asked == ["a"]
    assert len(list(pieces)) == 1


def test_a_tensor_that_was_resized_meanwhile_spoils_no_file():
    with pytest.raises(InvalidValueError, match=r"'w' had 8 bytes .* now 12"):
        streamed({"w": tensor("F32", (2,), bytes(12))})


def test_more_tensors_than_a_reader_takes_are_refused_before_they_are_written():
    many = dict.fromkeys((f"{'x' * 100}{number}" for number in range(120_000)), None)
    empty = tensor("U8", (0,), b"")
    with pytest.raises(InvalidValueError, match="Stack those of one shape"):
        streamed(dict.fromkeys(many, empty))


# ---------------------------------------------------------------------- reading

ONE = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}


def with_(**changes):
    return file_of({"a": ONE | changes}, b"x")


def raw(entry, body=b"x"):
    return file_of(b'{"a":' + entry + b"}", body)


MALFORMED = {
    "nothing": b"",
    "a length that is cut off": b"\x08\0\0\0",
    "a length and no header": struct.pack("<Q", 8),
    "an empty header": file_of(b""),
    "a header that is cut off": file_of({"a": ONE}, b"x")[:30],
    "a header longer than the file": struct.pack("<Q", 2**20) + b"{}",
    "a header of 2**64 - 1 bytes": struct.pack("<Q", 2**64 - 1) + b"{}",
    "no JSON": file_of(b"{'a': 1}"),
    "pickle": b"\x80\x04\x95\x1f\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93.",
    "a list": file_of([ONE]),
    "a text": file_of(b'"a"'),
    "null": file_of(b"null"),
    "two objects": file_of(orjson.dumps({"a": ONE}) + b"{}", b"x"),
    "a NUL behind the header": file_of(orjson.dumps({"a": ONE}) + b"\0", b"x"),
    "a comma too many": raw(orjson.dumps(ONE) + b","),
    "a byte order mark": file_of(b"\xef\xbb\xbf" + orjson.dumps({"a": ONE}), b"x"),
    "UTF-16": file_of(orjson.dumps({"a": ONE}).decode().encode("utf-16-le"), b"x"),
    "names that are not UTF-8": file_of(b'{"a\xff":' + orjson.dumps(ONE) + b"}", b"x"),
    "overlong UTF-8": file_of(b'{"\xc0\xaf":' + orjson.dumps(ONE) + b"}", b"x"),
    "half a surrogate pair": file_of(rb'{"\ud800":' + orjson.dumps(ONE) + b"}", b"x"),
    "a control character": file_of(b'{"a\x01":' + orjson.dumps(ONE) + b"}", b"x"),
    "an escape that is none": file_of(rb'{"\x61":' + orjson.dumps(ONE) + b"}", b"x"),
    "brackets 100,000 deep": raw(b"[" * 100_000 + b"]" * 100_000),
    "objects 100,000 deep": file_of(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "metadata 100,000 deep": file_of(b'{"__metadata__":{"a":' + b"[" * 100_000),
    "metadata of numbers": file_of({"__metadata__": {"a": 1}, "a": ONE}, b"x"),
    "metadata that is a list": file_of({"__metadata__": [], "a": ONE}, b"x"),
    "metadata that is a tensor": file_of({"__metadata__": ONE}, b"x"),
    "metadata under a name that is escaped": file_of(rb'{"__m\u0065tadata__":{"a":1}}'),
    "metadata that is not UTF-8": file_of(b'{"__metadata__":{"a":"\xff"}}'),
    "metadata twice": file_of(b'{"__metadata__":{},"__metadata__":{}}'),
    "a name twice, with a gap": raw(
        b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}', b"xy",
    ),
    "a field twice": raw(b'{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}'),
    "a number as a tensor": file_of({"a": 1}),
    "an empty object as a tensor": file_of({"a": {}}),
    "no dtype": file_of({"a": {"shape": [1], "data_offsets": [0, 1]}}, b"x"),
    "no shape": file_of({"a": {"dtype": "U8", "data_offsets": [0, 1]}}, b"x"),
    "no offsets": file_of({"a": {"dtype": "U8", "shape": [1]}}, b"x"),
    "a dtype that is none": with_(dtype="Q8"),
    "a dtype in small letters": with_(dtype="u8"),
    "a dtype that is a list": with_(dtype=["U8"]),
    "a dtype that is null": with_(dtype=None),
    "a shape that is null": with_(shape=None),
    "a shape that is a number": with_(shape=1),
    "a shape of lists": with_(shape=[[1]]),
    "a shape of text": with_(shape=["1"]),
    "a shape of fractions": with_(shape=[1.0]),
    "a shape of truths": with_(shape=[True]),
    "a negative shape": with_(shape=[-1]),
    "two negative shapes": with_(shape=[-1, -1]),
    "minus nothing": raw(b'{"dtype":"U8","shape":[1],"data_offsets":[-0,1]}'),
    "NaN": raw(b'{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}'),
    "Infinity": raw(b'{"dtype":"U8","shape":[Infinity],"data_offsets":[0,1]}'),
    "a number of 5,000 digits": raw(orjson.dumps(ONE).replace(b"[1]", b"[%s]" % (b"9" * 5000))),
    "a shape whose product overflows": with_(shape=[2**32, 2**32 + 1]),
    "a shape whose product overflows before a zero": file_of(
        {"a": {"dtype": "U8", "shape": [2**63, 2**63, 0], "data_offsets": [0, 0]}}
    ),
    "one offset": with_(data_offsets=[1]),
    "three offsets": with_(data_offsets=[0, 1, 1]),
    "offsets of text": with_(data_offsets=["0", "1"]),
    "negative offsets": with_(data_offsets=[-1, 0]),
    "an end before its start": with_(data_offsets=[1, 0]),
    "huge offsets": with_(data_offsets=[2**63, 2**63 + 1]),
    "offsets beyond 64 bits": raw(orjson.dumps(ONE).replace(b",1]", b",18446744073709551617]")),
    "more elements than bytes": with_(shape=[2]),
    "fewer elements than bytes": with_(shape=[0]),
    "wider elements than bytes": with_(dtype="F32"),
    "a body that is cut off": with_()[:-1],
    "bytes that belong to nothing": with_() + b"y",
    "bytes and no tensor": file_of({}, b"x"),
    "a gap at the start": file_of({"a": ONE | {"data_offsets": [1, 2]}}, b"xy"),
    "a gap between": file_of({"a": ONE, "b": ONE | {"data_offsets": [2, 3]}}, b"xyz"),
    "an overlap": file_of({"a": ONE, "b": ONE}, b"x"),
    "a part of another": file_of(
        {"a": ONE | {"shape": [2], "data_offsets": [0, 2]},
         "b": ONE | {"data_offsets": [1, 2]}}, b"xy"
    ),
    "an empty one inside another": file_of(
        {"a": ONE | {"shape": [2], "data_offsets": [0, 2]},
         "b": ONE | {"shape": [0], "data_offsets": [1, 1]}}, b"xy"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_what_the_reference_refuses_is_refused(what):
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(MALFORMED[what])
    reason(MALFORMED[what])


STRANGE = {
    "a name twice": raw(
        b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    ),
    "a name twice, once escaped": raw(
        b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        rb'"\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    ),
    "a further key": with_(more=1),
    "a list in the place of keys": raw(b'["U8",[1],[0,1]]'),
    "a dtype of eight bits that few know": with_(dtype="F8_E8M0"),
    "a name of more than a megabyte": file_of({"n" * (2**20 + 1): ONE}, b"x"),
}  # fmt: skip


@pytest.mark.parametrize("what", STRANGE)
def test_what_the_reference_takes_and_nobody_writes_is_refused_too(what):
    assert safetensors.deserialize(STRANGE[what])
    reason(STRANGE[what])


@pytest.mark.parametrize("header_bytes", [17 * 2**20, 101 * 2**20])
def test_a_header_that_is_longer_than_any_is_refused_unread(header_bytes):
    assert f"a header of {header_bytes:,} bytes" in reason(file_of(b"{}".ljust(header_bytes)))


READABLE = {
    "white space": file_of(
        b' {\n"a"\t:{ "dtype":"U8" ,"shape": [ 1 ],"data_offsets":[0,\r1]} } \n', b"x"
    ),
    "keys in another order": file_of({"a": dict(reversed(ONE.items()))}, b"x"),
    "names in another order": file_of({"b": ONE | {"data_offsets": [1, 2]}, "a": ONE}, b"xy"),
    "metadata": file_of({"__metadata__": {"a": '{"}[', "b": "\\\""}, "a": ONE}, b"x"),
    "metadata behind": file_of({"a": ONE, "__metadata__": {}}, b"x"),
    "metadata alone": file_of({"__metadata__": {"a": "b"}}),
    "a name with brackets": file_of({'{"[,:}]"': ONE}, b"x"),
    "a name that is escaped": file_of(rb'{"\ud83e\udd89\u0000":' + orjson.dumps(ONE) + b"}", b"x"),
    "empty tensors": file_of(
        {"b": ONE | {"shape": [0, 2**63], "data_offsets": [1, 1]}, "a": ONE,
         "c": ONE | {"shape": [3, 0], "data_offsets": [0, 0]}}, b"x"
    ),
    "no shape but a scalar": with_(shape=[]),
    "one that is not aligned": file_of(
        {"a": ONE, "b": {"dtype": "F64", "shape": [1], "data_offsets": [1, 9]}}, b"x" * 9
    ),
}  # fmt: skip


def as_the_reference_reads(data):
    return {
        name: (kept["dtype"], tuple(kept["shape"]), bytes(kept["data"]))
        for name, kept in safetensors.deserialize(data)
    }


def as_we_read(data):
    return {name: (*part[:2], bytes(part.data)) for name, part in parsed(data).items()}


@pytest.mark.parametrize("what", READABLE)
def test_what_others_write_is_read_as_the_reference_reads_it(what):
    assert as_we_read(READABLE[what]) == as_the_reference_reads(READABLE[what])


sizes = st.sampled_from([0, 1, 2, 3, 4, 8, 12, -1, 2**31, 2**63, 2**64, 1.0, True, None])
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "F32", "BF16", "F8_E5M2", "Q4", 3]),
        "shape": st.lists(sizes, max_size=3),
        "data_offsets": st.lists(sizes, min_size=1, max_size=3),
    }
)


@given(
    st.dictionaries(st.sampled_from(["a", "b", "é", "__metadata__"]), entries, max_size=3),
    st.binary(max_size=12),
)
def test_any_header_is_refused_where_the_reference_does_and_otherwise_read_equal(header, body):
    compare(file_of(json.dumps(header).encode(), body))


@given(st.binary(max_size=3), st.integers(0, 200), st.integers(0, 255))
def test_a_byte_that_was_changed_is_refused_where_the_reference_does(cut, place, byte):
    data = bytearray(file_of({"a": ONE, "b": ONE | {"data_offsets": [1, 2]}}, b"xy"))
    data[place % len(data)] = byte
    compare(bytes(data) + cut)


def compare(data):
    try:
        expected = as_the_reference_reads(data)
    except safetensors.SafetensorError:
        reason(data)
        return
    try:
        assert as_we_read(data) == expected
    except DamagedError as error:
        strange = ("stands in its header twice", "is not described by", "has the dtype")
        assert any(words in str(error) for words in strange), data  # noqa: PT017


BOMBS = {
    "lists": lambda: b'{"a":' + b"[]," * 5_000_000,
    "lists in metadata": lambda: b'{"__metadata__":{"a":[' + b"[]," * 5_000_000,
    "metadata": lambda: b'{"__metadata__":{' + b'"a":"b",' * 1_900_000,
    "a shape": lambda: b'{"a":{"dtype":"U8","shape":[' + b"1," * 7_000_000,
    "a name": lambda: b'{"' + b"\\n" * 8_000_000 + b'":1}',
    "numbers": lambda: b'{"a":{"dtype":"U8","shape":[' + b",".join([b"9" * 4000] * 4000) + b"]}}",
    "white space": lambda: b"{" + b" " * 16_000_000,
    "brackets": lambda: b"[" * 16_000_000,
    "fields": lambda: b'{"a":{' + b'"dtype":"U8",' * 1_200_000 + b"}}",
}
"""Headers of 16 MB that become twenty times as much as Python objects, or a stack too deep."""

_REFUSE = """
import resource, sys
from experiment_tracking.errors import DamagedError
from experiment_tracking.formats.tensor_files import parse

data = memoryview(sys.stdin.buffer.read())
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 30 * 2**20,) * 2)
try:
    parse(data, "The file")
except DamagedError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.parametrize("what", BOMBS)
def test_a_header_that_would_take_much_memory_is_refused_with_little(what):
    done = subprocess.run(
        [sys.executable, "-c", _REFUSE],
        input=file_of(BOMBS[what]()),
        capture_output=True,
        check=False,
    )
    assert b"is not a whole safetensors file" in done.stdout, done.stderr


def test_fifty_thousand_tensors_are_read():
    many = {
        f"model.layers.{n}.w": tensor("F32", (1, 1), struct.pack("<f", n)) for n in range(50_000)
    }
    parts = parsed(streamed(many))
    assert len(parts) == 50_000
    assert bytes(parts["model.layers.777.w"].data) == struct.pack("<f", 777)


def test_nothing_is_copied():
    data = bytearray(streamed({"w": tensor("U8", (3,), b"abc")}))
    part = parsed(data)["w"]
    data[-1] = ord("x")
    assert bytes(part.data) == b"abx"
