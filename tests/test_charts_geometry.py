import numpy as np
import polars as pl
import pytest
import vl_convert

from capacity import charts, connections, geometry


def svg(chart) -> str:
    return vl_convert.vegalite_to_svg(chart.to_dict())


def values(chart) -> list[dict]:
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def test_every_text_is_a_dot_within_and_between_in_each_part():
    table = pl.DataFrame([
        {"part": part, "within": within, "text": text, "cosine": cosine, "above": 0.0}
        for part in ("half", "all") for within in (False, True)
        for text, cosine in (("one", 0.1), ("two", 0.4), ("three", 0.6))
    ])  # fmt: skip
    chart = charts.cosines_by_text(table, bound=0.8)
    rows = [row for row in values(chart) if "text" in row]
    assert {(row["row"], row["text"]): row["cosine"] for row in rows}["within a text, all", "two"] == 0.4
    drawn = svg(chart)
    assert drawn.count('aria-roledescription="point"') == 12
    assert drawn.count('aria-roledescription="tick"') == 4
    order = [f"{pair}, {part}" for part in ("half", "all") for pair in ("between texts", "within a text")]
    places = [drawn.index(f">{row}</text>") for row in order]
    assert places == sorted(places)


def test_accuracy_along_paths_draws_some_pairs_and_the_extremes_of_all():
    found = np.array([[1, 0.2, 1], [1, 0.6, 1], [1, 1, 1]])
    lines = connections.table("line", [(0, 1), (0, 2), (1, 2)], ["x"] * 3, found)
    curve = connections.table("curve", [(0, 1)], ["x"] * 3, np.ones((1, 3)))
    chart = charts.accuracy_along_paths(pl.concat([lines, curve]), drawn=2)
    rows = values(chart)
    middle = {(row["path"], row["statistic"]): row["accuracy"] for row in rows if row["at"] == 0.5}
    assert {name: pytest.approx(value) for name, value in middle.items() if name[1] != "pair"} == {
        ("line", "min"): 0.2, ("line", "mean"): 0.6, ("line", "max"): 1.0,
        ("curve", "min"): 1.0, ("curve", "mean"): 1.0, ("curve", "max"): 1.0,
    }  # fmt: skip
    assert {row["pair"] for row in rows if row["statistic"] == "pair"} == {"0-1", "0-2"}
    drawn = svg(chart)
    assert drawn.count('aria-roledescription="line mark container"') == 3 + 4 + 2  # pairs, extremes, means
    assert drawn.count('stroke-dasharray="5,3"') == 4
    assert "place on the path" in drawn


def test_many_pairs_stay_within_what_a_chart_may_hold():
    pairs = [(0, k) for k in range(1, 497)]
    table = connections.table("line", pairs, ["x"] * 497, np.ones((496, 41)))
    assert len(values(charts.accuracy_along_paths(table))) == (12 + 3) * 41


def test_variance_by_component_marks_the_shares_asked_for():
    table = pl.DataFrame({"series": ["one"] * 2, "component": [1, 2], "cumulative": [0.75, 1.0]})
    chart = charts.variance_by_component(table, shares=[0.9, 0.5])
    assert {row["cumulative"] for row in values(chart) if "series" not in row} == {0.9, 0.5}
    drawn = svg(chart)
    assert drawn.count('stroke-dasharray="4,3"') == 2
    assert "variance explained (share)" in drawn


def test_norms_by_series_leaves_out_the_zero_that_a_log_axis_cannot_show():
    table = geometry.norms({"[mem]": np.eye(3), "tokens": np.array([[0.0, 0], [1, 0], [0, 4]])})
    chart = charts.norms_by_series(table)
    least = {row["series"]: row["least"] for row in values(chart)}
    assert least == {"[mem]": 1, "tokens": pytest.approx(0.1)}  # the 5th percentile of 0, 1, 4
    drawn = svg(chart)
    assert "NaN" not in drawn
    assert "log scale" in drawn
