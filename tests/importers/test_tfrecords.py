import struct

import pytest

from experiment_tracking.backends.tensorboard import TensorBoardBackend
from experiment_tracking.importers.tfrecords import EventFile

FRAME = 16
"""Bytes of a record besides its data."""


@pytest.fixture
def path(tmp_path):
    """An event file with steps 0 to 9."""
    backend = TensorBoardBackend(tmp_path)
    backend.start_run("r")
    backend.log_batch([{"step": n, "time": 1763640000.5 + n, "loss": n / 2} for n in range(10)])
    backend.close()
    (path,) = tmp_path.iterdir()
    return path


def steps(file):
    return [event.step for event in file if event.HasField("summary")]


def starts(path):
    """Positions of the records, the version's first."""
    data, found, position = path.read_bytes(), [], 0
    while position < len(data):
        found.append(position)
        position += FRAME + struct.unpack_from("<Q", data, position)[0]
    return found


def overwrite(path, position, content):
    with path.open("r+b") as file:
        file.seek(position)
        file.write(content)


def test_a_whole_file_gives_every_event_in_order(path):
    file = EventFile(path)
    assert steps(file) == list(range(10))
    assert (file.damaged, file.torn) == (0, False)


def test_a_file_can_be_read_again_when_it_has_grown(path):
    whole = path.read_bytes()
    cut = starts(path)[5]
    path.write_bytes(whole[:cut])
    file = EventFile(path)
    before = steps(file)
    path.write_bytes(whole)
    assert (before, steps(file)) == ([0, 1, 2, 3], list(range(10)))


@pytest.mark.parametrize("bytes_left", [1, 8, 11, 12, 15, 20])
def test_a_torn_end_loses_only_the_torn_record(path, bytes_left):
    last = starts(path)[-1]
    path.write_bytes(path.read_bytes()[: last + bytes_left])
    file = EventFile(path)
    assert steps(file) == list(range(9))
    assert (file.damaged, file.torn) == (0, True)


def test_zeros_that_a_power_cut_left_are_a_torn_end(path):
    path.write_bytes(path.read_bytes() + bytes(5000))
    file = EventFile(path)
    assert steps(file) == list(range(10))
    assert (file.damaged, file.torn) == (0, True)


@pytest.mark.parametrize("inside", [0, 8, 20, -2], ids=["length", "its CRC", "data", "data's CRC"])
def test_a_damaged_record_costs_only_itself(path, inside):
    at = starts(path)
    position = (at[4] if inside >= 0 else at[5]) + inside
    overwrite(path, position, bytes([path.read_bytes()[position] ^ 0xFF]))
    file = EventFile(path)
    assert steps(file) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert (file.damaged, file.torn) == (1, False)


def test_reading_goes_on_behind_a_large_damaged_part(path):
    whole = path.read_bytes()
    cut = starts(path)[3]
    path.write_bytes(whole[:cut] + b"x" * 3_000_001 + whole[cut:])
    file = EventFile(path)
    assert steps(file) == list(range(10))
    assert file.damaged == 1


def test_an_enormous_length_is_not_believed(path):
    from experiment_tracking.backends.tensorboard import _tensorboardx

    length = struct.pack("<Q", 2**60)
    checksum = struct.pack("<I", _tensorboardx().masked_crc32c(length))
    path.write_bytes(path.read_bytes() + length + checksum + b"data")
    file = EventFile(path)
    assert steps(file) == list(range(10))
    assert file.torn


def test_a_record_that_is_no_event_is_passed_over(path):
    from experiment_tracking.backends.tensorboard import _framer

    whole = path.read_bytes()
    cut = starts(path)[3]
    path.write_bytes(whole[:cut] + _framer()(b"\xff\xff\xff") + whole[cut:])
    file = EventFile(path)
    assert steps(file) == list(range(10))
    assert file.damaged == 1


def test_an_empty_file_and_one_of_something_else_hold_no_events(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "other").write_bytes(b"not an event file at all" * 1000)
    empty, other = EventFile(tmp_path / "empty"), EventFile(tmp_path / "other")
    assert (steps(empty), empty.torn, steps(other), other.torn) == ([], False, [], True)
