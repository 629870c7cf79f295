import errno
import json
import os
import threading

import pytest

from experiment_tracking.errors import DamagedError
from experiment_tracking.folder.hashing import sha256
from experiment_tracking.models import events
from experiment_tracking.models.events import EventLog, Wish


@pytest.fixture
def log(tmp_path):
    return EventLog(str(tmp_path))


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(events, "_PATIENCE_S", 0.05)


def fill(log, *words):
    for word in words:
        assert log.add(last(log), Wish(word, "ann", None, {"word": word}))


def last(log):
    return next(reversed(log.read()), None)


def read_anew(log):
    return EventLog(log.path).read()


def test_events_come_back_in_order_and_each_names_the_hash_of_the_one_before(log, tmp_path):
    fill(log, "one", "two", "three")
    assert [(e.number, e.kind, e.by, e.known) for e in read_anew(log)] == [
        (1, "one", "ann", {"word": "one"}),
        (2, "two", "ann", {"word": "two"}),
        (3, "three", "ann", {"word": "three"}),
    ]
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == ["000001.json", "000002.json", "000003.json"]
    previous = [json.loads(path.read_bytes())["previous"] for path in paths]
    assert previous == [None, *(sha256(path.read_bytes()) for path in paths[:2])]


def test_a_number_that_is_taken_is_not_given_again(log):
    fill(log, "one")
    assert not EventLog(log.path).add(None, Wish("late", "bob"))
    assert [event.kind for event in log.read()] == ["one"]


def test_what_was_read_is_not_read_again(log, monkeypatch):
    fill(log, "one", "two")
    log.read()
    read = []
    real = events.read_hashed
    monkeypatch.setattr(events, "read_hashed", lambda path: read.append(path) or real(path))
    fill(EventLog(log.path), "three")
    read.clear()
    assert [event.kind for event in log.read()] == ["one", "two", "three"]
    assert [os.path.basename(path) for path in read] == ["000003.json"]


def test_a_folder_that_was_put_in_the_place_of_another_is_read_anew(tmp_path):
    log, other = EventLog(str(tmp_path / "events")), EventLog(str(tmp_path / "other"))
    for each, words in ((log, ("one", "two")), (other, ("uno", "due", "tre"))):
        os.mkdir(each.path)
        fill(each, *words)
    assert [event.kind for event in log.read()] == ["one", "two"]
    os.rename(log.path, tmp_path / "kept")
    os.rename(other.path, log.path)
    assert [event.kind for event in log.read()] == ["uno", "due", "tre"]


def test_an_event_that_the_file_system_made_but_said_it_had_not_is_ours(log, monkeypatch):
    real = os.link

    def link(source, target):
        real(source, target)
        raise FileExistsError(errno.EEXIST, "asked again", target)

    monkeypatch.setattr(os, "link", link)
    assert log.add(None, Wish("one", "ann"))
    assert [event.kind for event in log.read()] == ["one"]


def test_without_hard_links_a_number_is_still_given_once(log, monkeypatch):
    def link(source, target):
        raise OSError(errno.EPERM, "no hard links here", target)

    monkeypatch.setattr(os, "link", link)
    fill(log, "one", "two")
    assert not EventLog(log.path).add(log.read()[0], Wish("late", "bob"))
    assert [event.kind for event in read_anew(log)] == ["one", "two"]
    assert len(os.listdir(log.path)) == 2


def test_a_disk_that_refuses_leaves_nothing_there(log, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(events.io, "fsync", full)
    with pytest.raises(OSError, match="full"):
        log.add(None, Wish("one", "ann"))
    assert log.read() == []
    assert os.listdir(log.path) == []


def test_the_newest_event_is_waited_for_while_it_is_being_written(log, tmp_path):
    fill(log, "one", "two")
    whole = (tmp_path / "000002.json").read_bytes()
    (tmp_path / "000002.json").write_bytes(whole[:20])
    asked = threading.Event()
    threading.Thread(
        target=lambda: asked.wait() and (tmp_path / "000002.json").write_bytes(whole)
    ).start()
    reader = EventLog(log.path)
    real, reader._document = reader._document, lambda *a, **k: asked.set() or real(*a, **k)
    assert [event.kind for event in reader.read()] == ["one", "two"]


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b'{"id": "x', b"[]", b"\xff{}"])
def test_a_newest_event_that_stays_torn_is_told_with_what_to_do(log, tmp_path, content, impatient):
    fill(log, "one", "two")
    (tmp_path / "000002.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"000002\.json.*move\s+that file away"):
        read_anew(log)
    os.unlink(tmp_path / "000002.json")
    assert [event.kind for event in read_anew(log)] == ["one"]


def test_an_event_missing_or_damaged_in_the_middle_is_never_passed_over(log, tmp_path):
    fill(log, "one", "two", "three")
    kept = (tmp_path / "000002.json").read_bytes()
    (tmp_path / "000002.json").write_bytes(kept[:20])
    with pytest.raises(DamagedError, match=r"000002\.json is not JSON.*from a copy"):
        read_anew(log)
    os.unlink(tmp_path / "000002.json")
    with pytest.raises(DamagedError, match=r"000002\.json is missing"):
        read_anew(log)


def test_an_event_that_was_edited_shows_at_the_one_behind_it(log, tmp_path):
    fill(log, "one", "two", "three")
    text = (tmp_path / "000002.json").read_text()
    (tmp_path / "000002.json").write_text(text.replace('"ann"', '"bob"'))
    with pytest.raises(DamagedError, match=r"000003\.json was added behind event 2 of another"):
        read_anew(log)


def test_events_that_were_exchanged_are_refused(log, tmp_path):
    fill(log, "one", "two", "three")
    os.rename(tmp_path / "000001.json", tmp_path / "x")
    os.rename(tmp_path / "000002.json", tmp_path / "000001.json")
    os.rename(tmp_path / "x", tmp_path / "000002.json")
    with pytest.raises(DamagedError, match=r"000001\.json was added behind no event"):
        read_anew(log)


def test_a_link_in_the_place_of_an_event_is_refused(log, tmp_path, impatient):
    fill(log, "one")
    os.rename(tmp_path / "000001.json", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", tmp_path / "000001.json")
    with pytest.raises(DamagedError, match="link"):
        read_anew(log)


@pytest.mark.parametrize("change", [{"at": 3}, {"by": None}, {"kind": []}, {"version": "1"}])
def test_a_document_that_is_no_event_is_refused(log, tmp_path, change):
    event = {"id": "x", "at": "now", "by": "ann", "kind": "one", "previous": None} | change
    (tmp_path / "000001.json").write_text(json.dumps(event))
    with pytest.raises(DamagedError, match="is no event"):
        read_anew(log)


def test_files_of_others_are_passed_over(log, tmp_path):
    fill(log, "one")
    for name in (".000002.json.1.ab.tmp", "notes.txt", "2.json", "000002.json~", "٠٠٠٠٠٢.json"):
        (tmp_path / name).write_text("x")
    assert [event.kind for event in read_anew(log)] == ["one"]


def test_a_folder_that_is_not_there_has_no_events(tmp_path):
    assert EventLog(str(tmp_path / "none")).read() == []


def test_who_has_read_an_event_that_was_replaced_since_reads_anew_before_adding(log, tmp_path):
    fill(log, "one", "two")
    os.unlink(tmp_path / "000002.json")
    fill(EventLog(log.path), "another")
    fill(log, "three")
    assert [event.kind for event in read_anew(log)] == ["one", "another", "three"]


def test_the_hash_of_the_newest_tells_a_change_that_nothing_else_does(log, tmp_path):
    fill(log, "one", "two")
    kept = log.read()[-1].file_sha256
    assert kept == sha256((tmp_path / "000002.json").read_bytes())
    text = (tmp_path / "000002.json").read_text()
    (tmp_path / "000002.json").write_text(text.replace('"ann"', '"bob"'))
    assert last(log).by == "bob"
    assert last(log).file_sha256 != kept


def test_a_disk_without_hard_links_that_refuses_leaves_nothing_there(log, monkeypatch):
    flushed = []

    def fsync(fd):
        flushed.append(fd)
        if len(flushed) > 1:  # the hidden file is on the disk
            raise OSError(errno.ENOSPC, "full")

    def link(source, target):
        raise OSError(errno.EPERM, "no hard links here", target)

    monkeypatch.setattr(events.io, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    with pytest.raises(OSError, match="full"):
        log.add(None, Wish("one", "ann"))
    assert os.listdir(log.path) == []
