import pytest

from experiment_tracking.errors import DamagedError
from experiment_tracking.importers.mlflow_meta import parse_meta

WRITTEN = {
    "end_time": None,
    "name": "two words " * 20,
    "quoted": "it's: a 'name' " * 12,
    "lines": "first\nsecond\n\nfourth\n",
    "odd": "tab\there \x07 \u2028 end " * 9,
    "unicode": "größe 波 ",
    "number_like": "0123",
    "true_like": "true",
    "empty": "",
    "tags": {"mlflow.data.context": "training", "a b": "x"},
}


def test_what_pyyaml_writes_is_read_back():
    yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
    text = yaml.safe_dump({**WRITTEN, "none": [], "nothing": {}}, allow_unicode=True)
    meta = parse_meta(text)
    assert meta.pop("none") == meta.pop("nothing") == {}
    assert meta.pop("empty") is None or "''" in text
    assert meta == {name: value for name, value in WRITTEN.items() if name != "empty"}


def test_a_folded_name_and_a_mapping_below_are_read():
    text = "name: a long\n  name\nstatus: 3\ntags:\n  a: '1'\nend_time: null\n"
    assert parse_meta(text) == {
        "name": "a long name", "status": "3", "tags": {"a": "1"}, "end_time": None,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["just words", "name: |\n  block", "a: &x b", "a: {b: c}", "\0\0"])
def test_other_yaml_is_refused_with_the_place(text):
    with pytest.raises(DamagedError):
        parse_meta(text)
