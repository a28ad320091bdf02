"""Parts of a sweep: together the whole, alike in work; in processes and merged, the rows of one run."""

import doctest
import io
import re
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity import store, sweep
from capacity.sweep import presets, progress, shards

GRID = """
model = ["{model}"]
n_texts = 1
length = [1, 2, 3]
search = "fixed"
recipe = "paper"
source = "random_tokens"
"""


@given(st.lists(st.floats(0, 100), max_size=30), st.integers(1, 6))
@settings(max_examples=100, database=None)
def test_parts_are_the_whole_and_alike_in_cost(costs, n):
    places = list(range(len(costs)))
    found = shards.parts(places, costs, n)
    assert sorted(place for part in found for place in part) == places
    assert all(part == sorted(part) for part in found)
    sums = [sum(costs[place] for place in part) for part in found]
    assert max(sums) - min(sums) <= max(costs, default=0) + 1e-9  # the bound of the greedy rule


def test_examples_in_the_docstrings_hold():
    done = doctest.testmod(shards)
    assert (done.attempted, done.failed) == (2, 0)


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3"])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(ValueError, match="is no I/N"):
        sweep.shard([], part)


def test_a_grid_file_names_models_and_settings(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(GRID.format(model="llama-64"))
    found = presets.experiments(presets.read(path), models=(), given={"n_texts": 2})
    assert [(one.model, one.length, one.text_index) for one in found] == [
        ("llama-64", length, text) for length in (1, 2, 3) for text in (0, 1)
    ]
    wrong = {"length = [": "write it in TOML", "lengths = 3": "unknown setting 'lengths'", "model = 1": "model is 1"}
    for text, says in wrong.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            presets.read(path)
    with pytest.raises(ValueError, match="can't be read"):
        presets.read(tmp_path / "none.toml")


@pytest.mark.slow
def test_parts_and_processes_measure_the_rows_of_one_run(folders, tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(GRID.format(model=folders["llama"]))
    wanted = presets.experiments(presets.read(path))
    options = {"travelling": False, "progress": False}
    whole = sweep.run(wanted, tmp_path / "whole", **options)
    for number in (1, 2):
        sweep.run(sweep.shard(wanted, f"{number}/2"), tmp_path / f"part{number}", **options)
    assert store.merge(tmp_path / "all", [tmp_path / "part1", tmp_path / "part2"]) == (3, 0)
    alike = whole.drop("seconds")
    assert store.read([tmp_path / "all"]).drop("seconds").equals(alike)
    assert sweep.run(wanted, tmp_path / "jobs", jobs=2, **options).drop("seconds").equals(alike)
    assert store.merge(tmp_path / "all", [tmp_path / "jobs"]) == (0, 3)


def test_where_there_is_no_terminal_a_line_is_said_now_and_then(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.Progress(4) as bar:
        bar.set_description("tiny")
        bar.update()
    assert stream.getvalue() == ""  # within the minute
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    bar = progress.Progress(4, most_token_steps=36_000)
    bar.set_description("tiny")
    for seconds, tokens, cells in [(30, 150, 0), (60, 150, 0), (61, 0, 1), (120, 300, 0), (600, 0, 0), (660, 300, 0)]:
        now[0] = seconds
        bar.advance(tokens)
        if cells:
            bar.update(cells, 200 * cells)
    assert stream.getvalue().splitlines() == [
        "tiny: 0 of 4 cells, 1 min, 5 tokens a second, at most 119 min left",  # within the first cell
        "tiny: 1 of 4 cells, 2 min, 5 tokens a second, about 1 min left",  # 400 of 600 are done already
        "tiny: 1 of 4 cells, 10 min, 1 tokens a second, about 3 min left",
        "tiny: 1 of 4 cells, 11 min, 1 tokens a second, at most 429 min left",  # 700: more than three such cells take
    ]
    assert not set(stream.getvalue()) & {"\r", "\x1b"}
    with progress.Progress(4, show=False, seconds=0.0) as bar:
        bar.update()
    assert len(stream.getvalue().splitlines()) == 4


def test_on_a_terminal_a_bar_has_rate_and_time_left(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.Progress(2, most_token_steps=2000) as bar:
        bar.set_description("tiny")
        bar.advance(700)
        bar.update(token_steps=600)
    last = stream.getvalue().rpartition("\r")[2]
    assert "tiny: 1 of 2 cells" in last
    assert re.search(r"[\d,]+ tokens a second, about 0 min left", last)


def test_what_is_past_its_time_is_never_below_none():
    bar = progress.Progress(2, most_token_steps=2000, show=False)
    bar.advance(700)
    bar.update(token_steps=600)
    bar.advance(5000)
    assert "min left" not in bar.rest()  # more than it was to take at most: nothing is known
    bar.update()  # by others
    assert bar.rest().endswith(", about 0 min left")
