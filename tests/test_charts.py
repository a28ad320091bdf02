import inspect

import polars as pl
import pytest
import vl_convert

from capacity import charts
from capacity.charts import style


def svg(chart) -> str:
    return vl_convert.vegalite_to_svg(chart.to_dict())


def test_fit_curve_draws_every_step():
    curve = pl.DataFrame({"step": [0, 1, 2], "bits": [9.0, 5.0, 7.0], "n_right": [0, 1, 1], "length": [1, 1, 2]})
    drawn = svg(charts.fit_curve(curve))
    assert "optimiser step" in drawn
    assert "bits left, all tokens" in drawn
    assert drawn.count('aria-roledescription="line mark container"') == 3


def test_token_strip_shows_tokens_in_order_and_marks_what_was_lost():
    tokens = pl.DataFrame({
        "position": range(1, 15), "token": ["a b", *["x"] * 12, "<b>"],
        "decoded": [True] * 13 + [False], "bits_without": [None, *[float(i) for i in range(13)]],
    })  # fmt: skip
    chart = charts.token_strip(tokens)
    data = chart.data
    assert data["column"].to_list() == [*range(12), 0, 1]
    assert data["line"].to_list() == [0] * 12 + [1] * 2
    drawn = svg(chart)
    assert "a·b" in drawn
    assert "<b>" not in drawn  # escaped
    assert drawn.count('stroke-dasharray="3,3"') == 1


def test_byte_ledger_names_every_way_and_its_bytes():
    drawn = svg(charts.byte_ledger(pl.DataFrame({"what": ["[mem], float32", "text, UTF-8"], "bytes": [2048, 31]})))
    assert "2,048" in drawn
    assert "text, UTF-8" in drawn


def test_accuracy_by_length_has_a_panel_a_source_and_a_line_a_model():
    table = pl.DataFrame([
        {"model": m, "source": s, "recipe": "default", "length": n, "value": 0.9, "low": 0.8, "high": 1.0, "n": 4}
        for m in ("one", "two") for s in ("embedded", "random_words") for n in (2, 4)
    ])  # fmt: skip
    drawn = svg(charts.accuracy_by_length(table))
    assert drawn.count("accuracy (share of tokens)") >= 1
    for word in ("embedded", "random_words", "one", "two", "default"):
        assert word in drawn
    assert drawn.count('aria-roledescription="area mark container"') == 4


def legends(found) -> list[dict]:
    """Every legend of a Vega specification, at any depth."""
    if isinstance(found, list):
        return [legend for part in found for legend in legends(part)]
    if not isinstance(found, dict):
        return []
    return [*found.get("legends", []), *(legend for part in found.values() for legend in legends(part))]


def test_the_legend_of_dashes_shows_them():
    fits = pl.DataFrame([
        {"model": "one", "source": "embedded", "recipe": recipe, "length": n, "value": 0.9, "low": 0.8, "high": 1.0,
         "n": 4}
        for recipe in ("default", "paper") for n in (2, 4)
    ])  # fmt: skip
    read = pl.DataFrame({"model": ["one"] * 2, "n_context": [16, 64], "share": [0.1, 0.4], "series": ["here", "paper"]})
    read = read.with_columns(share_low="share", share_high="share")
    for chart in (charts.accuracy_by_length(fits), charts.prefix_share(read)):
        dashed = [one for one in legends(vl_convert.vegalite_to_vega(chart.to_dict())) if "strokeDash" in one]
        assert len(dashed) == 1
        assert "transparent" not in str(dashed[0])


def test_exact_length_by_model_has_the_order_of_every_page():
    table = pl.DataFrame({
        "model": ["llama-128-bos", "llama-64"], "source": ["embedded"] * 2, "value": [3.0, 2.0], "low": [2.0, 1.0],
        "high": [4.0, 3.0], "n": [4, 4], "n_censored": [0, 1],
    })  # fmt: skip
    chart = charts.exact_length_by_model(table)
    assert chart.to_dict()["layer"][0]["encoding"]["y"]["sort"] == ["llama-64", "llama-128-bos"]
    assert "95% interval" in svg(chart)


def test_capacity_by_width_leaves_out_what_a_log_axis_cannot_show():
    ours = pl.DataFrame({"model": ["a", "b"], "source": ["embedded"] * 2, "d_model": [96, 128], "value": [0.0, 4.0],
                         "series": ["here"] * 2})  # fmt: skip
    theirs = pl.DataFrame({"model": ["c"], "source": ["pg19"], "d_model": [768], "value": [80.0], "series": ["paper"]})
    limit = pl.DataFrame({"model": ["b"], "d_model": [128.0], "value": [228.0]})
    chart = charts.capacity_by_width(ours, theirs, limit)
    shown = next(iter(chart.to_dict()["datasets"].values()), None)
    rows = [row for rows in chart.to_dict()["datasets"].values() for row in rows]
    assert shown
    assert {row["value"] for row in rows} == {4.0, 80.0, 228.0}
    assert ">Eq. 1 (black ticks)</text>" in svg(chart)
    assert "tokens in one vector" in svg(chart)


def test_training_curves_average_runs_of_steps():
    curves = pl.DataFrame({"model": ["m"] * 400, "step": range(400), "tokens": range(1, 401),
                           "loss_nats": [float(i) for i in range(400)]})  # fmt: skip
    data = charts.training_curves(curves, points=100).data.sort("tokens")
    assert data.height == pytest.approx(100, abs=1)
    assert data["loss_nats"][0] == pytest.approx(1.5, abs=1.0)


def test_texts_by_source_has_a_tick_a_text_and_a_dot_a_source():
    table = pl.DataFrame({"source": ["embedded"] * 3 + ["file:<b>"], "length": [10, 100, 900, 20]})
    drawn = svg(charts.texts_by_source(table, "length", title="length (tokens)", log=True))
    assert drawn.count('aria-roledescription="tick"') == 4
    assert drawn.count('aria-roledescription="point"') == 2
    for word in ("embedded", "file:&lt;b>", "length (tokens)"):
        assert word in drawn or word.replace(">", "&gt;") in drawn


def test_prefix_share_has_a_line_a_model_and_a_band_where_there_is_an_interval():
    table = pl.DataFrame({
        "model": ["one"] * 2 + ["<two>"] * 2, "n_context": [16, 64] * 2, "share": [0.1, 0.4, 0.05, 0.2],
        "share_low": [0.0, 0.3, None, None], "share_high": [0.2, 0.5, None, None],
        "series": ["here"] * 2 + ["paper"] * 2,
    })  # fmt: skip
    drawn = svg(charts.prefix_share(table))
    assert drawn.count('aria-roledescription="line mark container"') == 2
    for word in ("real tokens before the text", "bits saved / bits saved by [mem]", "&lt;two>", "here"):
        assert word in drawn or word.replace(">", "&gt;") in drawn


def test_bytes_per_token_keeps_the_order_of_the_ways():
    table = pl.DataFrame({
        "what": ["text, UTF-8", "[mem], float32"] * 2, "model": ["a"] * 2 + ["b"] * 2, "value": [2.0, 40.0, 3.0, 50.0],
        "low": [1.0, 30.0, 3.0, 50.0], "high": [3.0, 50.0, 3.0, 50.0], "series": ["a"] * 2 + ["<paper>"] * 2,
    })  # fmt: skip
    chart = charts.bytes_per_token(table, order=["[mem], float32", "text, UTF-8"])
    assert chart.to_dict()["layer"][0]["encoding"]["y"]["sort"] == ["[mem], float32", "text, UTF-8"]
    drawn = svg(chart)
    assert drawn.count('aria-roledescription="point"') == 4
    assert drawn.index("[mem], float32") < drawn.index("text, UTF-8")
    assert "bytes a token (log scale)" in drawn
    assert "&lt;paper" in drawn


def test_bits_needed_has_a_panel_a_model_and_a_point_a_kind():
    table = pl.DataFrame([
        {"model": m, "source": s, "kind": k, "value": 3.0, "low": 2.0, "high": 4.0}
        for m in ("one", "two") for s in ("embedded", "random_words") for k in ("entropy", "shortfall")
    ])  # fmt: skip
    chart = charts.bits_needed(table.reverse(), order=["entropy", "shortfall"])
    assert chart.to_dict()["facet"]["sort"] == ["two", "one"]  # as they come
    drawn = svg(chart)
    assert drawn.count('aria-roledescription="point"') == 8
    for word in ("one", "two", "random_words", "bits a token (95% interval over texts)"):
        assert word in drawn


def values(chart, mark):
    """The rows that a layer of this mark is drawn from."""
    spec = chart.to_dict()
    (layer,) = [
        one for one in spec["layer"] if (one["mark"] if isinstance(one["mark"], str) else one["mark"]["type"]) == mark
    ]
    return layer["encoding"], spec["datasets"][(layer.get("data") or spec["data"])["name"]]


def test_rates_by_length_has_a_line_a_method_and_a_bar_a_setting():
    table = pl.DataFrame([
        {"model": "m", "length": length, "n_mem": 1, "texts": texts, "method": method, "rate": rate * length,
         "low": rate * length / 2, "high": rate * length * 2, "ratio": rate, "share": 0.1}
        for method, texts, rate in (("plain", 1, 1.0), ("engine", 8, 30.0), ("<b>", 8, 60.0)) for length in (4, 8)
    ])  # fmt: skip
    chart = charts.rates_by_length(table)
    drawn = svg(chart)
    assert drawn.count('aria-roledescription="line mark"') == 3
    assert drawn.count('aria-roledescription="rule mark"') == 6
    for word in ("length (tokens)", "token-steps a second", "plain", "engine"):
        assert f">{word}</text>" in drawn
    assert "<b>" not in drawn
    encoding, rows = values(chart, "rule")
    assert (encoding["y"]["field"], encoding["y2"]["field"]) == ("low", "high")
    assert [row["rate"] for row in rows] == table["rate"].to_list()


def test_lengths_are_told_from_bounds_and_every_model_has_a_panel():
    counts = dict.fromkeys(("n_searches", "n_beyond", "n_stalled", "n_at", "n_held"), 2)
    table = pl.DataFrame([
        {"model": model, "text_id": text, "tokens": tokens, "kind": kind} | counts
        for model in ("a", "b")
        for text, tokens, kind in (("one", 4, "limit"), ("two", 7, "search-limited"), ("three", 9, "ended"))
    ])  # fmt: skip
    drawn = svg(charts.lengths_by_text(table))
    assert drawn.count('aria-roledescription="point"') == 6
    for word in ("a", "b", "limit", "search-limited: at least", "the text ends", "three"):
        assert f">{word}</text>" in drawn


def test_shares_fall_from_one_in_steps():
    table = pl.DataFrame({"model": "a", "series": ["s", "s"], "tokens": [2.0, 5.0], "share": [0.5, 0.0]})
    spec = charts.shares_above(table).to_dict()
    (rows,) = spec["datasets"].values()
    assert [(row["tokens"], row["share"]) for row in rows] == [(0, 1), (2, 0.5), (5, 0)]
    assert spec["spec"]["mark"]["interpolate"] == "step-after"


def test_costs_of_several_models_are_in_panels_of_their_own():
    table = pl.DataFrame([
        {"model": model, "search": "grow", "spent": spent, "value": spent, "low": 0.0, "high": 2 * spent, "n": 6}
        for model in ("a", "b") for spent in (10.0, 100.0)
    ])  # fmt: skip
    drawn = svg(charts.exact_length_by_cost(table, title="token-steps", color="search", value="share"))
    assert drawn.count('aria-roledescription="line mark"') == 2
    assert ">share</text>" in drawn


def test_exact_length_by_cost_has_a_line_and_a_band_a_recipe():
    table = pl.DataFrame([
        {"recipe": recipe, "spent": spent, "value": times * spent, "low": times * spent - 1, "high": times * spent + 1,
         "n": 3}
        for recipe, times in (("paper", 0.1), ("default", 0.2)) for spent in (10.0, 100.0, 1000.0)
    ])  # fmt: skip
    chart = charts.exact_length_by_cost(table, title="token-steps a <text>")
    drawn = svg(chart)
    assert drawn.count('aria-roledescription="line mark"') == 2
    assert drawn.count('aria-roledescription="area mark"') == 2
    assert drawn.count('aria-roledescription="point"') == 6
    for word in ("mean exact length (tokens)", "token-steps a &lt;text&gt;", "paper", "default"):
        assert f">{word}</text>" in drawn
    encoding, rows = values(chart, "area")
    assert (encoding["y"]["field"], encoding["y2"]["field"]) == ("low", "high")
    assert {(row["recipe"], row["spent"]): row["value"] for row in rows}["default", 100.0] == 20.0


def test_a_model_has_one_colour_and_one_place_on_every_page():
    def colors(names):
        scale = style.model_color(names).to_dict()["scale"]
        return dict(zip(scale["domain"], scale["range"], strict=True))

    alone, all_of_them = colors(["llama-192"]), colors(["neox-128", "theirs", "llama-192", "llama-64", "theirs"])
    assert list(all_of_them) == ["llama-64", "llama-192", "neox-128", "theirs"]
    assert len(set(all_of_them.values())) == 4
    assert alone["llama-192"] == all_of_them["llama-192"]


def test_lengths_stand_on_their_axis_as_whole_numbers():
    table = pl.DataFrame({
        "model": ["m"] * 3, "source": ["s"] * 3, "recipe": ["r"] * 3, "length": [1, 3, 6], "value": [1.0, 0.5, 0.25],
        "low": [1.0, 0.5, 0.25], "high": [1.0, 0.5, 0.25], "n": [2] * 3,
    })  # fmt: skip
    drawn = svg(charts.accuracy_by_length(table))
    for number in (1, 3, 6):
        assert f">{number}</text>" in drawn
    assert ">1.5</text>" not in drawn


def test_a_page_may_draw_more_rows_than_altair_lets_through_by_itself():
    charts.enable()
    rows = pl.DataFrame({"source": ["s"] * 6000, "length": [float(i) for i in range(6000)]})
    spec = charts.texts_by_source(rows, "length", title="x").to_dict()
    assert sum(len(data) for data in spec["datasets"].values()) == 6000


def test_there_and_back_says_what_went_in_and_what_came_back():
    chart = charts.there_and_back(
        "He <said>", "He", [0.5, -0.5, 1.0, 2.0], model="one-model", n_tokens=7, n_bytes=1234, n_mem=2
    )
    drawn = charts.svg(chart)
    for words in ("He &lt;said&gt;", ">He<", "7 tokens, 1,234 bytes", "2 vectors of 2 numbers", "decoded by one-model"):
        assert words in drawn
    long = charts.svg(charts.there_and_back("word " * 99, "", [1.0], model="m", n_tokens=99, n_bytes=1, n_mem=1))
    assert long.count(">word word") == 3  # lines, the last of which says that there is more
    assert " …<" in long


FIGURES = [name for name in charts.__all__ if name not in ("svg", "enable", "there_and_back")]  # drawn of frames


@pytest.mark.parametrize("name", FIGURES)
def test_a_frame_without_the_columns_is_refused_in_one_sentence(name):
    draw = getattr(charts, name)
    frame = pl.DataFrame({"mine": [1.0]})
    given = {
        parameter.name: frame if "DataFrame" in str(parameter.annotation) else "mine"
        for parameter in inspect.signature(draw).parameters.values()
        if parameter.default is inspect.Parameter.empty
    }
    with pytest.raises(ValueError, match=rf"charts\.{name}: \w+ has no column .*; it has mine, and .* are drawn"):
        draw(**given)


def test_what_is_no_frame_is_refused():
    with pytest.raises(ValueError, match=r"charts.byte_ledger: ledger is .*no frame of polars"):
        charts.byte_ledger({"what": ["x"], "bytes": [1]})  # pyright: ignore


def test_a_column_that_a_parameter_names_is_needed():
    table = pl.DataFrame({"source": ["a"], "bits": [1.0]})
    with pytest.raises(ValueError, match="has no column nats; it has source, bits"):
        charts.texts_by_source(table, "nats", title="")
