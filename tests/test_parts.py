"""Parts of a sweep: together the whole, alike in work; in processes and merged, the rows of one run."""

import doctest
import io
import sys

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
    with progress.bar(4, show=True) as bar:
        bar.set_description("tiny")
        bar.update()
    assert stream.getvalue() == ""  # within the minute
    lines = progress.Lines(4, seconds=0.0)
    lines.set_description("tiny")
    lines.update()
    lines.update(3)
    said = stream.getvalue().splitlines()
    assert [line.partition(",")[0] for line in said] == ["tiny: 1 of 4 cells", "tiny: 4 of 4 cells"]
    assert not set(stream.getvalue()) & {"\r", "\x1b"}
    with progress.bar(4, show=False) as bar:
        bar.update()
    assert len(stream.getvalue().splitlines()) == 2
