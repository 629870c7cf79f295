import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_tracking.reproduce.console import is_progress, normalise, read_console


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2026-01-02 12:03:59,123 INFO loss 0.5", "<…> INFO loss 0.5"),
        ("[2026-01-02T12:03:59.123Z] done", "[<…>] done"),
        ("2026-01-02T12:03:59+01:00 x", "<…> x"),
        ("saved run 20260102-120359", "saved run <…>"),
        ("I0102 12:03:59.123456   4242 pjrt.cc:67] hello", "<…> pjrt.cc:67] hello"),
        ("Fri Jan  2 12:03:59 2026: start", "<…>: start"),
        ("Fri, 2 Jan 2026 12:03:59 GMT", "<…>"),
        ("at 12:03 PM we began", "at <…> we began"),
        ("epoch 3 in 1.25s, loss 0.5", "epoch 3 in <…>, loss 0.5"),
        ("epoch 3 in 2m 3s", "epoch 3 in <…>"),
        ("took 3 ms (1.5e3 samples/s)", "took <…> (<…>)"),
        ("1200.5 it/s, 3.5s/it, 2ms/step", "<…>, <…>, <…>"),
        ("elapsed: 3.5 loss: 0.25", "elapsed: <…> loss: 0.25"),
        ("fps=312 reward=5", "fps=<…> reward=5"),
        ("worker pid=4242 ready", "worker <…> ready"),
        ("Process 4242 began", "<…> began"),
        ("<Model object at 0x7f8a12bc90>", "<Model object at <…>>"),
        ("saved to /tmp/tmpab12/model.pt.", "saved to <…>"),
        ("~/runs/a loaded", "<…> loaded"),
        ('  File "/home/ann/lab/train.py", line 3, in f', '  File "<…>", line 3, in f'),
        ("10/10 ━━━━━ 0s 2ms/step - loss: 0.5", "10/10 ━━━━━ <…> <…> - loss: 0.5"),
    ],
)
def test_what_is_of_the_moment_is_set_aside(line, expected):
    assert normalise(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "epoch 3: loss 0.1234 acc 0.5 lr 1e-3",
        "max 0.9 min 0.1",
        "train/loss 0.5 val/acc 0.75",
        "step 3 of 10, 64 samples, 5 h layers",
        "shape (64, 32, 3) dtype float32",
        "saved data/model.pt and ../other.csv",
        "GET https://example.org/data/x.csv",
        "time step 3 of 100",
        "ratio 16/9",
        "<project>/lab/train.py",
        "version 2.13.0",
    ],
)
def test_what_says_how_the_run_went_is_kept(line):
    assert normalise(line) == line


@pytest.mark.parametrize(
    "line",
    [
        " 45%|████▌     | 45/100 [00:01<00:01, 40.5it/s, loss=0.1]",
        "100%|##########| 10/10 [00:00<00:00]",
        "45it [00:01, 40.5it/s]",
        "Working ━━━━━━━━ 100% 0:00:01",
    ],
)
def test_progress_bars_are_known(line):
    assert is_progress(line)


@pytest.mark.parametrize("line", ["accuracy 45%", "10/10 ━━━━ 0s - loss: 0.5", "a | b", ""])
def test_other_lines_are_no_progress_bars(line):
    assert not is_progress(line)


def test_a_console_is_its_lines_without_bars_notices_and_blanks():
    text = "\nloss 0.5  \n 45%|██ | 4/9\nexperiment_tracking: run exp in /lab\nat 12:00:01\n"
    lines, aside = read_console(text)
    assert [(line.kind, line.numbers, line.line_number) for line in lines] == [
        ("loss #", ("0.5",), 2),
        ("at <…>", (), 5),
    ]
    assert aside == [
        "1 lines of progress bars",
        "times, paths, process numbers or addresses in 1 lines",
    ]


def test_names_inside_the_runs_own_folders_are_kept():
    places = [("/tmp/rerun/lab", "<project>")]
    (line,), aside = read_console("wrote /tmp/rerun/lab/out/plot.png", places)
    assert (line.kind, aside) == ("wrote <project>/out/plot.png", [])


@given(st.text())
def test_any_text_can_be_read_and_reading_it_twice_changes_nothing(text):
    for line in read_console(text)[0]:
        assert normalise(line.kind) == line.kind


@pytest.mark.parametrize("unit", ["a", "1", "/a", "1:", "━", "a=", "1 ", "1/", "2026-", "0x1"])
def test_a_very_long_line_is_no_trouble(unit):
    assert len(read_console(unit * 30_000)[0]) == 1
