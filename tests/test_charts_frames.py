"""Figures of frames of one's own: what is drawn of them, and what is refused in one sentence."""

import inspect

import polars as pl
import pytest

from capacity import charts, metrics

FIGURES = [name for name in charts.__all__ if name not in ("svg", "enable", "there_and_back")]  # drawn of frames
WORDS = "model source kind recipe series what text_id token rung law method part pair path text mine"


def own_frame(needed: list[str], number: float | str | None) -> pl.DataFrame:
    """One row of the columns that a figure says it draws."""
    words = set(WORDS.split())
    flags = {"within", "decoded", "whole"}
    return pl.DataFrame({name: ["x" if name in words else True if name in flags else number] for name in needed})


def drawn_of(name: str, number: float | str | None, **wrong):
    """A figure of frames with no more than the columns that it draws, all numbers the same."""
    draw, given = getattr(charts, name), {}
    named = {"field": "mine", "at": "at", "panel": "mine", "value": "bits", "color": "recipe", "order": ["x"],
             "shares": [0.5], "bound": 0.5, "title": "", "named": "", "across": "", "up": "", "unit": ""}  # fmt: skip
    for parameter in inspect.signature(draw).parameters.values():
        if "DataFrame" in str(parameter.annotation):
            given[parameter.name] = pl.DataFrame()
        elif parameter.default is inspect.Parameter.empty:
            given[parameter.name] = named[parameter.name]
    columns = {}
    for frame in [key for key, value in given.items() if isinstance(value, pl.DataFrame)]:
        with pytest.raises(ValueError, match="are drawn") as refused:
            draw(**given)
        columns[frame] = str(refused.value).rpartition(", and ")[2].removesuffix(" are drawn").split(", ")
        given[frame] = own_frame(columns[frame], 1.0)
    for frame, needed in columns.items():
        others = [pl.lit(value).alias(column) for column, value in wrong.items() if column in needed]
        given[frame] = own_frame(needed, number).with_columns(others)
    return draw(**given)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("number", [1.0, None])
def test_a_figure_is_drawn_of_the_columns_it_asks_for_also_where_no_number_is_known(name, number):
    assert charts.svg(drawn_of(name, number)).startswith("<svg")


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in ("fit_curve", "training_curves")])
@pytest.mark.parametrize(
    ("number", "message"), [("five", "is of type String, and drawn as numbers"), (float("nan"), "is nan")]
)
def test_a_figure_of_what_is_no_number_is_refused_in_one_sentence(name, number, message):
    with pytest.raises(ValueError, match=rf"charts\.{name}: \w+ of \w+ {message}"):
        drawn_of(name, number)


@pytest.mark.parametrize("number", [0, -1])
@pytest.mark.parametrize(
    ("name", "column"),
    [("byte_ledger", "bytes"), ("gain_by_length", "length"), ("laws", "y"), ("rates_by_length", "rate"),
     ("held_by_depth", "value"), ("share_by_vectors", "n_mem"), ("capacity_by_width", "d_model")],
)  # fmt: skip
def test_what_a_log_axis_cannot_show_is_refused(name, column, number):
    message = rf"{column} of \w+ is {number} in some rows; numbers above 0, since its axis is logarithmic"
    with pytest.raises(ValueError, match=message):
        drawn_of(name, 1.0, **{column: number})


def test_an_axis_is_logarithmic_where_it_is_asked_for():
    table = pl.DataFrame({"model": "m", "at": [0.0, 1.0], "kind": "k", "value": 1.0, "low": None, "high": None})
    charts.svg(charts.numbers_along(table, "at", "kind", title="", named=""))
    with pytest.raises(ValueError, match="at of table is 0 in some rows; numbers above 0"):
        charts.numbers_along(table, "at", "kind", title="", named="", log=True)


def test_lengths_that_nothing_censors_are_drawn():
    fits = pl.DataFrame({"model": "m", "source": "s", "doc": ["a", "b"], "tokens": 8, "back": [5, 8]})
    table = metrics.exact_length(
        fits, by=["model", "source"], text_id="doc", length="tokens", decoded="back", status=None, seed=None
    )
    assert "exact length" in charts.svg(charts.exact_length_by_model(table))
    untyped = table.with_columns(low=None, high=None, n_censored=None)
    assert "exact length" in charts.svg(charts.exact_length_by_model(untyped))


def test_one_of_a_kind_is_no_plural():
    drawn = charts.svg(charts.there_and_back("a", "a", [1.0], model="m", n_tokens=1, n_bytes=1, n_mem=1))
    for words in ("1 token, 1 byte", "1 vector of 1 number"):
        assert f">{words}<" in drawn
