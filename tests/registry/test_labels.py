import pytest

from experiment_tracking.registry.labels import apart, group_labels


def test_a_label_has_only_what_differs_what_tells_most_apart_first():
    groups = [
        {"params.batch": 64, "params.optimizer": optimizer, "params.lr": lr}
        for optimizer in ("sgd", "adam")
        for lr in (0.1, 0.01, 0.001)
    ]
    assert group_labels(groups)[:2] == ["lr=0.1, optimizer=sgd", "lr=0.01, optimizer=sgd"]
    assert group_labels(groups[:3]) == ["lr=0.1", "lr=0.01", "lr=0.001"]


def test_what_one_group_merely_lacks_is_shown_only_where_nothing_else_tells_it_apart():
    whole = {"params.batch": 64, "params.hidden": 32}
    groups = [{**whole, "params.lr": 1}, {**whole, "params.lr": 2}, {"params.lr": 3}]
    assert group_labels(groups) == ["lr=1", "lr=2", "lr=3"]
    groups[2]["params.lr"] = 2
    assert group_labels(groups) == ["lr=1, batch=64", "lr=2, batch=64", "lr=2"]
    assert group_labels([whole, {}]) == ["batch=64", "no batch"]


def test_names_are_their_last_part_where_no_other_has_it():
    groups = [
        {"params.net.depth": n, "params.adam.lr": n, "params.sgd.lr": 1, "params.units.0": n}
        for n in (2, 3)
    ]
    assert group_labels(groups)[0] == "depth=2, adam.lr=2, units.0=2"


def test_floats_have_as_few_digits_as_tell_them_apart():
    assert group_labels([{"params.lr": v} for v in (0.123456789, 0.5)]) == ["lr=0.1235", "lr=0.5"]
    close = [{"params.lr": v} for v in (0.123456, 0.123457, 1)]
    assert group_labels(close) == ["lr=0.123456", "lr=0.123457", "lr=1"]


def test_the_part_in_which_long_values_differ_is_never_cut():
    paths = [f"/data/a/very/long/way/down/{n}/to/the/same/file.csv" for n in ("one", "two")]
    assert group_labels([{"params.data": path} for path in paths]) == [
        "data=…very/long/way/down/one…",
        "data=…very/long/way/down/two…",
    ]


def test_many_differing_params_have_no_room_unless_they_tell_groups_apart():
    groups = [{f"params.some_long_name_{i}": i + n for i in range(12)} for n in range(3)]
    labels = group_labels(groups)
    assert len(set(labels)) == 3
    assert max(map(len, labels)) <= 60
    same = [{**groups[0], "params.some_long_name_11": n} for n in range(3)]
    assert group_labels(same) == [f"some_long_name_11={n}" for n in range(3)]


def test_a_tag_without_a_value_is_a_word():
    assert group_labels([{"tags.good": ""}, {"tags.good": "very"}, {}]) == [
        "good", "good=very", "no good",
    ]  # fmt: skip


def test_one_group_has_nothing_to_be_told_from():
    assert group_labels([{"params.lr": 1}]) == [""]
    assert group_labels([]) == []


@pytest.mark.parametrize(
    ("texts", "cut"),
    [
        (["short", "names"], ["short", "names"]),
        (["x" * 90 + "1", "x" * 90 + "2"], ["…" + "x" * 9 + "1", "…" + "x" * 9 + "2"]),
        (["1" + "x" * 90, "2" + "x" * 90], ["1…", "2…"]),
        (["a" * 90] * 2, ["a" * 35 + "…" + "a" * 36] * 2),
        # They part in the middle of what would be cut out.
        ([n + "x" * 60 + n + "y" * 60 for n in "ab"] + ["a" + "x" * 60 + "b" + "y" * 60],
         ["a" + "x" * 60 + "a…", "b" + "x" * 60 + "b…", "a" + "x" * 60 + "b…"]),
    ],
)  # fmt: skip
def test_long_texts_are_cut_but_not_where_they_differ(texts, cut):
    assert apart(texts, 12) == cut
