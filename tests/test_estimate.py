import doctest
import random
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest

from capacity import fitting, models, sweep
from capacity.fitting.batch import Batch
from capacity.fitting.memory import Shape
from capacity.fitting.recipes import Recipe
from capacity.fitting.slots import bucket_of, narrowed, shape_of
from capacity.sweep import estimate, expected, plan, taken

QUICK = Recipe(loss="hinge", margin=0.05, lr=0.1, steps=25, patience=20)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setitem(fitting.RECIPES, "quick", QUICK)


def grid(folders, **settings):
    same = {"source": "random_tokens", "recipe": "quick", "search": "fixed", "device": "cpu", "n_texts": 2}
    return sweep.grid(model=str(folders["llama"]), **same | settings)


def test_the_cells_that_the_store_has_are_not_counted_again(folders, tmp_path):
    every = grid(folders, length=[5, 6, 12], n_mem=[1, 2])
    (before,) = estimate.estimate(every, tmp_path / "store")
    assert (before.n_cells, before.n_there, before.device) == (12, 0, "cpu")
    assert not (tmp_path / "store").exists()  # a probe keeps nothing
    shapes = {(one.shape.n_mem, one.shape.bucket): (one.n_cells, one.steps) for one in before.stages}
    assert shapes == {(n_mem, bucket): (n, 25) for n_mem in (1, 2) for bucket, n in ((8, 4), (12, 2))}
    rows = sweep.run(grid(folders, length=[5, 6, 12], n_mem=1), tmp_path / "store", progress=False)
    assert rows["steps"].max() <= 25
    (after,) = estimate.estimate(every, tmp_path / "store")
    assert (after.n_cells, after.n_there) == (12, 6)
    assert {one.shape.n_mem for one in after.stages} == {2}
    (done,) = estimate.estimate(grid(folders, length=5), tmp_path / "store")
    assert (done.n_there, done.stages, done.seconds, done.n_bytes) == (2, (), 0, 0)
    assert plan.lines(done)[1:] == []


def test_time_and_memory_are_those_of_the_batches(folders, tiny, tmp_path):
    before, fresh = fitting.peak_bytes(tiny.device), models.load(str(folders["llama"]), device="cpu")
    (found,) = estimate.estimate(grid(folders, length=[5, 20], n_texts=40), tmp_path / "store")
    seconds = 0.0
    for stage, bucket in zip(found.stages, (8, 24), strict=True):
        whole = shape_of(tiny, bucket, n_mem=1)
        shape = narrowed(fresh, fitting.recipe(stage.recipe), 40, whole, compile=False)
        assert stage.shape == shape
        seconds += stage.step_seconds * 25 * (40 // shape.slots + (40 % shape.slots > 0))
    assert found.seconds == pytest.approx(seconds)
    assert found.seconds > 0
    assert before <= found.n_bytes <= fitting.peak_bytes(tiny.device)  # of this process, by then
    assert found.n_courses == 0
    assert found.expected_seconds == pytest.approx(found.seconds + found.beside_seconds)


def test_a_probe_takes_the_median_of_full_steps_after_a_first_one(folders, tiny, monkeypatch):
    now, lasting, seen = [0.0], iter([100.0, 3.0, 1.0, 2.0]), []
    whole = Batch.step

    def step(self, advance):
        now[0] += next(lasting)
        seen.append((self.shape.bucket, len(self.tasks), self.under_way))
        return whole(self, advance)

    monkeypatch.setattr(Batch, "step", step)
    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    (cell,) = sweep.cells(grid(folders, length=20, n_texts=1))
    assert estimate.step_seconds(tiny, cell, Shape(1, 24, 5)) == 2.0
    assert seen == [(24, 5, 5)] * 4


def test_models_are_estimated_by_themselves(folders, tmp_path):
    both = [*grid(folders, length=5), *(replace(one, model=str(folders["neox"])) for one in grid(folders, length=5))]
    found = list(estimate.estimate(both, tmp_path / "store"))
    assert [(one.model, one.n_cells) for one in found] == [(str(folders["llama"]), 2), (str(folders["neox"]), 2)]


def test_a_search_passes_all_lengths_up_to_its_own(folders, tmp_path):
    every = grid(folders, length=[9, 14], search="grow", scored_from=1, budget=2000)
    (found,) = estimate.estimate(every, tmp_path / "store")
    assert {one.shape.bucket: one.n_cells for one in found.stages} == {8: 4, 12: 4, 16: 2}
    assert sum(one.steps for one in found.stages) <= 13 * 25  # the lengths 2 to 14, each once


@pytest.mark.parametrize("seed", range(20))
def test_no_search_within_its_budget_takes_longer_than_the_bound(seed):
    draw = random.Random(seed)
    first, last, per_length = draw.randint(1, 2), draw.randint(3, 40), draw.randint(1, 9)
    budget = draw.randint(1, 2000)
    tried = {}
    for length in range(first, last + 1):
        tried.setdefault(bucket_of(length), set()).add(length)
    seconds = {bucket: draw.uniform(0.1, 1.0) for bucket in tried}
    steps = estimate.most_steps(tried, seconds, per_length=per_length, budget=budget)
    assert steps.keys() == tried.keys()
    bound = sum(steps[bucket] * seconds[bucket] for bucket in tried)
    for _ in range(200):  # searches that try some lengths in some order, until the budget is gone
        spent, took = 0, 0.0
        for length in draw.sample(range(first, last + 1), draw.randint(1, last + 1 - first)):
            for _ in range(draw.randint(1, per_length)):
                if spent < budget:
                    spent += length
                    took += seconds[bucket_of(length)]
        assert took <= bound + max(seconds.values())  # the last step may pass the budget


def test_a_padded_length_stays_within_the_context(folders, tmp_path):
    # OPT's positions are learned, past 64 there are none: 56 tokens beside 8 vectors fit, 64 would not
    every = sweep.grid(model=str(folders["opt"]), length=56, n_mem=8, search="fixed", source="random_tokens", n_texts=1)
    (found,) = estimate.estimate(every, tmp_path / "store")
    assert [one.shape.bucket for one in found.stages] == [56]


def test_lines_tell_cells_time_and_memory():
    stage = plan.Stage(
        shape=Shape(2, 96, 20), n_cells=50, steps=5000, step_seconds=0.25, n_bytes=1_500_000_000,
        expected_seconds=590.0, recipe="paper:300", search="grow",
    )  # fmt: skip
    found = plan.Estimate(
        model="some/model", n_cells=60, n_there=10, device="cuda", total_bytes=80_000_000_000, stages=(stage,),
        beside_seconds=10.0, n_courses=1234, disk_bytes=2_500_000,
    )  # fmt: skip
    assert found.seconds == 3 * 5000 * 0.25
    told = plan.lines(found)
    assert told[0] == "some/model: 60 cells, 10 already there"
    assert told[2].split() == ["2", "96", "50", "20", "5000", "0.25", "1.5", "paper:300,", "grow"]
    assert "about 10.0 minutes on this cuda (as 1,234 cells before), at most 62.7 minutes" in told[4]
    assert "1.5 of 80 GB of memory, 2.5 MB on disk" in told[4]
    both = [found, replace(found, model="other", stages=())]
    assert plan.in_all(both, workers=[1, 50]) == (
        "in all 50 cells, 2.5 MB on disk; about 10.0 minutes with 1, 12.0 seconds with 50 such workers"
    )
    assert plan.in_all(both[1:]) == "nothing is missing"


def test_time_is_expected_by_the_steps_that_such_cells_took(folders, tmp_path, monkeypatch):
    rows = sweep.run(grid(folders, length=[5, 20], n_texts=3), tmp_path / "store", progress=False)
    monkeypatch.setattr(estimate, "step_seconds", lambda frozen, cell, shape: 0.5 * shape.slots)
    monkeypatch.setattr(estimate, "narrowed", lambda frozen, recipe, n, shape, compile: replace(shape, slots=n))
    monkeypatch.setattr(estimate, "scoring_seconds", lambda frozen, cells, courses: 7.0)
    (found,) = estimate.estimate(grid(folders, length=[5, 20], n_texts=3, text_seed=1), tmp_path / "store")
    assert found.n_courses == 3
    # All three are under way at once, and a step takes half a second for each that still is.
    assert sum(one.expected_seconds for one in found.stages) == pytest.approx(0.5 * rows["steps"].sum())
    assert found.beside_seconds > 7.0  # the model is loaded, too


def test_the_closest_rows_are_taken_as_far_as_length_and_budget_go():
    def before(key, lengths, *, model="a", source="embedded", n_mem=1):
        return pl.DataFrame([
            {"key": key, "probe": probe, "model": model, "source": source, "recipe": "default", "search": "grow",
             "n_mem": n_mem, "scored_from": 0, "length": length, "steps": 10, "status": "solved"}
            for probe, length in enumerate(lengths)
        ])  # fmt: skip

    def found(**settings):
        (what,) = sweep.grid(n_texts=1, **{"model": "a", "source": "embedded", "length": 30} | settings)
        return [(dict(one.steps), one.n_probes) for one in taken.courses(what, rows, bucket_of)]

    rows = pl.concat([
        before("1", [1, 9, 10]), before("2", [20], source="random_words"), before("3", [30], model="b"),
        before("4", [4], n_mem=2),
    ])  # fmt: skip
    assert found() == [({8: 10, 12: 20}, 3)]
    assert found(length=9) == [({8: 10, 12: 10}, 2)]
    assert found(budget=100) == [({8: 10, 12: 10}, 2)]  # 10 + 90 token-steps, and no more
    assert found(source="random_words") == [({24: 10}, 1)]
    assert sorted(one[1] for one in found(source="random_tokens")) == [1, 3]  # of the same model
    assert len(found(model="c")) == 3  # of any
    ended = pl.when(pl.col("length") == 10).then(pl.lit("budget")).otherwise("status").alias("status")
    rows = rows.with_columns(ended)  # 200 token-steps were all it had
    assert found(budget=600) == [({8: 10, 12: 20 + 20}, 3)]  # half of the 400 that are left, at 10 tokens
    assert found(budget=200) == [({8: 10, 12: 20}, 3)]
    assert found(n_mem=3) == found(recipe="paper") == found(search="bracket") == []


def test_examples_in_the_docstrings_hold():
    assert [doctest.testmod(module)[:2] for module in (estimate, taken)] == [(0, 1), (0, 1)]


def test_what_a_dry_run_expected_is_said_beside_what_was_taken(tmp_path):
    shape = Shape(n_mem=1, bucket=8, slots=2)
    stage = plan.Stage(shape=shape, n_cells=4, steps=10, step_seconds=1.0, n_bytes=2 * 10**9, expected_seconds=12.0)
    one = plan.Estimate(
        model="m", n_cells=5, n_there=1, device="cpu", total_bytes=4 * 10**9, stages=(stage,), beside_seconds=4.0
    )
    expected.keep(tmp_path, ["b", "a"], [one])
    kept = expected.load(tmp_path, ["a", "b"])
    assert kept == expected.Expected(n_cells=4, seconds=16.0, n_bytes=2 * 10**9)
    assert expected.beside(kept, n_new=4, seconds=30.0, n_bytes=10**9) == (
        "took 30.0 seconds, 16.0 seconds were expected; 1.00 GB of memory, 2.00 expected"
    )
    assert expected.beside(kept, n_new=3, seconds=30.0, n_bytes=1) == ""  # other cells than were expected
    assert expected.load(tmp_path, ["a"]) is None


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "[" * 5000, '{"n_cells": 1, "seconds": -5, "n_bytes": 1}', "\x00",
     '{"n_cells": 1, "seconds": 5, "n_bytes": "x"}',
     '{"n_cells": 1.5, "seconds": 1e400, "n_bytes": 1}'],
)  # fmt: skip
def test_what_was_expected_and_cannot_be_read_is_none(tmp_path, content):
    expected.keep(tmp_path, ["a"], [])
    (path,) = (tmp_path / "expected").iterdir()
    path.write_text(content)
    assert expected.load(tmp_path, ["a"]) is None


def test_a_store_that_takes_no_file_hinders_no_dry_run(tmp_path):
    (tmp_path / "store").write_text("")
    expected.keep(tmp_path / "store", ["a"], [])
    assert (tmp_path / "store").read_text() == ""
    assert expected.load(tmp_path / "store", ["a"]) is None
