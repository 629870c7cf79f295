import pytest

from experiment_tracking.capture import untracked
from experiment_tracking.capture.untracked import UntrackedNames, output_folder


def chosen(*names, beside_tracked=False, foreign=()):
    """The code among files of these names, and what was left out by its path."""
    found = UntrackedNames(foreign.__contains__)
    for name in names:
        found.add(name, beside_tracked=beside_tracked)
    code, left_out = found.choose()
    return code, dict(left_out)


def many(folder, ending, number):
    return [f"{folder}/{n}{ending}" for n in range(number)]


def data(number):
    return f"files that look like data: {number:,}"


OUTPUT = "a folder that tools write into"


def test_programs_come_before_configuration_and_shallow_before_deep():
    names = ["a/b/c.py", "conf/x.yaml", "z.py", "README.md", "a/b.py", "plot.png"]
    assert chosen(*names) == (["z.py", "a/b.py", "a/b/c.py", "README.md", "conf/x.yaml"], {})


def test_a_file_that_is_named_twice_counts_once():
    assert chosen("a.py", "a.py") == (["a.py"], {})


@pytest.mark.parametrize("name", ["data/patients.json", "lab/Labels/a/b/notes.TXT", "corpus/a.xml"])
def test_texts_in_folders_that_are_called_data_are_data(name):
    code, left_out = chosen(name, "train.py")
    assert (code, list(left_out.values())) == (["train.py"], [data(1)])


@pytest.mark.parametrize("name", ["data/coco.yaml", "data/prep.py", "database/a.json", "data.json"])
def test_programs_and_configuration_in_folders_that_are_called_data_are_code(name):
    assert chosen(name) == ([name], {})


def test_a_program_beside_texts_tells_that_they_belong_to_it():
    package = ["lab/data/__init__.py", "lab/data/assets/vocab.json", "lab/data/stats.json"]
    assert sorted(chosen(*package)[0]) == package
    assert chosen("data/a.json", "data/tools/x.py", "data/tools/y.json") == (
        ["data/tools/x.py", "data/tools/y.json"],
        {"data/": data(1)},
    )


@pytest.mark.parametrize("ending", [".txt", ".json", ".yaml", ".in"])
def test_many_files_in_a_folder_without_a_program_are_data(ending):
    few, more = many("few", ending, 50), many("some/more", ending, 51)
    code, left_out = chosen(*few, *more, "some/x.yaml", "train.py")
    assert (code[0], sorted(code[1:])) == ("train.py", sorted([*few, "some/x.yaml"]))
    assert left_out == {"some/more/": data(51)}


def test_many_files_beside_a_program_are_code():
    names = [*many("conf", ".yaml", 100), "conf/make.py"]
    assert (len(chosen(*names)[0]), chosen(*names)[1]) == (101, {})


def test_many_small_folders_are_data_together():
    scenes = [f"scenes/{n}/meta.json" for n in range(201)]
    assert chosen(*scenes, "conf/a.yaml") == (["conf/a.yaml"], {"scenes/": data(201)})
    assert len(chosen(*scenes[:200])[0]) == 200


def test_many_files_never_make_data_of_the_top_or_of_what_lies_beside_them():
    top = [f"{n}.yaml" for n in range(300)]
    assert chosen(*top) == (sorted(top), {})
    code, left_out = chosen(*many("lab/boxes", ".txt", 5_000), "lab/conf/new.yaml")
    assert (code, left_out) == (["lab/conf/new.yaml"], {"lab/boxes/": data(5_000)})


def test_what_tools_write_is_left_out_and_named_once():
    names = ["a/outputs/1/outputs/c.yaml", "a/outputs/2/c.yaml", "wandb/run/code/train.py"]
    assert chosen(*names) == ([], {"a/outputs/": OUTPUT, "wandb/": OUTPUT})
    assert output_folder("a/outputs") is None


def test_a_program_beside_tracked_files_is_code_whatever_its_folder_is_called():
    names = ["runs/big.sh", "runs/big.yaml"]
    assert chosen(*names, beside_tracked=True) == (["runs/big.sh"], {"runs/": OUTPUT})
    assert chosen(*names) == ([], {"runs/": OUTPUT})


def test_files_of_foreign_folders_do_not_count():
    assert chosen("env/a.py", "b.py", foreign=["env"]) == (["b.py"], {})
    assert chosen("env/a.py", "b.py", foreign=["env", ""]) == ([], {})


def test_what_is_no_code_uses_up_no_bound_and_texts_use_up_none_of_programs(monkeypatch):
    monkeypatch.setattr(untracked, "MAX_PROGRAMS", 2)
    monkeypatch.setattr(untracked, "MAX_OTHERS", 2)
    found = UntrackedNames(lambda folder: False)
    for name in (*many("a", ".jpg", 100), *many("a", ".yaml", 2), "a.py", "b.py"):
        found.add(name, beside_tracked=False)
    assert not found.is_cut
    found.add("c.yaml", beside_tracked=False)
    assert found.is_cut
    assert found.choose()[0] == ["a.py", "b.py", "a/0.yaml", "a/1.yaml"]
