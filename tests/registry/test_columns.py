import pytest

from experiment_tracking.errors import MetricNotFoundError
from experiment_tracking.registry.columns import find_column, find_metric

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
