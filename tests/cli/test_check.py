import json


def test_a_sound_root_has_no_defects(experiments, root):
    code, out, err = experiments("check")
    assert (code, out) == (0, "")
    assert str(root) in err


def test_a_defect_ends_with_1_until_it_is_mended(experiments, root):
    history = root / "digits" / "lr-0.1" / "metrics_history.json"
    with history.open("ab") as file:
        file.write(bytes(100))
    code, out, _ = experiments("check")
    assert code == 1
    assert str(history) in out
    assert experiments("check", "digits/lr-0.1")[0] == 1
    assert experiments("check", "lr-0.01", root / "waves")[0] == 0

    problems = json.loads(experiments("check", "--fix", "--json")[1])
    assert problems
    assert problems[0]["path"] == str(history)
    assert problems[0]["fixed"]
    assert experiments("check")[0] == 0


def test_a_run_too_damaged_to_be_read_can_be_checked_by_name(experiments, root):
    (root / "digits" / "lr-0.1" / "summary.json").write_text("{")
    code, out, err = experiments("check", "digits/lr-0.1", "--fix")
    assert code == 1
    assert "summary.json" in out
    assert "remain" in err


def test_what_is_not_there_cannot_be_checked(experiments):
    assert experiments("check", "digits/nix")[0] == 3
