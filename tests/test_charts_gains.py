import re

import polars as pl
import pytest
import vl_convert

from capacity import charts


def svg(chart) -> str:
    return vl_convert.vegalite_to_svg(chart.to_dict())


def data(chart) -> list[dict]:
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def test_gain_by_length_has_a_panel_a_model_and_ticks_where_lengths_are():
    table = pl.DataFrame([
        {"model": m, "source": s, "kind": k, "length": n, "value": 5.0 * n, "low": 4.0 * n, "high": 6.0 * n, "n": 3}
        for m in ("one", "two") for s in ("natural", "random") for k in ("gain", "of the text") for n in (3, 24)
    ])  # fmt: skip
    chart = charts.gain_by_length(table)
    assert chart.to_dict()["spec"]["layer"][1]["encoding"]["x"]["axis"]["values"] == [3, 24]
    drawn = svg(chart)
    assert drawn.count('aria-roledescription="area mark container"') == 8
    for word in ("one", "two", "length of the text (tokens)", "of the text"):
        assert word in drawn
    dashes = re.findall(r'role-legend-symbol"[^>]*><path [^>]*stroke="(#?\w+)"[^>]*stroke-dasharray', drawn)
    assert dashes == ["#888", "#888"]  # and not transparent, as where the area has dashes, too


def test_published_gains_by_length_are_a_line_a_model_the_largest_first():
    table = pl.DataFrame({"model": ["a", "a", "b", "b"], "length": [64, 128] * 2, "value": [9.0, 10.0, 20.0, 30.0]})
    chart = charts.published_gain_by_length(table)
    assert chart.to_dict()["encoding"]["color"]["sort"] == ["b", "a"]
    assert svg(chart).count('aria-roledescription="line mark"') == 2


def test_gains_beside_keep_the_order_of_kinds_and_what_is_below_nothing():
    table = pl.DataFrame([
        {"model": "m", "source": s, "kind": k, "value": v, "low": low, "high": v + 1, "n": 8}
        for s in ("natural", "random")
        for k, v, low in (("gain", 9.0, 8.0), ("certified", -4.0, -5.0), ("few", 1.0, None))
    ])  # fmt: skip
    chart = charts.gains_beside(table)
    drawn = svg(chart)
    assert drawn.index(">gain<") < drawn.index(">certified<") < drawn.index(">few<")
    assert drawn.count('aria-roledescription="point"') == 6
    assert "\N{MINUS SIGN}4" in drawn


def test_certified_bits_are_a_line_a_model_over_the_alphabet():
    table = pl.DataFrame([
        {"model": m, "alphabet": k, "value": 20.0 - k, "low": 18.0 - k, "high": 22.0 - k, "n": 16}
        for m in ("llama-64", "llama-128") for k in (2, 4, 511)
    ])  # fmt: skip
    drawn = svg(charts.certified_by_alphabet(table))
    assert drawn.count('aria-roledescription="line mark"') == 2
    for word in (">511<", "bits certified", "llama-128"):
        assert word in drawn


def test_tokens_by_vectors_draws_the_ideal_from_the_first_and_leaves_out_zeros():
    table = pl.DataFrame({
        "series": ["ours"] * 3 + ["theirs"] * 2, "n_mem": [1, 2, 8, 2, 4], "value": [3.0, 5.0, 0.0, 100.0, 150.0],
        "low": [2.0, 0.0, 0.0, None, None], "high": [4.0, 6.0, 2.0, None, None],
    })  # fmt: skip
    chart = charts.tokens_by_vectors(table)
    dashed, rules, line = (layer["data"]["name"] for layer in chart.to_dict()["layer"])
    sets = chart.to_dict()["datasets"]
    assert [(r["series"], r["n_mem"], r["value"]) for r in sets[dashed]] == [
        ("ours", 1, 3), ("ours", 2, 6), ("theirs", 2, 100), ("theirs", 4, 200),
    ]  # fmt: skip
    assert [(r["series"], r["n_mem"]) for r in sets[rules]] == [("ours", 1)]  # an interval down to 0 has no place here
    assert [r["value"] for r in sets[line]] == [3, 5, 100, 150]
    assert "tokens (log scale)" in svg(chart)


def test_share_by_vectors_has_rules_where_intervals_are():
    table = pl.DataFrame({
        "series": ["ours", "ours", "paper"], "n_mem": [1, 4, 16], "share": [1.0, 0.9, 0.6],
        "share_low": [1.0, 0.8, None], "share_high": [1.0, 1.1, None],
    })  # fmt: skip
    chart = charts.share_by_vectors(table)
    assert [row for row in data(chart) if row["n_mem"] == 16] == [
        {"series": "paper", "n_mem": 16, "share": 0.6, "share_low": None, "share_high": None}
    ]
    sets, rules = chart.to_dict()["datasets"], chart.to_dict()["layer"][1]["data"]["name"]
    assert [(row["series"], row["n_mem"]) for row in sets[rules]] == [("ours", 4)]  # of one vector there is none
    drawn = svg(chart)
    assert drawn.count('aria-roledescription="rule mark container"') == 2
    assert "information a vector / that of one vector alone" in drawn


@pytest.mark.parametrize("unit", ["tokens", "bits"])
def test_utilisation_by_model_keeps_the_order_and_names_the_unit(unit):
    table = pl.DataFrame({
        "model": ["wide", "narrow", "narrow"], "kind": ["natural", "natural", "random words"],
        "series": ["paper (± sd)", "here (95% interval)", "here (95% interval)"], "capacity": [800.0, 100.0, 100.0],
        "gain": [80.0, 4.0, 2.0], "low": [60.0, 3.0, -1.0], "high": [100.0, 5.0, 5.0],
        "share": [0.1, 0.04, 0.02], "share_low": [0.075, 0.03, -0.01], "share_high": [0.125, 0.05, 0.05],
    })  # fmt: skip
    chart = charts.utilisation_by_model(table, order=["narrow", "wide"], unit=unit)
    above, below = chart.to_dict()["vconcat"]
    assert {layer["encoding"]["x"]["sort"][0] for layer in above["layer"] + below["layer"]} == {"narrow"}
    drawn = svg(chart)
    for word in (f"gain and capacity ({unit}, log)", f"utilisation (gain / capacity, in {unit})", "random words",
                 "here (95% interval)", "paper (± sd)"):  # fmt: skip
        assert word in drawn
    assert drawn.index(">narrow<") < drawn.index(">wide<")
