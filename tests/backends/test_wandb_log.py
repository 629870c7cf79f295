import json
import math
import struct
import zlib

import pytest

from experiment_tracking.backends.wandb_log import (
    Artifact,
    ArtifactFile,
    Config,
    Exit,
    Row,
    Summary,
    WandbLog,
    find_logs,
)
from experiment_tracking.errors import FormatError

BLOCK = 32 * 1024
HEAD = b":W&B\xe1\xbe\x00"


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, value):
    """One field of Protocol Buffers: an integer, a double, a text or a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def item(path, value):
    keys = b"".join(field(2, key) for key in path)
    return field(1, keys + field(16, json.dumps(value)))


def row(step, **values):
    items = b"".join(item([key], value) for key, value in values.items())
    return field(2, items + field(2, field(1, step) if step else b""))


def piece(kind, data):
    crc = zlib.crc32(data, zlib.crc32(bytes([kind])))
    return struct.pack("<IHB", crc, len(data), kind) + data


def log_of(records):
    """Frame records as LevelDB's log writer does."""
    out = bytearray(HEAD)
    for record in records:
        rest, is_first = record, True
        while is_first or rest:
            left = BLOCK - len(out) % BLOCK
            if left < 7:
                out += bytes(left)
                left = BLOCK
            data, rest = rest[: left - 7], rest[left - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}
            out += piece(kind[is_first, not rest], data)
            is_first = False
    return bytes(out)


@pytest.fixture
def log(tmp_path):
    def log(data):
        path = tmp_path / "run-abc.wandb"
        path.write_bytes(data if isinstance(data, bytes) else log_of(data))
        return WandbLog(path)

    return log


def test_rows_come_with_their_step_and_nested_values(log):
    nested = field(2, item(["a", "b"], 1) + item(["a", "c"], [2]) + field(2, field(1, 7)))
    assert list(log([row(0, loss=0.5), nested]).rows()) == [
        Row(0, {"loss": 0.5}),
        Row(7, {"a": {"b": 1, "c": [2]}}),
    ]


def test_numbers_that_are_not_finite_are_kept(log):
    (found,) = log([row(0, x=math.inf, y=-math.inf, z=math.nan)]).rows()
    assert found.values["x"] == math.inf
    assert found.values["y"] == -math.inf
    assert math.isnan(found.values["z"])


def test_typed_values_are_read_as_well(log):
    typed = [
        ("none", field(3, 0)), ("yes", field(4, 1)), ("minus", field(5, 3)),
        ("half", field(6, 0.5)), ("text", field(7, "é")), ("list", field(8, "[1]")),
    ]  # fmt: skip
    items = b"".join(field(1, field(1, key) + value) for key, value in typed)
    (found,) = log([field(2, items)]).rows()
    expected = {"none": None, "yes": True, "minus": -2, "half": 0.5, "text": "é", "list": [1]}
    assert found.values == expected


def test_steps_are_those_of_the_rows(log):
    written = log([row(0, a=1), field(18, b""), row(5, a=2), row(-3, a=2)])
    assert list(written.steps()) == [0, 5, -3]


def test_all_but_the_rows_is_put_together(log):
    entry = field(1, "w.bin") + field(2, "d1") + field(4, 12) + field(6, "/tmp/w.bin")
    metadata = field(8, '{"acc": 1}')
    artifact = field(4, "model") + field(5, "m") + metadata + field(11, "latest")
    stamp = field(1, 100) + field(2, 500_000_000)
    config = field(4, item(["lr"], 0.1) + item(["net"], {"depth": 2}))
    records = [
        field(17, field(1, "abc") + field(3, "p") + field(8, "first") + config + field(10, "t")),
        field(17, field(1, "abc") + field(3, "p") + field(8, "then") + field(17, stamp) + config),
        field(5, item(["net", "depth"], 3) + field(2, field(1, "lr"))),
        field(3, item(["loss"], 1) + item(["old"], 1)),
        field(3, field(2, field(2, "old"))),
        field(12, field(2, "*") + field(4, "step") + field(7, field(1, 1)) + field(8, 2)),
        field(8, artifact + field(12, field(4, entry))),
        field(6, field(1, field(1, "media/x.png"))),
        field(26, field(5, "--lr") + field(9, field(1, "git@x") + field(2, "c0ffee"))),
        row(0, loss=1),
        field(18, field(1, 3) + field(2, 9)),
    ]
    found = log(records).read()
    assert (found.run.id, found.run.project, found.run.name) == ("abc", "p", "then")
    assert found.run.started_at == 100.5
    assert found.config == {"net": {"depth": 3}}
    assert found.summary == {"loss": 1}
    (metric,) = found.metrics
    assert (metric.glob, metric.step_metric, metric.goal) == ("*", "step", "maximize")
    assert metric.summary == ("min",)
    (kept,) = found.artifacts
    assert (kept.name, kept.type, kept.metadata, kept.aliases) == (
        "m", "model", {"acc": 1}, ("latest",),
    )  # fmt: skip
    assert kept.files == (ArtifactFile("w.bin", 12, "d1", "/tmp/w.bin", ""),)
    assert found.files == ["media/x.png"]
    assert (found.environment.args, found.environment.git_commit) == (("--lr",), "c0ffee")
    assert (found.rows, found.exit_code, found.torn, found.problems) == (1, 3, False, [])


def test_an_exit_without_fields_is_the_exit_code_0(log):
    assert list(log([field(18, b"")]).records()) == [Exit(0, 0)]
    assert log([field(18, b"")]).read().exit_code == 0


def test_a_log_without_an_exit_is_of_a_run_that_was_cut_off(log):
    assert log([row(0, a=1)]).read().exit_code is None


def test_records_and_fields_that_are_not_known_are_passed_over(log):
    later = field(99, b"what?") + field(1, 5)
    with_more = field(3, item(["a"], 1) + field(77, 1.5) + field(78, b"x"))
    written = log([later, with_more])
    assert list(written.records()) == [Summary(((("a",), 1),), ())]
    assert written.problems == []


def test_a_long_record_goes_over_several_blocks(log):
    text = "x" * (3 * BLOCK)
    assert [r.values["t"] for r in log([row(0, t=text), row(1, t="end")]).rows()] == [text, "end"]


@pytest.mark.parametrize("short", range(9))
def test_the_end_of_a_block_is_padded_where_no_head_fits(log, short):
    sizes = (len(log_of([row(0, t="x" * n)])) for n in range(BLOCK - 100, BLOCK))
    length = BLOCK - 100 + [*sizes].index(BLOCK - short)
    written = log([row(0, t="x" * length), row(1, t="b")])
    assert list(written.steps()) == [0, 1]
    assert (written.torn, written.problems) == (False, [])


def test_a_file_that_was_cut_anywhere_has_every_row_before_the_cut(log):
    records = [row(step, loss=step / 3) for step in range(4)]
    ends = [len(log_of(records[:count])) for count in range(5)]
    data = log_of(records)
    for cut in range(len(data) + 1):
        if 0 < cut < len(HEAD):
            continue
        written = log(data[:cut])
        whole = sum(end <= cut for end in ends[1:])
        assert [r.step for r in written.rows()] == list(range(whole))
        assert written.torn == (cut not in ends)
        assert written.whole_bytes == (ends[whole] if whole else 0)
        assert written.problems == []


def test_a_long_record_that_was_cut_is_torn(log):
    written = log(log_of([row(0, a=1), row(1, t="x" * (2 * BLOCK))])[: BLOCK + 50])
    assert list(written.steps()) == [0]
    assert written.torn
    assert written.problems == []
    assert written.whole_bytes == len(log_of([row(0, a=1)]))


def test_zeros_that_a_power_cut_left_are_a_torn_end(log):
    written = log(log_of([row(0, a=1)]) + bytes(5000))
    assert list(written.steps()) == [0]
    assert written.torn
    assert written.problems == []


def test_damage_is_told_and_the_next_block_is_read(log):
    records = [row(step, t="x" * 1000) for step in range(100)]
    data = bytearray(log_of(records))
    data[500] ^= 1
    written = log(bytes(data))
    found = list(written.steps())
    assert found == list(range(found[0], 100))
    assert 0 < found[0] < 40
    assert len(written.problems) == 1
    assert "damaged at byte 7" in written.problems[0]


def test_a_record_that_lost_its_middle_is_not_glued_together(log):
    data = bytearray(log_of([row(0, t="x" * (3 * BLOCK)), row(1, t="end")]))
    data[BLOCK + 500] ^= 1
    written = log(bytes(data))
    assert [r.step for r in written.rows()] == [1]
    assert len(written.problems) == 1


def test_a_record_that_is_none_is_told_and_the_others_are_read(log):
    not_json = field(2, field(1, field(2, "a") + field(16, "{")))
    a_number_for_a_message = field(2, field(1, 5))
    written = log([not_json, b"\x12\xff\xff", a_number_for_a_message, row(1, a=1)])
    assert list(written.records()) == [Row(1, {"a": 1})]
    assert len(written.problems) == 3


def test_every_pass_reads_what_has_been_added(log):
    written = log([row(0, a=1)])
    assert list(written.steps()) == [0]
    log([row(0, a=1), row(1, a=1)])
    assert list(written.steps()) == [0, 1]


def test_an_empty_file_is_one_that_was_just_made(log):
    written = log(b"")
    assert list(written.records()) == []
    assert written.torn


@pytest.mark.parametrize("data", [b"PK\x03\x04" + bytes(20), b":W&", b"[\n]\n"])
def test_a_file_that_is_no_log_is_refused(log, data):
    with pytest.raises(FormatError, match="is not a W&B log"):
        list(log(data).records())


def test_another_version_of_the_framing_is_refused(log):
    with pytest.raises(FormatError, match="version 9, this version reads 0"):
        list(log(HEAD[:-1] + b"\x09").records())


def test_removed_params_are_named(log):
    assert list(log([field(5, field(2, field(2, "a") + field(2, "b")))]).records()) == [
        Config((), (("a", "b"),))
    ]


def test_an_artifact_with_a_long_list_of_files_has_its_place(log):
    record = field(8, field(5, "m") + field(12, field(5, "/tmp/manifest.json")))
    (found,) = log([record]).records()
    assert isinstance(found, Artifact)
    assert (found.files, found.manifest_path) == ((), "/tmp/manifest.json")


def test_logs_are_found_oldest_first_and_below_any_folder(tmp_path):
    wandb = tmp_path / "wandb"
    for name in ("run-20260103_000000-a", "offline-run-20260101_000000-a"):
        (wandb / name / "files").mkdir(parents=True)
        (wandb / name / "run-a.wandb").write_bytes(HEAD)
        (wandb / name / "files" / "run-x.wandb").write_bytes(HEAD)
    (wandb / "latest-run").symlink_to("run-20260103_000000-a")
    expected = [
        str(wandb / name / "run-a.wandb")
        for name in ("offline-run-20260101_000000-a", "run-20260103_000000-a")
    ]
    assert find_logs(tmp_path) == expected
    assert find_logs(wandb) == expected
    assert find_logs(wandb / "run-20260103_000000-a") == expected[1:]
    assert find_logs(tmp_path / "nothing") == []
