import json
from datetime import UTC, datetime, timedelta

import pytest

from experiment_tracking.errors import InvalidValueError, MetricNotFoundError
from experiment_tracking.upkeep.gc import gc
from experiment_tracking.upkeep.trash import purge, trashed


@pytest.fixture
def aged(track, root):
    """Write a run that ended so many days ago."""

    def aged(name, days, status="FAILED", **options):
        run = track(name, status=status, **options)
        path = run.path / "summary.json"
        ended = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        path.write_text(json.dumps(json.loads(path.read_text()) | {"ended_at": ended}))
        return run

    return aged


def going(plan):
    return [run.name for run in plan.going]


def reasons(plan):
    return {verdict.run.name: verdict.reason for verdict in plan.verdicts}


def test_only_what_ended_badly_goes_unless_other_statuses_are_named(track, registry):
    for name, status in (("ok", "FINISHED"), ("bad", "FAILED"), ("cut", "KILLED")):
        track(name, status=status)
    track("live", status=None)
    runs = registry.list_experiments()
    plan = gc(runs)
    assert set(going(plan)) == {"bad", "cut"}
    assert reasons(plan)["ok"] == "finished"
    assert reasons(plan)["live"] == "running"
    assert going(gc(runs, statuses=["finished"])) == ["ok"]
    assert "live" not in going(gc(runs, statuses=["finished", "failed", "killed", "crashed"]))


@pytest.mark.parametrize("status", ["running", "done"])
def test_running_and_unknown_statuses_are_refused(track, registry, status):
    track("ok")
    with pytest.raises(InvalidValueError, match=f"{status} are not collected. Allowed: finished"):
        gc(registry.list_experiments(), statuses=[status])


def test_a_crashed_run_goes_by_its_last_sign_of_life(killed, registry):
    runs = registry.list_experiments()
    assert going(gc(runs)) == ["killed"]
    assert going(gc(runs, older_than_days=1)) == []
    assert reasons(gc(runs, older_than_days=1))["killed"] == "ended 0.0 days ago"
    heartbeat = json.loads((killed / "heartbeat.json").read_text())
    line = json.dumps(heartbeat | {"time": heartbeat["time"] - 2 * 86400})
    (killed / "heartbeat.json").write_text(line)
    assert going(gc(registry.list_experiments(), older_than_days=1)) == ["killed"]


def test_young_runs_stay(aged, registry):
    aged("old", 40)
    aged("young", 20)
    plan = gc(registry.list_experiments(), older_than_days=30)
    assert going(plan) == ["old"]
    assert reasons(plan)["young"] == "ended 20.0 days ago"


def test_the_best_of_each_project_stay_whatever_their_status(track, registry):
    for project in ("p", "q"):
        for i in range(4):
            rows = [{"val/loss": float(i)}, {"val/loss": 10.0}]
            track(f"{project}{i}", project=project, rows=rows, status="FAILED")
    track("bare", project="q", status="FAILED")
    track("best", project="p", rows=[{"val/loss": -1.0}])
    runs = registry.list_experiments()
    plan = gc(runs, keep_best=("val/loss", 2))
    assert set(going(plan)) == {"p1", "p2", "p3", "q2", "q3", "bare"}
    assert reasons(plan)["p0"] == "number 2 of 5 by val/loss (0)"
    assert going(gc(runs, keep_best="val/loss:2")) == going(plan)
    assert going(gc(runs, keep_best="loss:2")) == going(plan)
    assert set(going(gc(runs, keep_best="val/loss"))) == set(going(plan)) | {"p0", "q1"}
    highest = gc(runs, keep_best="val/loss:max")
    assert "number 1 of 5 by val/loss (10)" in reasons(highest).values()


def test_nan_is_never_among_the_best(track, registry):
    track("nan", rows=[{"loss": float("nan")}], status="FAILED")
    track("bad", rows=[{"loss": 9.0}], status="FAILED")
    assert going(gc(registry.list_experiments(), keep_best="loss")) == ["nan"]


def test_a_metric_that_nobody_has_or_without_a_goal_moves_nothing(track, registry):
    track("a", rows=[{"reward_like": 1.0}], status="FAILED")
    runs = registry.list_experiments()
    with pytest.raises(MetricNotFoundError):
        gc(runs, keep_best="val/los")
    with pytest.raises(InvalidValueError, match="'reward_like:min' or 'reward_like:max'"):
        gc(runs, keep_best="reward_like")
    with pytest.raises(InvalidValueError, match="1 or more"):
        gc(runs, keep_best=("reward_like", 0))
    assert going(gc(runs, keep_best="reward_like:max:3")) == []


def test_tags_keep_runs(track, registry):
    track("kept", tags=["paper"], status="FAILED")
    track("other", tags={"sweep": "a"}, status="FAILED")
    plan = gc(registry.list_experiments(), keep_tags=["paper"])
    assert (going(plan), reasons(plan)["kept"]) == (["other"], "tag paper")


def test_nothing_moves_before_the_plan_is_applied(track, registry, root):
    track("bad", status="FAILED")
    track("good")
    plan = gc(registry.list_experiments())
    assert "1 of 2 runs" in repr(plan)
    assert (root / "digits" / "bad").is_dir()
    moved = plan.apply()
    assert [each.key for each in moved] == [each.key for each in trashed(root)] == ["digits/bad"]
    assert not (root / "digits" / "bad").exists()
    assert plan.problems == []


def test_a_run_that_goes_on_or_away_meanwhile_is_a_problem_and_hides_no_other(
    track, tracker, registry, root
):
    for name in ("again", "gone", "stays-bad"):
        track(name, status="FAILED")
    plan = gc(registry.list_experiments())
    (root / "digits" / "gone").rename(root / "digits" / "elsewhere")
    run = tracker(resume="must").start_run("again")
    assert [each.name for each in plan.apply()] == ["stays-bad"]
    assert sorted(problem.path for problem in plan.problems) == [
        str(root / "digits" / name) for name in ("again", "gone")
    ]
    run.end_run()


def test_a_run_whose_metrics_cannot_be_read_stays_where_the_best_are_kept(
    track, registry, damage, root
):
    track("good", rows=[{"loss": 1.0}], status="FAILED")
    run = track("odd", rows=[{"loss": 2.0}], status="FAILED")
    runs = registry.list_experiments()
    for each in runs:
        each.__dict__.pop("summary", None)  # however they were listed: it is read now
    damage(run, "no summary any more")
    plan = gc(runs, keep_best="loss")
    assert going(plan) == []
    assert {problem.path for problem in plan.problems} == {str(run.path)}


def test_a_tag_that_keeps_may_have_a_value_and_one_word_is_one_tag(track, registry):
    track("paper", status="FAILED", tags={"stage": "paper"})
    track("draft", status="FAILED", tags={"stage": "draft"})
    runs = registry.list_experiments()
    assert going(gc(runs, keep_tags=["stage=paper"])) == ["draft"]
    assert going(gc(runs, keep_tags="stage")) == []


def test_a_heartbeat_from_beyond_the_calendar_keeps_a_run(track, registry, edit):
    run = track("odd")
    edit(run, status="running")
    beat = run.path / "heartbeat.json"
    beat.write_text(json.dumps(json.loads(beat.read_text()) | {"time": 1e20, "pid_start": 1}))
    plan = gc(registry.list_experiments(), older_than_days=1)
    assert reasons(plan) == {"odd": "nobody knows when it ended"}


def test_runs_may_go_of_which_versions_are_registered_and_those_stay(models, registry, root):
    plan = gc(registry.list_experiments(), statuses=["finished"])
    assert going(plan) == ["one"]
    plan.apply()
    purge(root)
    assert [version.version for version in models.versions("net")] == [2, 1]
    models.get("net/1").verify()
