import pytest

from experiment_tracking.errors import MetricNotFoundError
from experiment_tracking.registry.columns import find_column, find_metric, near

NAMES = ["train/loss", "val/loss", "val/acc", "min_loss", "a:b", "lr", "model/x/lr2"]


@pytest.mark.parametrize(
    ("asked", "metric", "number"),
    [
        ("val/loss", "val/loss", "last"),
        ("final_val/loss", "val/loss", "last"),
        ("best_val/acc", "val/acc", "best"),
        ("min_val/loss", "val/loss", "min"),
        ("max_lr", "lr", "max"),
        ("mean_lr", "lr", "mean"),
        ("val/loss:min", "val/loss", "min"),
        ("lr:last_step", "lr", "last_step"),
        ("min_loss", "min_loss", "last"),
        ("max_min_loss", "min_loss", "max"),
        ("a:b", "a:b", "last"),
        ("a:b:max", "a:b", "max"),
    ],
)
def test_a_column_names_a_metric_and_one_of_its_numbers(asked, metric, number, capsys):
    assert find_column(asked, NAMES) == (metric, number)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("asked", "metric", "number"),
    [
        ("acc", "val/acc", "last"),
        ("best_acc", "val/acc", "best"),
        ("lr2:max", "model/x/lr2", "max"),
    ],
)
def test_the_only_metric_with_that_last_part_is_taken_with_a_notice(asked, metric, number, capsys):
    assert find_column(asked, NAMES) == (metric, number)
    assert repr(metric) in capsys.readouterr().err


def test_a_last_part_that_several_have_names_them_all():
    for find in (find_column, find_metric):
        with pytest.raises(MetricNotFoundError, match=r"'loss': train/loss, val/loss"):
            find("loss", NAMES)


def test_an_unknown_metric_shows_the_near_names():
    for find in (find_column, find_metric):
        with pytest.raises(MetricNotFoundError, match="Near: val/loss"):
            find("val/los", NAMES)


def test_an_unknown_metric_shows_all_names_where_none_is_near():
    with pytest.raises(MetricNotFoundError, match=r"There are: a:b, lr, .*val/loss"):
        find_metric("zzzzzz", NAMES)
    with pytest.raises(MetricNotFoundError, match="There are none yet"):
        find_metric("loss", [])


def test_names_whose_last_part_is_the_word_or_holds_it_come_first():
    params = ["hiden", "model.hidden_size", "model.Hidden", "h"]
    assert near("hidden", params, ["net/hidden"], ["id"]) == (
        "Near: model.Hidden, net/hidden, model.hidden_size, hiden."
    )


def test_names_of_a_kind_that_is_told_first_come_first():
    assert near("create", ["lr"], ["recreate"], ["created_at"]) == "Near: recreate, created_at."
    assert near("zzz", ["seed", "lr"], ["loss"], ["id"]) == "There are: lr, seed, loss, id."


def test_of_many_names_some_of_each_kind_are_shown():
    params, facts = [f"p{number}" for number in range(9)], ("id", "notes")
    assert near("zzz", params, ["loss"], facts) == "There are: p0, p1, p2, p3, loss, id, notes …."
