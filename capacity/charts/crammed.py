"""What all this is about, in one picture: a text, the vector that holds it, and the text that comes back."""

import textwrap
from collections.abc import Sequence

import altair as alt
import polars as pl

_WIDTH, _HEIGHT = 720, 132  # pixels
_BOXES = ((0, 214), (289, 431), (506, 720))  # left and right of text, vector, text
_TOP, _BOTTOM = 30, 96
_COLUMNS = 34  # characters of a text's line; more than three lines end in an ellipsis
_CELLS = 16  # numbers of a vector that are drawn


def there_and_back(
    text: str, back: str, mem: Sequence[float], *, model: str, n_tokens: int, n_bytes: int, n_mem: int
) -> alt.LayerChart | alt.FacetChart:
    """Return the picture of a text that goes into vectors, from which alone the model gives it back.

    Args:
        text: as it was given; back: as it was decoded.
        mem: all numbers of the vectors, of which the first are drawn.
        model: its name.
        n_tokens, n_bytes: of the text; n_mem: vectors.
    """
    middle = [(left + right) / 2 for left, right in _BOXES]
    width = len(mem) // n_mem
    vectors = f"{n_mem} vector{'s' * (n_mem > 1)} of {width:,} number{'s' * (width != 1)}"
    size = f"{n_tokens} token{'s' * (n_tokens != 1)}, {n_bytes:,} byte{'s' * (n_bytes != 1)}"
    words = [
        *((middle[0], y, line) for y, line in _lines(text)),
        *((middle[2], y, line) for y, line in _lines(back)),
    ]
    notes = [
        (middle[0], 14, "a text"), (middle[1], 14, "[mem]"), (middle[2], 14, "comes back from [mem] alone"),
        (middle[0], 114, size), (middle[1], 114, vectors),
        (middle[2], 114, f"decoded by {model}"),
        ((_BOXES[0][1] + _BOXES[1][0]) / 2, 50, "optimise"),
        ((_BOXES[1][1] + _BOXES[2][0]) / 2, 40, "frozen"), ((_BOXES[1][1] + _BOXES[2][0]) / 2, 54, "model"),
    ]  # fmt: skip
    left, right = _BOXES[1]
    step = (right - left - 16) / _CELLS
    cells = pl.DataFrame([
        {"x": left + 8 + i * step, "x2": left + 7 + (i + 1) * step, "number": float(value)}
        for i, value in enumerate(mem[:_CELLS])
    ])  # fmt: skip
    boxes = pl.DataFrame([{"x": start, "x2": end, "y": _TOP, "y2": _BOTTOM} for start, end in _BOXES])
    gaps = [(_BOXES[0][1], _BOXES[1][0]), (_BOXES[1][1], _BOXES[2][0])]
    arrows = pl.DataFrame([{"x": start + 6, "x2": end - 12, "y": 63.0} for start, end in gaps])

    x = alt.X("x:Q", scale=alt.Scale(domain=[0, _WIDTH], nice=False), axis=None)
    y = alt.Y("y:Q", scale=alt.Scale(domain=[_HEIGHT, 0], nice=False), axis=None)
    frames = alt.Chart(boxes).mark_rect(fill="#ffffff", stroke="#888888", cornerRadius=6).encode(x, y, x2="x2", y2="y2")
    numbers = (
        alt.Chart(cells.with_columns(y=pl.lit(46.0), y2=pl.lit(80.0)))
        .mark_rect()
        .encode(x, y, alt.Color("number:Q", scale=alt.Scale(scheme="blueorange", domainMid=0), legend=None))
        .encode(x2="x2", y2="y2")
    )
    shafts = alt.Chart(arrows).mark_rule(stroke="#444444", strokeWidth=2).encode(x, y, x2="x2")
    heads = (
        alt.Chart(arrows.select(pl.col("x2").alias("x"), "y"))
        .mark_point(shape="triangle-right", filled=True, size=110, color="#444444", opacity=1)
        .encode(x, y)
    )
    return alt.layer(
        frames, numbers, shafts, heads, _texts(words, x, y, color="#111111", size=12),
        _texts(notes, x, y, color="#444444", size=12),
    ).properties(width=_WIDTH, height=_HEIGHT, view=alt.ViewConfig(stroke=None))  # fmt: skip


def _lines(text: str) -> list[tuple[float, str]]:
    lines = textwrap.wrap(text, _COLUMNS, max_lines=3, placeholder=" …")
    top = (_TOP + _BOTTOM) / 2 - 9 * (len(lines) - 1)
    return [(top + 18 * number, line) for number, line in enumerate(lines)]


def _texts(placed: Sequence[tuple[float, float, str]], x: alt.X, y: alt.Y, *, color: str, size: int) -> alt.Chart:
    table = pl.DataFrame(placed, schema={"x": pl.Float64, "y": pl.Float64, "words": pl.String}, orient="row")
    return alt.Chart(table).mark_text(color=color, fontSize=size, baseline="middle").encode(x, y, text="words:N")
