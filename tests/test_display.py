"""How a chart is shown: every form holds the same specification, and none can break out of it."""

import altair as alt
import polars as pl
import pytest

from capacity.charts import display


@pytest.fixture
def enabled():
    """Show charts as notebooks do, and put things back."""
    renderer, theme, rows = alt.renderers.active, alt.theme.active, alt.data_transformers.active
    display.enable()
    yield
    alt.renderers.enable(renderer)
    alt.theme.enable(theme)
    alt.data_transformers.enable(rows)
    pl.Config.restore_defaults()


def test_a_chart_is_given_in_every_form_and_any_number_of_rows(enabled):
    frame = pl.DataFrame({"x": range(6000)})
    data = alt.Chart(frame, title="Many").mark_point().encode(x="x:Q")._repr_mimebundle_()
    assert {display.MIMETYPE, "text/plain"} < set(data)
    (rows,) = data[display.MIMETYPE]["datasets"].values()
    assert [row["x"] for row in rows] == list(range(6000))
    assert data["text/plain"] == "Chart: Many (6000 rows)"
    assert data[display.MIMETYPE]["config"]["axis"] == {"labelSeparation": 6}


def test_numbers_that_json_has_not_are_null_in_every_form():
    spec = {"mark": "point", "datasets": {"a": [{"x": float("nan")}, {"x": float("inf")}, {"x": 1.5}]}}
    for form in display.bundle(spec).values():
        assert "NaN" not in str(form)
        assert "Infinity" not in str(form)
    assert display.bundle(spec)[display.MIMETYPE]["datasets"]["a"] == [{"x": None}, {"x": None}, {"x": 1.5}]


def test_no_text_of_a_chart_ends_its_script():
    spec = {"mark": "bar", "title": "</script><script>run()</script>", "data": {"values": [{"x": 1}]}}
    texts = [form for name, form in display.bundle(spec).items() if name.startswith(("text/html", "image/svg"))]
    assert texts
    assert not any("<script>run" in text for text in texts)


@pytest.mark.parametrize(
    ("title", "words"),
    [("One", "One"), ({"text": ["Two", "lines"]}, "Two lines"), ({"text": "Three", "subtitle": "s"}, "Three")],
)
def test_a_caption_names_the_title_and_counts_the_rows(title, words):
    spec = {"title": title, "datasets": {"a": [{}, {}], "b": [{}]}}
    assert display.caption(spec) == f"Chart: {words} (3 rows)"
