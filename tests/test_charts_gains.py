import polars as pl
import pytest
import vl_convert

from capacity import charts


def svg(chart) -> str:
    return vl_convert.vegalite_to_svg(chart.to_dict())


def data(chart) -> list[dict]:
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


POINTS = pl.DataFrame({
    "model": ["m"] * 4, "source": ["natural", "natural", "random", "random"], "text_id": list("abab"),
    "length": [3, 9, 3, 9], "before": [6.0, 30.0, 9.0, 50.0], "after": [1.0, 18.0, 2.0, 30.0],
    "exact": [True, False, True, False],
})  # fmt: skip


def test_bits_after_draws_every_text_and_the_line_of_each_plateau():
    plateaus = pl.DataFrame({"model": ["m", "m"], "source": ["natural", "random"], "value": [12.0, 80.0]})
    chart = charts.bits_after(POINTS, plateaus)
    rows = data(chart)
    assert [row["fit"] for row in rows if row["layer"] == "point"] == ["exact", "not exact"] * 2
    line = [(row["source"], row["before"], row["after"]) for row in rows if row["layer"] == "plateau"]
    assert line[:3] == [("natural", 0, 0), ("natural", 12, 0), ("natural", 30, 18)]
    assert line[3:] == [("random", 0, 0), ("random", 80, 0), ("random", 80, 0)]  # C past every text: nothing is left
    drawn = svg(chart)
    for word in ("m, natural", "m, random", "bits without [mem]", "bits with [mem]", "not exact"):
        assert word in drawn
    assert drawn.count('aria-roledescription="point"') == 4
    assert drawn.count('stroke-dasharray="4,3"') == 2


def test_gain_by_length_has_a_panel_a_model_and_ticks_where_lengths_are():
    table = pl.DataFrame([
        {"model": m, "source": s, "length": n, "value": 5.0 * n, "low": 4.0 * n, "high": 6.0 * n, "n": 3}
        for m in ("one", "two") for s in ("natural", "random") for n in (3, 24)
    ])  # fmt: skip
    chart = charts.gain_by_length(table)
    assert chart.to_dict()["spec"]["layer"][1]["encoding"]["x"]["axis"]["values"] == [3, 24]
    drawn = svg(chart)
    assert drawn.count('aria-roledescription="area mark container"') == 4
    for word in ("one", "two", "length of the text (tokens)", "information gain (bits)"):
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
