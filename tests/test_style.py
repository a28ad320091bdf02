"""What the figures share: a model and a source have one place and one colour, and no panel stands empty."""

import altair as alt
import polars as pl
import pytest
import vl_convert

from capacity import charts
from capacity.charts import style


def colors(color: alt.Color) -> dict[str, str]:
    scale = color.to_dict()["scale"]
    return dict(zip(scale["domain"], scale["range"], strict=True))


@pytest.mark.parametrize(
    ("color", "known"),
    [(style.model_color, style.MODELS), (style.source_color, style.SOURCES)],
    ids=["model", "source"],
)
def test_a_name_has_its_colour_in_any_company(color, known):
    every = colors(color(known))
    assert len(set(every.values())) == len(known)
    for name in known:
        assert colors(color(["of a folder", name]))[name] == every[name]
    assert list(colors(color(["of a folder", *reversed(known)]))) == [*known, "of a folder"]
    assert colors(color(["of a folder"]))["of a folder"] not in every.values()


def test_no_colour_of_a_model_is_one_of_a_source():
    assert not set(colors(style.model_color(style.MODELS)).values()) & set(style.SOURCE_COLORS)


def test_whole_numbers_are_the_ticks_and_nothing_between():
    axis = style.whole_numbers([8, 2, 2, 4]).to_dict()
    assert (axis["values"], axis["format"]) == ([2, 4, 8], "d")


def test_a_last_row_with_a_gap_has_no_axis_below_nothing():
    table = pl.DataFrame([
        {"model": model, "source": "embedded", "kind": "gain", "length": length, "value": 9.0, "low": 8.0,
         "high": 10.0, "n": 4}
        for model in ("a", "b", "c") for length in (4, 8)
    ])  # fmt: skip
    drawn = vl_convert.vegalite_to_svg(charts.gain_by_length(table).to_dict())
    assert drawn.count(">length of the text (tokens)</text>") == 3


@pytest.mark.parametrize(("along", "ends"), [("x", ("x", "x2")), ("y", ("y", "y2"))])
def test_rules_span_an_interval_along_their_axis(along, ends):
    frame = pl.DataFrame({"place": [1.0], "low": [2.0], "high": [3.0]})
    encoding = style.rules(alt.Chart(frame), along=along).to_dict()["encoding"]
    assert [encoding[end]["field"] for end in ends] == ["low", "high"]
