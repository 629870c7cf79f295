import contextlib
import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder import io
from experiment_tracking.folder.documents import Document, encode, read_document

_keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_json = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"])),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
)  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "summary.json")


def full(*args, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


@given(st.dictionaries(_keys, _json, max_size=5))
def test_what_is_encoded_is_read_back(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "document.json"
    path.write_bytes(encode(value))
    assert read_document(str(path)) == value


def test_documents_are_indented_utf_8_with_a_last_newline():
    assert encode({"a": {"β": [1]}}).decode() == (
        '{\n  "a": {\n    "β": [\n      1\n    ]\n  }\n}\n'
    )


@pytest.mark.parametrize("number", [2**63 - 1, 2**64, 2**64 + 1, -(2**63) - 1, 10**600])
def test_integers_beyond_64_bits_come_back_exact(path, number):
    Path(path).write_bytes(encode({"seed": number, "β": "é"}))
    assert read_document(path) == {"seed": number, "β": "é"}
    assert b"\n  " in Path(path).read_bytes()


# ---------------------------------------------------------------- changes


def test_a_change_has_replaced_the_file_when_it_returns(path):
    document = Document(path, {"a": 1})
    document.save()

    def edit(value):
        value["b"] = 2
        assert read_document(path) == {"a": 1}

    document.update(edit)
    assert read_document(path) == {"a": 1, "b": 2}
    assert document.on_disk
    assert os.listdir(os.path.dirname(path)) == ["summary.json"]


def test_keys_that_nobody_knows_are_kept(path):
    Path(path).write_text('{"from_the_future": {"x": [1, null]}, "status": "running"}')
    document = Document(path, read_document(path))

    def edit(value):
        value["status"] = "finished"

    document.update(edit)
    assert read_document(path) == {"from_the_future": {"x": [1, None]}, "status": "finished"}


def test_a_document_without_a_file_is_kept_in_memory(tmp_path):
    document = Document(None, {})

    def edit(value):
        value["a"] = 1

    document.update(edit, durable=True)
    document.make_durable()
    assert (document.value, document.on_disk, document.durable) == ({"a": 1}, True, True)


def test_a_detached_document_leaves_its_file_alone(path):
    document = Document(path, {"a": 1})
    document.save()
    document.detach()

    def edit(value):
        value["a"] = 2

    document.update(edit)
    document.make_durable()
    assert read_document(path) == {"a": 1}


def test_a_snapshot_does_not_follow_later_changes():
    document = Document(None, {"a": 1})
    snapshot = document.snapshot()

    def edit(value):
        value["a"] = 2

    document.update(edit)
    assert snapshot == {"a": 1}


def test_sixteen_threads_lose_no_change(path):
    document = Document(path, {})

    def work(thread):
        for count in range(20):

            def edit(value, count=count):
                value[f"{thread} {count}"] = value.get("count", 0)
                value["count"] = value.get("count", 0) + 1

            document.update(edit)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_document(path)["count"] == 320
    assert len(read_document(path)) == 321


# ---------------------------------------------------------------- durability


def counted(monkeypatch, name):
    calls = []
    real = getattr(io, name)
    monkeypatch.setattr(io, name, lambda *args, **kw: (calls.append(args), real(*args, **kw))[1])
    return calls


def test_a_change_is_not_flushed_until_it_is_made_durable_once(path, monkeypatch):
    flushes = counted(monkeypatch, "fsync")
    document = Document(path, {})
    for number in range(3):

        def edit(value, number=number):
            value["n"] = number

        document.update(edit)
    assert (len(flushes), document.durable) == (0, False)
    document.make_durable()
    document.make_durable()
    assert (len(flushes), document.durable) == (1, True)

    def edit(value):
        value["n"] = 9

    document.update(edit)
    assert not document.durable


def test_a_durable_change_flushes_the_file_and_its_name_before_it_returns(path, monkeypatch):
    flushes = counted(monkeypatch, "fsync")
    document = Document(path, {})

    def edit(value):
        value["status"] = "finished"

    document.update(edit, durable=True)
    assert len(flushes) == (1 if os.name == "nt" else 2)
    document.make_durable()
    assert len(flushes) <= 2


def test_a_change_during_the_flush_is_not_taken_for_flushed(path, monkeypatch):
    document = Document(path, {"a": 1})
    document.save()

    def change_meanwhile(path):
        def edit(value):
            value["a"] = 2

        document.update(edit)

    monkeypatch.setattr(io, "fsync_file", change_meanwhile)
    document.make_durable()
    assert not document.durable


# ---------------------------------------------------------------- a disk that refuses


@pytest.mark.parametrize("call", ["create", "write_all", "replace"])
def test_a_change_that_the_disk_refused_is_written_by_the_next_save(path, monkeypatch, call):
    document = Document(path, {"a": 1})
    document.save()
    with monkeypatch.context() as patch:
        patch.setattr(io, call, full)

        def edit(value):
            value["b"] = 2

        with pytest.raises(OSError, match="No space"):
            document.update(edit)
        assert read_document(path) == {"a": 1}
        assert not document.on_disk
        with pytest.raises(OSError, match="No space"):
            document.make_durable()
    assert os.listdir(os.path.dirname(path)) == ["summary.json"]
    document.make_durable()
    assert read_document(path) == {"a": 1, "b": 2}
    assert document.durable


def test_a_change_that_its_maker_left_by_an_exception_is_not_lost(path):
    document = Document(path, {"a": 1})
    document.save()

    def edit(value):
        value["b"] = 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        document.update(edit)
    assert not document.on_disk
    document.make_durable()
    assert read_document(path) == {"a": 1, "b": 2}


# ---------------------------------------------------------------- signal handlers that change it


@pytest.mark.parametrize("call", ["create", "write_all", "replace"])
@pytest.mark.parametrize("late", [False, True], ids=["before", "behind"])
def test_a_change_inside_a_save_is_on_disk_too(path, monkeypatch, call, late):
    document = Document(path, {})
    real = getattr(io, call)

    def handler():
        monkeypatch.setattr(io, call, real)

        def edit(value):
            value["handler"] = 1

        document.update(edit)

    def interrupted(*args):
        if not late:
            handler()
        result = real(*args)
        if late:
            handler()
        return result

    monkeypatch.setattr(io, call, interrupted)

    def edit(value):
        value["main"] = 1

    document.update(edit)
    assert read_document(path) == {"main": 1, "handler": 1}
    assert os.listdir(os.path.dirname(path)) == ["summary.json"]


def test_real_signal_handlers_that_change_it_lose_nothing(path):
    document = Document(path, {})
    started, count = 0, 0
    returned = {}

    def change(number, frame):
        nonlocal started
        started += 1
        own = {f"handler {started}": started}

        def edit(value):
            value.update(own)

        document.update(edit)
        returned.update(own)

    earlier = signal.signal(signal.SIGALRM, change)
    try:
        while started < 50:
            count += 1
            own = {f"main {count}": count}
            # Once each time: on a busy machine a handler takes longer than any interval.
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + count % 7 * 1e-4)
            document.update(lambda value, own=own: value.update(own))
            returned.update(own)
            expected = dict(returned)
            assert expected.items() <= read_document(path).items()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    assert read_document(path) == returned
    assert len(returned) == started + count


# ---------------------------------------------------------------- readers


_READ = """
import sys
from experiment_tracking.folder.documents import read_document
print("ready", flush=True)
seen = -1
while seen < 400:
    value = read_document(sys.argv[1])
    assert value["size"] == len(value["filling"]) and value["n"] >= seen, value
    seen = value["n"]
"""


def test_a_reader_in_another_process_sees_one_whole_document_or_the_other(path):
    document = Document(path, {"n": -1, "size": 0, "filling": ""})
    document.save()
    reader = subprocess.Popen([sys.executable, "-c", _READ, path], stdout=subprocess.PIPE)
    assert reader.stdout.readline() == b"ready\n"
    for number in range(401):

        def edit(value, number=number):
            size = (number * 7919) % 50_000
            value |= {"n": number, "size": size, "filling": "x" * size}

        document.update(edit)
    reader.stdout.close()
    assert reader.wait(30) == 0


def test_a_reader_in_another_thread_sees_one_whole_document_or_the_other(path):
    document = Document(path, {"size": 0, "filling": ""})
    document.save()
    ended, problems = threading.Event(), []

    def read():
        while not ended.is_set():
            value = read_document(path)
            if value["size"] != len(value["filling"]):
                problems.append(value)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(300):

        def edit(value, number=number):
            size = (number * 7919) % 50_000
            value |= {"size": size, "filling": "x" * size}

        document.update(edit)
    ended.set()
    thread.join()
    assert problems == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("mask", [0o002, 0o027, 0o077])
def test_the_mode_of_a_document_is_what_the_umask_leaves(path, mask):
    before = os.umask(mask)
    try:
        Document(path, {}).save()
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o666 & ~mask


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"), (b"\0" * 4096, "all NUL"), (b"   \n", "Expecting value"),
        (b"{'a': 1}", "is not JSON"), ('{"a": "caf\xe9"}'.encode("latin-1"), "is not JSON"),
        (b"[" * 100_000, "is not JSON"), (b'{"a":' * 100_000, "is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"[1, 2]", "holds list"), (b"null", "holds NoneType"), (b"7", "holds int"),
        (b'"text"', "holds str"), (b'{"a": 1}{"b": 2}', "is not JSON"),
        (b'{"a": 1}\0\0\0', "is not JSON"), (b"\x80abc", "is not JSON"),
        (b'{"a": 1', "is not JSON"),
    ],
)  # fmt: skip
def test_damaged_content_is_refused_with_the_path_and_what_was_found(path, content, reason):
    Path(path).write_bytes(content)
    with pytest.raises(DamagedError, match=reason) as raised:
        read_document(path)
    assert path in str(raised.value)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"{}", {}), (b" \n{}\n", {}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"β": 1}'.encode("utf-16"), {"β": 1}),
        (b'{"status": "running", "status": "finished"}', {"status": "finished"}),
        (b'{"status": [1], "metrics": "x"}', {"status": [1], "metrics": "x"}),
        (b'{"__proto__": 1, "constructor": 2}', {"__proto__": 1, "constructor": 2}),
        (b'{"a": Infinity, "b": 1e400}', {"a": float("inf"), "b": float("inf")}),
        (b'{"' + b"k" * 1_000_000 + b'": 1}', {"k" * 1_000_000: 1}),
    ],
)  # fmt: skip
def test_odd_content_that_is_an_object_all_the_same_is_read(path, content, value):
    Path(path).write_bytes(content)
    assert read_document(path) == value


def test_many_long_integers_are_read_in_reasonable_time(path):
    Path(path).write_bytes(b'{"a": [' + b",".join([b"9" * 4300] * 100) + b"]}")
    assert len(read_document(path)["a"]) == 100


def test_cut_at_any_byte_a_document_is_refused_or_whole(path):
    data = encode({"a": {"b": [1, 2.5, "β"]}, "c": None})
    for cut in range(len(data)):
        Path(path).write_bytes(data[:cut])
        if cut < len(data) - 1:
            with pytest.raises(DamagedError):
                read_document(path)
        else:
            assert read_document(path) == orjson.loads(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_our_own_error_or_read(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    with contextlib.suppress(DamagedError):
        assert type(read_document(str(path))) is dict


def test_links_pipes_and_folders_in_the_place_of_a_document_are_refused(tmp_path):
    (tmp_path / "target.json").write_text("{}")
    os.symlink(tmp_path / "target.json", tmp_path / "link.json")
    os.symlink("/dev/zero", tmp_path / "endless.json")
    os.symlink(tmp_path / "loop.json", tmp_path / "loop.json")
    os.mkfifo(tmp_path / "pipe.json")
    os.mkdir(tmp_path / "folder.json")
    for name in ("link", "endless", "loop", "pipe", "folder"):
        with pytest.raises(DamagedError):
            read_document(str(tmp_path / f"{name}.json"))


def test_an_immense_document_is_refused_unread(path):
    with open(path, "wb") as file:
        file.truncate(50 * 2**30)
    with pytest.raises(DamagedError, match="allowed"):
        read_document(path)


def test_a_missing_document_is_missing_and_not_damaged(path):
    with pytest.raises(FileNotFoundError):
        read_document(path)


def test_documents_are_plain_json_for_everybody(path):
    Document(path, {"a": [1, "β"]}).save()
    with open(path, encoding="utf-8") as file:
        assert json.load(file) == {"a": [1, "β"]}
