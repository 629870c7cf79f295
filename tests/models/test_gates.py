import json
import threading

import numpy as np
import pytest

from experiment_tracking.errors import (
    ApprovalError,
    DamagedError,
    InvalidTypeError,
    InvalidValueError,
    NotFoundError,
)
from experiment_tracking.models import gates
from experiment_tracking.models.registry import ModelRegistry


def kinds(registry):
    return [event.kind for event in registry.history("digits")]


def test_a_condition_that_holds_lets_a_version_through_and_the_trail_says_by_what(
    registry, registered
):
    registered(0.95)
    registry.set_policy("digits", "production", "val/accuracy >= 0.9")
    assert registry.policy("digits") == {"Production": {"require": ["val/accuracy >= 0.9"]}}
    assert registry.transition("digits", 1, "Production").stage == "Production"
    assert registry.history("digits")[-1].known["met"] == ["val/accuracy >= 0.9"]


def test_one_that_does_not_hold_is_told_with_what_was_found(registry, registered):
    registered(0.85)
    registry.set_policy("digits", "Production", ["val/accuracy >= 0.9", "params.lr < 1"])
    with pytest.raises(
        ApprovalError, match=r"needs val/accuracy >= 0\.9, found val/accuracy 0\.85"
    ):
        registry.transition("digits", 1, "Production")
    with pytest.raises(PermissionError):
        registry.transition("digits", 1, "Production")
    assert registry.get("digits").stage == "None"
    assert registry.transition("digits", 1, "Staging").stage == "Staging"
    assert "rolled back" not in kinds(registry)


def test_a_bare_metric_is_that_of_the_save_and_its_minimum_that_of_the_run(registry, train):
    run = train(accuracies=(0.95, 0.5, 0.7))
    registry.register(run, name="digits", step=0)
    registry.set_policy("digits", "Staging", "val/accuracy > 0.9 and val/accuracy:min = 0.5")
    assert registry.transition("digits", 1, "Staging").stage == "Staging"
    registry.register(run, name="digits")
    with pytest.raises(ApprovalError, match=r"val/accuracy 0\.7"):
        registry.transition("digits", 2, "Staging")


@pytest.mark.parametrize("condition", ["val/accurcy > 0.5", "metrics.val/accurcy > 0.5"])
def test_a_metric_that_the_version_does_not_have_keeps_it_out(registry, registered, condition):
    (version,) = registered(0.9)
    policy = {"Production": {"require": [condition]}}
    (version.path.parents[1] / "policy.json").write_text(json.dumps(policy))
    with pytest.raises(ApprovalError, match=r"Near: val/accuracy\.$"):
        registry.transition("digits", 1, "Production")


@pytest.mark.parametrize(
    ("condition", "near"),
    [
        ("val/accurcy > 0.5", "Near: val/accuracy"),
        ("val/accuracy > 0.5 and metrics.val/accurcy:min > 0", "Near: val/accuracy"),
        ("params.lrr < 1", "Near: lr"),
        ("optimizer = 'sgd'", "There are: lr, val/accuracy"),
    ],
)
def test_a_condition_on_what_no_version_has_is_refused_with_near_names(
    registry, registered, condition, near
):
    registered(0.9, 0.8)
    with pytest.raises(InvalidValueError, match=f"No version of digits could meet .*{near}"):
        registry.set_policy("digits", "Production", [condition])
    assert registry.policy("digits") == {}


def test_what_one_version_has_may_be_asked_of_all(registry, registered, make, edit):
    first, _ = registered(0.9, 0.8)
    with make("digits").start_run("late", {"depth": 2}) as run:
        run.log_metrics({"f1": 0.7})
        run.log_model({"w": np.ones(2)}, "digits")
    registry.register(run, "digits")
    edit(first.path / "version.json", metrics={})  # damaged: it hides nothing of the others
    for condition in ("f1 > 0.5 and val/accuracy > 0.5", "depth = 2", "tags.team = 'x'"):
        registry.set_policy("digits", "Production", condition)
    registry.set_policy("digits", "Production", "f1 > 0.5 and depth = 2")
    assert registry.transition("digits", 3, "Production").stage == "Production"
    with pytest.raises(ApprovalError, match="'f1'"):
        registry.transition("digits", 2, "Production")


def test_nan_is_not_above_anything(registry, make):
    with make("digits").start_run("r") as run:
        run.log_model({"w": np.ones(2)}, "digits")
        run.log_metrics({"val/accuracy": float("nan")})
    registry.register(run, "digits")
    registry.set_policy("digits", "Production", "val/accuracy > 0")
    with pytest.raises(ApprovalError, match="val/accuracy nan"):
        registry.transition("digits", 1, "Production")


def test_a_version_without_metrics_passes_no_condition_on_them(registry, make):
    with make("digits").start_run("r") as run:
        run.log_model({"w": np.ones(2)}, "digits")
    registry.register(run, "digits")
    registry.set_policy("digits", "Production", "loss < 1")
    with pytest.raises(ApprovalError, match="loss nothing"):
        registry.transition("digits", 1, "Production")


def test_approvals_count_once_a_person_and_only_those_listed(registry, registered):
    registered(0.9)
    registry.set_policy("digits", "Production", approvers=("ann", "bob", "eve"), approvals=2)
    with pytest.raises(ApprovalError, match="2 approvals by ann or bob or eve, and has none"):
        registry.transition("digits", 1, "Production", by="eve")
    registry.approve("digits", 1, "Production", by="ann")
    registry.approve("digits", 1, "production", by="ann")
    with pytest.raises(InvalidValueError, match=r"'mallory' is no approver .*policy digits Pro"):
        registry.approve("digits", 1, "Production", by="mallory")
    with pytest.raises(ApprovalError, match="experiments models approve digits/1 Production"):
        registry.transition("digits", 1, "Production")
    registry.approve("digits", 1, "Production", by="bob", reason="looks good")
    assert registry.transition("digits", 1, "Production").approvals == {
        "Production": ["ann", "bob"]
    }
    assert registry.history("digits")[-1].known["approved_by"] == ["ann", "bob"]
    assert kinds(registry).count("approved") == 2


def test_an_approval_is_of_one_version_for_one_stage(registry, registered):
    registered(0.9, 0.8)
    for stage in ("Staging", "Production"):
        registry.set_policy("digits", stage, approvers="ann")
    registry.approve("digits", 1, "Staging", by="ann")
    for number, stage in ((1, "Production"), (2, "Staging")):
        with pytest.raises(ApprovalError):
            registry.transition("digits", number, stage)
    assert registry.transition("digits", 1, "Staging").stage == "Staging"


def test_somebody_who_approved_and_is_no_approver_any_more_does_not_count(registry, registered):
    registered(0.9)
    registry.set_policy("digits", "Production", approvers="ann")
    registry.approve("digits", 1, "Production", by="ann")
    registry.set_policy("digits", "Production", approvers="bob")
    with pytest.raises(ApprovalError, match="by bob, and has none"):
        registry.transition("digits", 1, "Production")


def test_stages_without_a_gate_need_nothing_and_take_none(registry, registered):
    registered(0.9)
    for stage in ("None", "Archived", "x"):
        with pytest.raises(InvalidValueError, match="Staging or Production"):
            registry.set_policy("digits", stage, "val/accuracy > 1")
        with pytest.raises(InvalidValueError, match="Staging or Production"):
            registry.approve("digits", 1, stage)


def test_an_empty_gate_takes_the_gate_away_and_the_trail_keeps_both(registry, registered):
    registered(0.5)
    registry.set_policy("digits", "Production", "val/accuracy > 0.9", by="ann")
    registry.set_policy("digits", "Production", by="bob")
    assert registry.policy("digits") == {}
    assert registry.transition("digits", 1, "Production").stage == "Production"
    said = [event for event in registry.history("digits") if event.kind == "policy set"]
    assert [(event.by, event.known) for event in said] == [
        ("ann", {"stage": "Production", "require": ["val/accuracy > 0.9"]}),
        ("bob", {"stage": "Production"}),
    ]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"require": "val/accuracy >"}, InvalidValueError),
        ({"require": [3]}, InvalidTypeError),
        ({"approvers": ["ann"], "approvals": 2}, InvalidValueError),
        ({"approvers": ["ann", "ann"], "approvals": 2}, InvalidValueError),
        ({"approvers": ["ann"], "approvals": 0}, InvalidValueError),
        ({"approvers": ["ann"], "approvals": True}, InvalidValueError),
        ({"approvers": [" "]}, InvalidTypeError),
    ],
)
def test_a_gate_that_makes_no_sense_is_refused(registry, registered, given, error):
    registered(0.9)
    with pytest.raises(error):
        registry.set_policy("digits", "Production", **given)
    assert registry.policy("digits") == {}
    assert kinds(registry) == ["registered"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"Prod": {}}',
        '{"Production": {"requires": ["val/accuracy > 0.9"]}}',
        '{"Production": ["val/accuracy > 0.9"]}',
        '{"Production": {"require": "val/accuracy > 0.9"}}',
        '{"Production": {"require": ["val/accuracy >"]}}',
        '{"Production": {"approvals": 1}}',
        '{"Archived": {"approvers": ["ann"]}}',
        '{"Production": {"approvers": ["ann"]}, "production": {}}',
    ],
)
def test_a_mistake_in_the_file_never_leaves_a_stage_open(registry, registered, text, damaged):
    registered(0.9)
    (registry.get("digits").path.parents[1] / "policy.json").write_text(text)
    with pytest.raises(DamagedError, match=r"policy\.json"):
        registry.transition("digits", 1, "Production")
    with pytest.raises(DamagedError, match=r"policy\.json"):
        registry.policy("digits")
    assert registry.get("digits").stage == "None"
    assert registry.transition("digits", 1, "Archived").stage == "Archived"


def test_a_file_written_by_hand_counts(registry, registered):
    registered(0.9)
    path = registry.get("digits").path.parents[1] / "policy.json"
    path.write_text(json.dumps({"production": {"approvers": ["ann", "bob"]}}))
    assert registry.policy("digits") == {
        "Production": {"approvers": ["ann", "bob"], "approvals": 1}
    }
    registry.approve("digits", 1, "Production", by="bob")
    assert registry.transition("digits", 1, "Production").stage == "Production"


def test_a_version_whose_facts_were_changed_passes_no_gate(registry, registered, edit):
    (version,) = registered(0.5)
    registry.set_policy("digits", "Production", "val/accuracy > 0.9")
    edit(version.path / "version.json", metrics={"val/accuracy": 0.99})
    with pytest.raises(DamagedError, match=r"version\.json is not as it was registered"):
        registry.transition("digits", 1, "Production")


@pytest.mark.parametrize("condition", ["not val/loss > 0.3", "val/loss > 0.3 or not val/loss > 0"])
def test_not_above_a_limit_does_not_hold_for_nan(registry, make, condition):
    with make("digits").start_run("r") as run:
        run.log_model({"w": np.ones(2)}, "digits")
        run.log_metrics({"val/loss": float("nan")})
    registry.register(run, "digits")
    registry.set_policy("digits", "Production", condition)
    with pytest.raises(ApprovalError, match="found val/loss nan"):
        registry.transition("digits", 1, "Production")
    registry.set_policy("digits", "Production", "val/loss is nan and notes is null")
    assert registry.transition("digits", 1, "Production").stage == "Production"


@pytest.mark.parametrize(
    ("approvers", "approvals", "allowed"),
    [
        ((), 2, "No approver is named. Name those who may approve."),
        ("ann", 2, "ann is the only approver. Ask for 1, or name more approvers."),
        (["ann", "bob"], 0, "There are 2 approvers: ann, bob. Ask for 1 to 2."),
    ],
)
def test_more_or_fewer_approvals_than_there_can_be_are_refused_with_what_is_allowed(
    registry, registered, approvers, approvals, allowed
):
    registered(0.9)
    with pytest.raises(InvalidValueError) as refused:
        registry.set_policy("digits", "Production", (), approvers, approvals)
    assert str(refused.value) == f"approvals is {approvals}. {allowed}"


def test_a_text_is_one_approver_and_names_with_commas_are_a_list(registry, registered):
    registered(0.9)
    registry.set_policy("digits", "Production", "lr < 1", "ann lee")
    assert registry.policy("digits")["Production"]["approvers"] == ["ann lee"]
    for given in ("ann, bob", ["ann, bob"]):
        with pytest.raises(InvalidValueError, match=r"holds a comma\. Pass a list: \['ann', 'bob'"):
            registry.set_policy("digits", "Production", approvers=given)


def test_an_approval_that_nothing_asks_for_is_refused(registry, registered):
    registered(0.9)
    with pytest.raises(InvalidValueError, match=r"asks for no approval for Production"):
        registry.approve("digits", 1, "Production", by="ann")
    registry.set_policy("digits", "Production", "lr < 1")
    with pytest.raises(
        InvalidValueError,
        match=r"policy digits Production --approver ann --require 'lr < 1', or registry\.set_policy"
        r"\('digits', 'Production', require=\['lr < 1'\], approvers=\['ann'\], approvals=1\)",
    ):
        registry.approve("digits", 1, "Production", by="ann")
    with pytest.raises(NotFoundError, match="no version 2"):
        registry.approve("digits", 2, "Production")
    assert "approved" not in kinds(registry)


def test_the_policy_of_a_model_that_is_not_there_is_not_an_open_one(registry, registered):
    registered(0.9)
    with pytest.raises(NotFoundError, match="Near: digits"):
        registry.policy("digts")


def test_a_gate_waits_for_the_one_that_was_set_before_it(registry, registered, monkeypatch):
    registered(0.9)
    other = ModelRegistry(registry.root)
    real, has_last, asked, threads = gates.set_gate, gates._has_last, threading.Event(), []

    def slow(path, stage, gate):  # between reading and replacing the file comes the other
        monkeypatch.setattr(gates, "set_gate", real)
        before = gates.read_policy(path)
        given = ("digits", "Staging", "val/accuracy > 0.5")
        threads.append(threading.Thread(target=other.set_policy, args=given))
        threads[0].start()
        asked.wait(10)
        with monkeypatch.context() as stale:
            stale.setattr(gates, "read_policy", lambda path: before)
            real(path, stage, gate)

    monkeypatch.setattr(gates, "set_gate", slow)
    monkeypatch.setattr(gates, "_has_last", lambda *a: has_last(*a) or (threads and asked.set()))
    registry.set_policy("digits", "Production", "val/accuracy > 0.9")
    threads[0].join()
    assert registry.policy("digits").keys() == {"Staging", "Production"}


def test_a_gate_that_was_edited_by_hand_is_not_waited_for_long(registry, registered, monkeypatch):
    registered(0.9)
    registry.set_policy("digits", "Production", "val/accuracy > 0.9")
    (registry.get("digits").path.parents[1] / "policy.json").unlink()
    monkeypatch.setattr(gates, "_PATIENCE_S", 0.05)
    registry.set_policy("digits", "Staging", "val/accuracy > 0.5")
    assert registry.policy("digits").keys() == {"Staging"}


def test_an_approval_holds_for_a_version_that_was_deleted_and_restored(registry, registered):
    registered(0.9)
    registry.set_policy("digits", "Production", approvers="ann")
    registry.approve("digits", 1, "Production", by="ann")
    registry.delete("digits", 1)
    registry.restore("digits", 1)
    assert registry.transition("digits", 1, "Production").stage == "Production"
