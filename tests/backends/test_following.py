import itertools
import json
import math
import threading

import pytest

from experiment_tracking import ExperimentTracker, endings
from experiment_tracking.backends import BackendInterface, following
from experiment_tracking.backends.following import (
    BackendFollower,
    Duty,
    Follower,
    OutOfTimeError,
    Tail,
)
from experiment_tracking.backends.interface import check_backend
from experiment_tracking.folder.history import START, HistoryWriter


class Recorder(BackendInterface):
    """Remembers every call with its place among the others."""

    def __init__(self):
        self.calls = []
        self.threads = set()

    def note(self, *call):
        self.threads.add(threading.current_thread().name)
        self.calls.append(call)

    def start_run(self, run_name, config, project, run_id, tags, group, notes):
        self.note("start", run_name, config, project, len(run_id), tags, group, notes)

    def log_metrics(self, metrics, step, timestamp, attempt):
        self.note("row", step, metrics, timestamp, attempt)

    def log_model(self, model, path, name, metadata):
        self.note("model", model.load(), path, name, metadata)

    def log_params(self, params):
        self.note("params", params)

    def log_artifact(self, path, name, artifact_type, description):
        self.note("artifact", path.exists(), name, artifact_type, description)

    def log_figure(self, path, name, step):
        self.note("figure", path.exists(), name, step)

    def set_tags(self, tags):
        self.note("tags", tags)

    def end_run(self, status):
        self.note("end", status)


class Batches(BackendInterface):
    def __init__(self):
        self.batches = []

    def start_run(self, run_name, config):
        pass

    def log_metrics(self, metrics, step):
        raise AssertionError("log_batch takes its place")

    def log_model(self, model, path):
        pass

    def log_batch(self, rows):
        self.batches.append(rows)


@pytest.fixture
def start(root):
    def start(*backends, **options):
        options = {"root": root, "use_tensorboard": False, "auto_log": False} | options
        return ExperimentTracker("p", backend=list(backends), **options).start_run("r")

    return start


def summary(run):
    return json.loads((run.path / "summary.json").read_text())


# ---------------------------------------------------------------------- custom backends


def test_a_backend_gets_every_row_in_file_order_from_one_thread_of_its_own(start):
    backend = Recorder()
    run = start(backend)
    for step in (3, 1, 1, 7):
        run.log_metrics({"x": step, "y": math.inf, "time": 5}, step=step, timestamp=1e9)
    run.end_run()
    rows = [call[1:] for call in backend.calls if call[0] == "row"]
    assert rows == [(s, {"x": s, "y": math.inf, "time": 5}, 1e9, 1) for s in (3, 1, 1, 7)]
    assert len(backend.threads) == 1
    assert threading.current_thread().name not in backend.threads


def test_a_backend_learns_at_its_start_what_is_known(start):
    backend = Recorder()
    run = start(backend, config={"lr": 1}, tags="t", notes="n", group="g")
    run.end_run("failed")
    assert backend.calls == [
        ("start", "r", {"lr": 1}, "p", 16, {"t": ""}, "g", "n"), ("end", "failed"),
    ]  # fmt: skip


def test_other_calls_come_where_they_stood_among_the_rows(start, tmp_path):
    """All of it lies waiting while the backend starts: nothing may overtake."""
    np = pytest.importorskip("numpy")
    backend, go_on = Recorder(), threading.Event()
    backend.start_run = lambda run_name, config: go_on.wait()
    run = start(backend)
    (tmp_path / "f.txt").write_text("x")
    run.log_metrics({"x": 0})
    run.set_tags("early")
    run.log_metrics({"x": 1})
    run.log_params({"lr": 1})
    run.log_param("net", {"depth": 3})
    run.log_metrics({"x": 2})
    run.log_artifact(tmp_path / "f.txt", "data", "what it is")
    run.log_text("hello", "note")
    run.log_figure(Picture(), "curve", step=4)
    run.log_model({"w": np.ones(2)}, "net", {"epoch": 1})
    run.log_metrics({"x": 3})
    go_on.set()
    run.end_run()
    told = [call[:2] if call[0] == "row" else call for call in backend.calls]
    model = next(call for call in told if call[0] == "model")
    assert [call for call in told if call is not model] == [
        ("row", 0), ("tags", {"early": ""}), ("row", 1), ("params", {"lr": 1}),
        ("params", {"net": {"depth": 3}}), ("row", 2),
        ("artifact", True, "f.txt", "data", "what it is"),
        ("artifact", True, "note", "text", None), ("figure", True, "curve", 4),
        ("row", 3), ("end", "finished"),
    ]  # fmt: skip
    assert told.index(model) == 9
    assert model[1]["w"].tolist() == [1, 1]
    assert (model[2].name, *model[3:]) == ("net", "net", {"epoch": 1})
    assert not model[2].exists()  # it is there for the call


class Picture:
    def savefig(self, target, **options):
        target.write(b"\x89PNG\r\n\x1a\n fake")


@pytest.mark.parametrize("lengths", list(itertools.product([1, 300], repeat=3)))
def test_a_call_between_rows_of_any_length_stays_between_them(start, lengths):
    backend, go_on = Recorder(), threading.Event()
    backend.start_run = lambda run_name, config: go_on.wait()
    run = start(backend)
    for number, length in enumerate(lengths):
        run.log_metrics({"x" * length: number})
        run.set_tags(f"t{number}")
    go_on.set()
    run.end_run()
    assert [call[0] for call in backend.calls] == ["row", "tags"] * 3 + ["end"]


def test_log_batch_gets_the_rows_as_the_history_has_them(start):
    backend = Batches()
    run = start(backend)
    for step in range(1000):
        run.log_metrics({"x": step, "y": math.nan if step == 500 else 0.5}, step=step)
    run.end_run()
    rows = [row for batch in backend.batches for row in batch]
    assert [row["x"] for row in rows] == list(range(1000))
    assert math.isnan(rows[500]["y"])
    assert len(backend.batches) < 1000


def test_a_raising_backend_is_told_of_once_and_everything_else_goes_on(start, capsys):
    class Raising(Recorder):
        def log_metrics(self, metrics, step):
            self.note("row", step)
            if step % 2:
                raise OSError(f"server away at {step}")

    raising, fine = Raising(), Recorder()
    run = start(raising, fine)
    for step in range(6):
        run.log_metrics({"x": step})
    run.end_run()
    assert [c[1] for c in raising.calls if c[0] == "row"] == list(range(6))
    assert [c[1] for c in fine.calls if c[0] == "row"] == list(range(6))
    assert raising.calls[-1] == fine.calls[-1] == ("end", "finished")
    told = capsys.readouterr().err
    assert told.count("backend 'Raising' failed") == 1
    assert "missing there; the run's folder has it. Training goes on" in told
    assert summary(run)["status"] == "finished"
    told = summary(run)["followers"]["Raising"]
    assert told == {"finished": True, "owed_bytes": 0, "error": "OSError: server away at 5"}


@pytest.mark.parametrize("method", ["start_run", "set_tags", "end_run"])
def test_whatever_a_backend_raises_the_run_ends_well(start, capsys, method):
    def broken(*args, **known):
        raise RuntimeError("broken")

    backend = Recorder()
    setattr(backend, method, broken)
    run = start(backend)
    run.set_tags("t")
    run.log_metrics({"x": 1})
    run.end_run()
    assert ("row", 0) in [call[:2] for call in backend.calls]
    assert summary(run)["followers"]["Recorder"]["error"] == "RuntimeError: broken"
    assert capsys.readouterr().err.count("backend 'Recorder' failed") == 1


def test_a_slow_backend_is_left_behind_at_its_bound_and_what_it_is_owed_is_said(start, capsys):
    class Slow(Recorder):
        go_on = threading.Event()

        def start_run(self, run_name, config):
            self.go_on.wait()

    slow, quick = Slow(), Recorder()
    run = start(slow, quick, exit_timeout_s=2.0)  # in which the quick one must have ended
    for step in range(100):
        run.log_metrics({"x": step})
    run.end_run()
    assert summary(run)["status"] == "finished"
    followers = summary(run)["followers"]
    size = (run.path / "metrics_history.json").stat().st_size
    assert followers["Slow"] == {"finished": False, "owed_bytes": size - len("[\n]\n")}
    assert followers["Recorder"] == {"finished": True, "owed_bytes": 0}
    assert len([call for call in quick.calls if call[0] == "row"]) == 100
    assert capsys.readouterr().err.count("backend 'Slow' has not finished") == 1
    # It wakes after the end of the run, and is quiet.
    slow.go_on.set()
    for thread in threading.enumerate():
        if thread.name == "backend Slow":
            thread.join()
    assert slow.calls == []
    assert capsys.readouterr().err == ""


class Curious(Recorder):
    """Takes all that the contract knows."""

    def start_run(self, run_name, config, **known):
        self.note("start", known)

    def log_model(self, model, path, step):
        self.note("model", step)

    def log_artifact(self, path, name, step):
        self.note("artifact", name, step)

    def log_figure(self, path, name, step, timestamp):
        self.note("figure", step, timestamp)

    def set_tags(self, tags, removed, notes):
        self.note("tags", tags, removed, notes)

    def log_environment(self, environment):
        self.note("environment", environment)

    def end_run(self, status, summary, ended_at, error):
        self.note("end", status, summary, ended_at, error)

    def close(self):
        self.note("close")


def test_a_backend_is_told_all_that_it_asks_for(start, root):
    backend = Curious()
    run = start(backend, tags="t", notes="n", auto_log=True, system_metrics_interval_s=None)
    run.log_metrics({"x": math.inf}, step=3)
    run.log_text("hello", "note", step=4)
    run.log_figure(Picture(), "curve", step=5)
    run.log_model({"w": [1]}, "net")
    run.set_tags({"a": "1"})
    run.remove_tags("t", "never")
    run.notes = "new"
    run.__exit__(ValueError, ValueError("bad"), None)
    calls = {call[0]: call[1:] for call in backend.calls}
    (known,) = calls["start"]
    assert known["path"] == str(run.path)
    assert known["created_at"] == summary(run)["created_at"]
    told = {key: known[key] for key in ("parent", "attempt", "rows", "state")}
    assert told == {"parent": None, "attempt": 1, "rows": 0, "state": {}}
    assert (calls["model"], calls["artifact"], calls["figure"][0]) == ((3,), ("note", 4), 5)
    assert [call[1:] for call in backend.calls if call[0] == "tags"] == [
        ({"a": "1"}, [], "n"), ({}, ["t"], "n"), ({}, [], "new"),
    ]  # fmt: skip
    status, metrics, ended_at, error = calls["end"]
    assert (status, error) == ("failed", {"type": "ValueError", "message": "bad"})
    assert metrics["x"]["last"] == math.inf
    assert ended_at <= summary(run)["ended_at"]
    environment = json.loads((run.path / "environment.json").read_text())
    assert calls["environment"] == (environment,)
    assert [call[0] for call in backend.calls[-3:]] == ["environment", "end", "close"]


def test_a_backend_that_was_left_behind_is_closed_when_it_comes_back(start):
    class Slow(Curious):
        go_on = threading.Event()

        def start_run(self, run_name, config):
            self.go_on.wait()

    slow = Slow()
    start(slow, exit_timeout_s=0.1).end_run()
    slow.go_on.set()
    for thread in threading.enumerate():
        if thread.name == "backend Slow":
            thread.join()
    assert slow.calls == [("close",)]


def test_two_backends_do_not_hold_each_other_up(start):
    """The one waits for the other's last row: in one thread they would never end."""
    done = threading.Event()

    class First(Recorder):
        def log_metrics(self, metrics, step):
            self.note("row", step, done.wait(10))

    class Second(Recorder):
        def log_metrics(self, metrics, step):
            if step == 9:
                done.set()

    first = First()
    run = start(first, Second())
    for step in range(10):
        run.log_metrics({"x": step})
    run.end_run()
    assert [call[1:] for call in first.calls if call[0] == "row"] == [(s, True) for s in range(10)]


def test_a_resumed_run_shows_a_backend_all_rows_with_their_attempts(start):
    start(Recorder()).log_metrics({"x": 1})
    for writer in endings.open_writers():
        writer.close("killed")
    backend = Recorder()
    run = start(backend, resume="must")
    run.log_metrics({"x": 2})
    run.end_run()
    assert [(c[1], c[4]) for c in backend.calls if c[0] == "row"] == [(0, 1), (1, 2)]


# ---------------------------------------------------------------------- Tail


@pytest.fixture
def writer(tmp_path):
    writer = HistoryWriter.create(str(tmp_path / "metrics_history.json"))
    yield writer
    writer.close()


def steps(rows):
    return [row["step"] for row in rows]


def test_a_tail_reads_each_row_once_whatever_the_slice(writer):
    for size in (1, 7, 50, 200, 10**6):
        tail = Tail(writer)
        while tail.offset < writer.end:
            tail.next(10**6)
        for step in range(20):
            writer.append({"x" * (step % 5 + 1): 1.0}, step, 1.0)
        found = []
        while rows := tail.next(size):
            found += steps(rows)
        assert found == list(range(20))
        assert (tail.offset, tail.behind_bytes) == (writer.end, 0)


def test_a_tail_of_an_empty_history_has_nothing(writer):
    tail = Tail(writer)
    assert (tail.next(100), tail.offset, list(tail.rows_so_far())) == ([], START, [])


def test_a_tail_never_reads_behind_what_the_writer_announced(writer):
    writer.append({"x": 1.0}, 0, 1.0)
    end = writer.end
    writer.append({"x": 1.0}, 1, 1.0)
    writer.end, there = end, writer.end
    tail = Tail(writer)
    assert steps(tail.next(10**6)) == [0]
    writer.end = there
    assert steps(tail.next(10**6)) == [1]


def test_a_tail_stops_at_the_row_it_is_told(writer):
    ends = []
    for step in range(6):
        writer.append({"x" * (40 * (step % 2) + 1): 1.0}, step, 1.0)
        ends.append(writer.end)
    for size in (1, 60, 10**6):
        tail = Tail(writer)
        for step, end in enumerate(ends):
            found = []
            while rows := tail.next(size, end):
                found += steps(rows)
            assert (found, tail.offset) == ([step], end)


def test_the_bytes_a_tail_hands_on_are_those_of_the_file(writer, tmp_path):
    seen = bytearray(b"[")
    tail = Tail(writer, seen.extend)
    for step in range(10):
        writer.append({"x": 1.0}, step, 1.0)
        tail.next(70)
    while tail.next(70):
        pass
    assert bytes(seen) + b"\n]\n" == (tmp_path / "metrics_history.json").read_bytes()


def test_a_tail_gives_what_it_has_read_again_and_no_more(writer, monkeypatch):
    monkeypatch.setattr(following, "_REREAD_BYTES", 64)
    tail = Tail(writer)
    for step in range(10):
        writer.append({"x": 1.0}, step, 1.0)
    first = steps(tail.next(200))
    assert 0 < len(first) < 10
    assert steps(tail.rows_so_far()) == first
    while tail.next(200):
        pass
    assert steps(tail.rows_so_far()) == list(range(10))


def test_rows_are_given_again_in_small_pieces_that_let_other_threads_in(writer, monkeypatch):
    tail, read, done = Tail(writer), writer.read, []
    for step in range(1000):
        writer.append({"x": 1.0}, step, 1.0)
    while tail.next(10**6):
        pass
    monkeypatch.setattr(writer, "read", lambda at, length: done.append(length) or read(at, length))
    monkeypatch.setattr(following.time, "sleep", lambda s: done.append("slept"))
    assert steps(tail.rows_so_far()) == list(range(1000))
    lengths = [length for length in done if length != "slept"]
    assert len(lengths) > 10
    assert max(lengths) <= 4096
    assert all("slept" in pair for pair in itertools.pairwise(done))


def test_a_row_longer_than_a_piece_is_given_again(writer):
    tail = Tail(writer)
    for step in range(3):
        writer.append({"x" * 20_000: 1.0}, step, 1.0)
        tail.next(10**6)
    assert steps(tail.rows_so_far()) == [0, 1, 2]


def test_past_its_deadline_no_row_is_given_again(writer):
    tail = Tail(writer)
    for step in range(1000):
        writer.append({"x": 1.0}, step, 1.0)
    tail.next(10**6)
    rows = tail.rows_so_far()
    assert next(rows)["step"] == 0
    tail.deadline = 0.0
    with pytest.raises(OutOfTimeError):
        list(rows)
    with pytest.raises(OutOfTimeError):
        next(tail.rows_so_far())


# ---------------------------------------------------------------------- Follower


@pytest.fixture
def follow(writer):
    def follow(*takers, duties=(), first=lambda: None, abandoned=lambda: None):
        return Follower("run r", Tail(writer), takers, duties, first, abandoned)

    return follow


def test_catching_up_gives_every_taker_everything_and_does_what_is_due_once(writer, follow):
    seen, order = [], []
    follower = follow(
        lambda rows: seen.extend(steps(rows)), lambda rows: order.append(len(rows)),
        first=lambda: order.append("first"),
    )  # fmt: skip
    follower.calls.append(lambda: order.append("call"))
    for step in range(50):
        writer.append({"x": 1.0}, step, 1.0)
    assert follower.catch_up(1.0)
    assert seen == list(range(50))
    assert (order[0], order[-1], sum(order[1:-1])) == ("first", "call", 50)
    assert follower.stopped


def test_a_taker_that_raises_is_left_out_with_a_notice_and_the_others_go_on(writer, follow, capsys):
    seen = []

    def broken(rows):
        raise ValueError("cannot take it")

    follower = follow(broken, lambda rows: seen.extend(steps(rows)))
    for step in range(3):
        writer.append({"x": 1.0}, step, 1.0)
        follower._take(10**6)
    assert seen == [0, 1, 2]
    assert capsys.readouterr().err.count("cannot take it") == 1


def test_a_call_or_duty_that_raises_does_not_stop_the_thread(writer, follow, capsys):
    done = []
    duty = Duty(0.0, lambda: done.append("duty"))
    broken = Duty(0.0, lambda: 1 / 0)
    follower = follow(duties=[broken, duty])
    follower.calls.extend([lambda: 1 / 0, lambda: done.append("call")])
    follower._do_calls_and_duties()
    assert done == ["call", "duty"]
    assert capsys.readouterr().err.count("a background task failed") == 2


def test_a_duty_is_done_when_due_and_not_before(follow):
    done = []
    later = Duty(1000.0, lambda: done.append("later"))
    follower = follow(duties=[later, Duty(0.0, lambda: done.append("now"))])
    for _ in range(3):
        follower._do_calls_and_duties()
    assert done == ["now"] * 3


def test_rows_that_cannot_be_read_back_are_told_of_once_and_tried_again(
    writer, follow, capsys, monkeypatch
):
    seen = []
    follower = follow(lambda rows: seen.extend(steps(rows)))
    writer.append({"x": 1.0}, 0, 1.0)
    read = writer.read

    def broken(offset, length):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(writer, "read", broken)
    for _ in range(3):
        follower._work()
    monkeypatch.setattr(writer, "read", read)
    follower._work()
    assert seen == [0]
    assert capsys.readouterr().err.count("cannot be read back") == 1


def test_a_slice_shrinks_when_it_took_long_and_grows_when_it_was_quick(follow):
    follower = follow()
    sizes = {follower._slice_bytes}
    for _ in range(20):
        follower._fit_slice(1.0)
        sizes.add(follower._slice_bytes)
    assert follower._slice_bytes == min(sizes) == 1024
    for _ in range(20):
        follower._fit_slice(1e-6)
        sizes.add(follower._slice_bytes)
    assert follower._slice_bytes == max(sizes) < 64 * 1024
    before = follower._slice_bytes
    follower._fit_slice(0.75e-4)
    assert follower._slice_bytes == before


def test_the_thread_rests_for_its_share_of_the_time(writer, follow, monkeypatch):
    ticks = itertools.count(step=0.01)
    monkeypatch.setattr(following.time, "perf_counter", lambda: next(ticks))
    follower = follow(lambda rows: None)
    assert follower._work() == following._IDLE_S
    follower._slice_bytes = 1024
    for step in range(1000):
        writer.append({"x": 1.0}, step, 1.0)
    work = follower._work() / 19  # 5 % of the time
    assert work >= 0.01
    follower._level_at -= 11
    assert follower._work() == pytest.approx(3 * work)  # 25 % when 10 s behind
    follower.catch_up(1.0)
    assert follower._work() == 0.0


def test_catching_up_gives_up_on_a_thread_that_hangs(follow):
    follower, go_on, hangs = follow(), threading.Event(), threading.Event()

    def hang():
        with follower.lock:
            hangs.set()
            go_on.wait()

    thread = threading.Thread(target=hang)
    thread.start()
    hangs.wait()
    assert follower.catch_up(0.01) is False
    assert follower.stopped
    go_on.set()
    thread.join()


@pytest.mark.parametrize("in_the_thread", [True, False])
def test_a_taker_that_is_out_of_time_leaves_its_batch_half_taken(
    writer, follow, capsys, in_the_thread
):
    later = []

    def give_up(rows):
        raise OutOfTimeError

    follower = follow(give_up, later.append)
    writer.append({"x": 1.0}, 0, 1.0)
    if in_the_thread:
        follower._work()
        assert follower.stopped
        writer.append({"x": 1.0}, 1, 1.0)
    assert not follower.catch_up(1.0)
    assert follower.interrupted
    assert (later, capsys.readouterr().err) == ([], "")


def test_the_end_bounds_the_work_on_all_rows_that_the_thread_is_at(writer, follow):
    follower, at_work = follow(), threading.Event()
    for step in range(10):
        writer.append({"x": 1.0}, step, 1.0)
    follower.tail.next(10**6)

    def for_ever():
        with follower.lock, pytest.raises(OutOfTimeError):
            while True:
                list(follower.tail.rows_so_far())
                at_work.set()

    thread = threading.Thread(target=for_ever)
    thread.start()
    at_work.wait()
    assert follower.catch_up(0.5)
    thread.join()


def test_the_thread_never_rests_so_long_that_its_duties_wait(writer, follow, monkeypatch):
    ticks = itertools.count(step=100.0)
    monkeypatch.setattr(following.time, "perf_counter", lambda: next(ticks))
    follower = follow(lambda rows: None)
    follower._slice_bytes = 1024
    for step in range(1000):
        writer.append({"x": 1.0}, step, 1.0)
    assert follower._work() == 1.0


def test_an_abandoned_follower_tells_the_run(follow):
    told = threading.Event()
    follower = follow(abandoned=lambda: (setattr(follower, "stopped", True), told.set()))
    follower.abandoned = True
    follower.start()
    assert told.wait(10)


# ---------------------------------------------------------------------- BackendFollower


def test_an_end_that_comes_while_the_thread_looks_for_work_is_not_missed(writer):
    """The thread found nothing to do just before ``end``: it must look once more."""
    backend = Recorder()
    follower = BackendFollower(check_backend(backend), writer)
    step = follower._step

    def step_then_end():
        worked = step()
        if not follower._ending:
            writer.append({"x": 1.0}, 0, 1.0)
            follower.end("finished")
        return worked

    follower._step = step_then_end
    follower.start()
    assert follower.wait(10)
    assert [call[0] for call in backend.calls] == ["row", "end"]


def test_an_end_is_told_once_and_nothing_behind_it(writer):
    backend = Recorder()
    follower = BackendFollower(check_backend(backend), writer)
    follower.start()
    follower.end("finished")
    follower.call("set_tags", {"late": ""})
    follower.end("killed")
    assert follower.wait(10)
    assert backend.calls == [("end", "finished")]


def test_runs_that_are_open_at_once_do_not_mix_in_one_object(root):
    class Named(Recorder):
        def start_run(self, run_name, config):
            self.run_name = run_name
            self.note("start", run_name)

        def log_metrics(self, metrics, step):
            self.note(self.run_name, step)

    given = Named()
    options = {"root": root, "use_tensorboard": False, "auto_log": False}
    with ExperimentTracker("p", backend=given, **options) as tracker:
        outer = tracker.start_run("outer")
        outer.log_metrics({"x": 0}, step=0)
        inner = tracker.start_run("inner", parent=outer)
        inner.log_metrics({"x": 0}, step=10)
        outer.log_metrics({"x": 0}, step=1)
        inner.finish()
        outer.log_metrics({"x": 0}, step=2)
    assert [call for call in given.calls if call[0] == "outer"] == [("outer", n) for n in range(3)]
    assert [call for call in given.calls if call[0] == "inner"] == [("inner", 10)]
    assert given.run_name == "outer"


def test_a_resumed_run_is_begun_before_its_earlier_rows_are_given(root):
    options = {"root": root, "use_tensorboard": False, "auto_log": False}
    with ExperimentTracker("p", "r", **options) as tracker:
        tracker.log_metrics({"x": 0}, step=0)
    recorder = Recorder()
    with ExperimentTracker("p", "r", resume="must", backend=recorder, **options) as tracker:
        tracker.log_metrics({"x": 1}, step=1)
    assert [call[:2] for call in recorder.calls if call[0] in ("start", "row")] == [
        ("start", "r"), ("row", 0), ("row", 1),
    ]  # fmt: skip
