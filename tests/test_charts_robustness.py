import polars as pl
import vl_convert

from capacity import charts


def table(**columns):
    numbers = {"value": [0.5, 0.9], "low": [0.2, None], "high": [0.7, None], "n": [16, 3]}
    return pl.DataFrame({"model": ["neox-128", "llama-64"]} | numbers | columns)


def values(chart):
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def test_numbers_by_kind_draws_a_dot_and_an_interval_for_each_model():
    kinds = table(kind=["as it was", "rounded <b>"])
    chart = charts.numbers_by_kind(kinds, "kind", title="share that decodes", log=True)
    assert [(row["model"], row["kind"], row["value"], row["low"]) for row in values(chart)] == [
        ("neox-128", "as it was", 0.5, 0.2), ("llama-64", "rounded <b>", 0.9, None),
    ]  # fmt: skip
    spec = chart.to_dict()
    assert spec["layer"][1]["encoding"]["x"]["scale"]["type"] == "log"
    assert spec["layer"][0]["encoding"]["color"]["scale"]["domain"] == ["llama-64", "neox-128"]  # as on every page
    drawn = vl_convert.vegalite_to_svg(spec)
    assert all(words in drawn for words in ("share that decodes", "as it was", "neox-128"))
    assert "<b>" not in drawn


def test_numbers_along_has_a_panel_a_kind_and_the_largest_first_where_asked():
    chart = charts.numbers_along(
        table(bits=[16, 2], scale=["a", "b"]), "bits", "scale", title="share", named="bits a dimension", falling=True
    )
    spec = chart.to_dict()
    assert spec["facet"]["sort"] == ["a", "b"]
    assert (
        spec["spec"]["layer"][1]["encoding"]["x"]["scale"] | {"reverse": True, "type": "linear"}
        == (spec["spec"]["layer"][1]["encoding"]["x"]["scale"])
    )
    assert {row["bits"] for row in values(chart)} == {16, 2}
    assert "bits a dimension" in vl_convert.vegalite_to_svg(spec)
