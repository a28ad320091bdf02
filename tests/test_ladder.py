"""The ladder as a file, trained by processes that are killed, measured, and the facts that travel."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from capacity import ladder, models, pretraining, report, resources, scaling, store, sweep

MINI = """
tokens = 20_000
warmup = 0.2
vocabulary = "llama-64"
[schedule]
begin = true
lengths = [128, 512]
weights = [0.8, 0.2]
"""
RUNG = """
[[rungs]]
width = {width}
depth = 1
heads = 1
inner = 32
seeds = {seeds}
"""


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """A ladder of widths 16, 24, 32, and where its models lie."""
    monkeypatch.setenv("CAPACITY_HOME", str(tmp_path / "home"))
    path = tmp_path / "mini.toml"
    rungs = [RUNG.format(width=width, seeds=[0, 1] if width == 16 else [0]) for width in (16, 24, 32)]
    path.write_text(MINI + "".join(rungs) + "checkpoints = [0.5]\nrate = 0.5\n")
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "texts.parquet"
    passages = [file.read_text() for file in sorted((resources.data() / "texts").glob("*.txt"))]
    pl.DataFrame({"text": passages}).write_parquet(path)
    return str(path)


def steps_in(state):
    return len(load_file(state)["losses"]) if state.is_file() else 0


def test_the_project_s_ladder_is_trained_seed_by_seed():
    own = ladder.read()
    trainings = own.trainings()
    seeds = [one.seed for one in trainings]
    assert seeds == sorted(seeds)
    main = {(one.rung.width, one.rung.depth, one.seed) for one in trainings if one.rung.rate == 1}
    assert main == {
        (width, depth, seed) for width, depth in [(32, 4), (64, 4), (128, 4), (64, 1), (64, 2), (64, 8), (192, 4)]
        for seed in range(2 if width == 192 else 3)
    }  # fmt: skip
    assert {(one.rung.width, one.rung.rate) for one in trainings if one.rung.rate != 1} == {
        (32, 0.5), (32, 2.0), (128, 0.5), (128, 2.0)
    }  # fmt: skip
    assert all(one.schedule.seed == one.schedule.order_seed == one.seed for one in trainings)
    assert all(one.schedule.tokens == 5_000_000 and one.schedule.begin for one in trainings)
    assert {one.schedule.peak / one.rung.rate for one in trainings} == {pretraining.Schedule(tokens=1).peak}
    (wide,) = [one for one in trainings if one.name == "w128-d4-s1"]
    assert wide.checkpoints == {"w128-d4-s1-at0.2": 1_000_000, "w128-d4-s1-at0.4": 2_000_000}
    for one in own.trainings(1_000_000):
        assert one.schedule.tokens == 1_000_000
        assert 0.06 <= one.schedule.warmup / one.schedule.steps < 0.062


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("wide = 3", "unknown wide; known are checkpoints, depth"),
        ("[[rungs]]\nwidth = 3", "missing"),
        (RUNG.format(width=16, seeds=[0]) * 2, "w16-d1-s0 are listed twice"),
        (RUNG.format(width=16, seeds=[]), "no seed, or a rate"),
        ("rate = 0.0", "no seed, or a rate"),
        ("checkpoints = [0.5, 1.0]", r"checkpoints at \[1.0\] of the tokens; give shares above 0 and below 1"),
    ],
)
def test_a_wrong_ladder_is_refused(line, message, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(MINI + RUNG.format(width=8, seeds=[0]) + line)
    with pytest.raises(ValueError, match=message):
        ladder.read(path)


@pytest.mark.slow
def test_a_killed_training_goes_on_with_the_same_bits(mini, corpus, tmp_path):
    only = replace(ladder.read(mini), rungs=ladder.read(mini).rungs[-1:])
    code = f"""
from dataclasses import replace
from capacity import ladder, pretraining
import time
real = pretraining.train
def train(*given, watch, **options):
    def slowly(step, loss, model):
        watch(step, loss, model)
        time.sleep(0.3)
    return real(*given, watch=slowly, keep_seconds=0.0, **options)
pretraining.train = train
one = ladder.read({str(mini)!r})
ladder.train(replace(one, rungs=one.rungs[-1:]), corpus={corpus!r}, held_out={corpus!r})
"""
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    state = models.trained() / ".w32-d1-lr0.5-s0.safetensors"
    checkpoint = models.trained() / "w32-d1-lr0.5-s0-at0.5" / "training.json"
    waited = time.monotonic()
    while (n_made := steps_in(state)) < 7 and time.monotonic() - waited < 60:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert 7 <= n_made < 10
    assert not (models.trained() / "w32-d1-lr0.5-s0").exists()
    saved = checkpoint.stat().st_mtime_ns
    made = ladder.train(only, corpus=corpus, held_out=corpus)
    assert checkpoint.stat().st_mtime_ns == saved  # of steps that were made before
    assert not state.exists()
    whole = ladder.train(only, corpus=corpus, held_out=corpus, out=tmp_path / "whole")
    assert made.equals(whole)
    assert whole["tokens"].to_list() == [10_240, 20_480]
    for name in whole["model"].str.strip_prefix(models.TRAINED):
        one, other = (load_file(place / name / "model.safetensors") for place in (models.trained(), tmp_path / "whole"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_training_is_done_once_and_by_one_process(mini, corpus):
    two = replace(ladder.read(mini), rungs=ladder.read(mini).rungs[:1])
    models.trained().mkdir(parents=True)
    with FileLock(models.trained() / ".w16-d1-s1.lock"):  # another process is at it
        assert ladder.train(two, corpus=corpus, held_out=corpus)["seed"].to_list() == [0]
    record = models.trained() / "w16-d1-s0" / "training.json"
    was = record.stat().st_mtime_ns
    found = ladder.train(two, corpus=corpus, held_out=corpus)
    assert found["seed"].to_list() == [0, 1]
    assert found["held_out_nats"].n_unique() == 2  # seeds differ
    assert record.stat().st_mtime_ns == was
    with pytest.raises(ValueError, match="was trained by another schedule"):
        ladder.train(two, corpus=corpus, held_out=corpus, tokens=30_000)
    wider = replace(two, rungs=(replace(two.rungs[0], inner=48),))
    with pytest.raises(ValueError, match=r"was trained by another shape.*'inner': 32"):
        ladder.train(wider, corpus=corpus, held_out=corpus)


@pytest.mark.slow
def test_what_was_trained_is_measured_by_name_and_read_elsewhere(mini, corpus, tmp_path, monkeypatch):
    made = ladder.read(mini)
    made = replace(made, rungs=(*made.rungs[:2], replace(made.rungs[2], rate=1.0, checkpoints=())))
    found = ladder.train(made, corpus=corpus, held_out=corpus)
    ladder.write(made, tmp_path / "ladder.csv")
    assert ladder.table(tmp_path / "ladder.csv").equals(found)
    assert found["width"].to_list() == [16, 24, 32, 16]
    assert found["revision"][1] == models.load("ladder:w24-d1-s0").revision
    record = json.loads((models.trained() / "w24-d1-s0" / "training.json").read_text())
    assert found["held_out_nats"][1] == record["held_out_nats_per_token"]
    learned = ladder.curve_table(tmp_path / "ladder.csv")
    assert learned["model"].unique(maintain_order=True).to_list() == found["model"].to_list()
    own = pl.read_csv(models.trained() / "w24-d1-s0" / pretraining.CURVE)
    assert own["tokens"].to_list() == [2048 * (step + 1) for step in range(10)]
    of_two = ladder.curves(replace(made, rungs=made.rungs[1:2]), points=2)
    assert of_two["step"].to_list() == [4, 9]
    assert of_two["tokens"].to_list() == [10_240, 20_480]
    assert of_two["loss_nats"].to_list() == pytest.approx(
        [own["loss_nats"][:5].mean(), own["loss_nats"][5:].mean()], abs=1e-4
    )
    settings = {"source": ["embedded", "random_tokens"], "n_texts": 2, "length": 4, "search": "grow", "budget": 200}
    monkeypatch.setenv("CAPACITY_MEASURED", str(tmp_path / "measured" / "rows"))
    done = ladder.measure(found, tmp_path / "store", **settings)
    assert (done.n_new, done.n_there, done.n_missing) == (16, 0, 0)
    assert set(done.rows["model"]) == set(found["model"])
    assert {"ladder:w16-d1-s0", "ladder:w16-d1-s1"} < set(found["model"])
    with_models = page(found, done.rows, tmp_path, missing="measure")
    shutil.rmtree(models.trained() / "w16-d1-s0")
    again = ladder.measure(found, tmp_path / "store", **settings)
    assert again.rows.equals(done.rows)
    assert (again.n_new, again.n_there, again.n_missing) == (0, 16, 0)
    another = found.filter(model="ladder:w16-d1-s0").with_columns(revision=pl.lit("0" * 16))  # whose rows are not there
    assert ladder.measure(another, tmp_path / "store", **settings).n_missing == 4
    with pytest.raises(ValueError, match=r"ladder:w24-d1-s0 in .* is another training than that of the facts"):
        ladder.measure(found.with_columns(revision=pl.lit("0" * 16)), tmp_path / "store", **settings)
    lacking = ladder.measure(found[:1].with_columns(model=pl.lit("ladder:w99-d1-s0")), tmp_path / "store", **settings)
    assert (lacking.n_missing, lacking.rows.height) == (4, 0)
    for name in ("ladder:w16-d1-s0", "ladder:../w24-d1-s0"):
        with pytest.raises(models.ModelError, match="is not in"):
            models.locate(name)
    assert ladder.table().height == ladder.curve_table().height == 0
    shutil.rmtree(models.trained())
    assert page(found, done.rows, tmp_path, missing="skip") == with_models


def test_90_trains_a_ladder(mini, corpus, tmp_path):
    given = {
        "corpus": corpus,
        "held_out": corpus,
        "ladder_file": str(mini),
        "tokens": 6000,
        "out": str(tmp_path / "out"),
    }
    path = report.execute(resources.notebooks() / "90_pretrain.py", given, out=tmp_path / "pages")
    trained = ladder.facts(ladder.read(mini), tmp_path / "out")
    assert trained["tokens"].to_list() == [6144, 6144, 4096, 6144, 6144]  # the third stands half way
    assert "`w32-d1-lr0.5-s0`" in path.read_text()
    report.execute(resources.notebooks() / "90_pretrain.py", given, out=tmp_path / "pages")
    assert ladder.facts(ladder.read(mini), tmp_path / "out").equals(trained)


def page(found, rows, folder, *, missing):
    """Execute 06, make its numbers again, and return what it shows of the ladder's models."""
    given = {
        "models": [], "n_texts": 2, "longest": 4, "budget": 200, "limit_budget": 300, "fixed": 6, "n_other": 10,
        "ladder_facts": str(folder / "ladder.csv"), "store": str(folder / "store"), "missing": missing,
    }  # fmt: skip
    path = report.execute(resources.notebooks() / "06_scaling_laws.py", given, out=folder / "pages")
    text = path.read_text()
    assert str(folder) not in text.replace(str(folder / "ladder.csv"), "").replace(str(folder / "store"), "")
    natural = rows.filter(source="embedded").group_by("model", "text_index").agg(pl.col("decoded_tokens").max())
    held = dict(natural.group_by("model").agg(pl.col("decoded_tokens").mean()).iter_rows())
    by_width = {}
    for name, width in found.select("model", "width").iter_rows():
        by_width.setdefault(width, []).append(np.log(held[name]))
    means = [np.mean(values) for values in by_width.values()]
    slope = np.polyfit(np.log(list(by_width)), means, 1)[0]
    charts = [
        output["data"]["application/vnd.capacity.vegalite+json"] for cell in json.loads(text)["cells"]
        for output in cell.get("outputs", []) if "application/vnd.capacity.vegalite+json" in output.get("data", {})
    ]  # fmt: skip
    rows = [row for rows in charts[1]["datasets"].values() for row in rows]  # the first: how they learned
    line = {row["x"]: row["y"] for row in rows if "law" in row and row["of"] == ladder.MEASURES["tokens_held"]}
    drawn = (np.log(line[32]) - np.log(line[16])) / np.log(2)
    assert drawn == pytest.approx(slope, abs=1e-6)
    shown = [o["data"] for cell in json.loads(text)["cells"] for o in cell.get("outputs", []) if "data" in o]
    verdicts = ["".join(data["text/markdown"]) for data in shown if "**Verdict: " in str(data.get("text/markdown"))]
    claims = ["grows with width", "grows with depth", "grows with more training", "bits a dimension are constant"]
    assert len(verdicts) == len(claims)
    assert all(claim in said for claim, said in zip(claims, verdicts, strict=True))
    assert f"width^{slope:.2f} (" in verdicts[0]
    readings = ["".join(data["text/markdown"]) for data in shown if "**Reading.**" in str(data.get("text/markdown"))]
    (reading,) = readings  # nothing was held out, so that nothing is foretold
    assert "14 published models" in reading
    assert "cells measured now" in text
    tables = [data["text/html"] for data in shown if "held_out_nats" in str(data.get("text/html"))]
    assert len(tables) == 2  # all models, and learning rates
    return tables


def facts_of(**columns):
    """Facts of models that differ in the columns given, each with what it holds."""
    n = len(next(iter(columns.values())))
    rest = {
        "width": [64] * n, "depth": [4] * n, "heads": [1] * n, "parameters": [1000] * n, "seed": [0] * n,
        "rate": [1.0] * n, "tokens": [100] * n, "planned": [100] * n, "held_out": [False] * n,
        "held_out_nats": [2.0] * n, "revision": [None] * n, "tokens_held": [2.0] * n, "bits": [3.0] * n,
        "longest": [5.0] * n, "gain": [7.0] * n,
    }  # fmt: skip
    return pl.DataFrame({"model": [f"m{i}" for i in range(n)]} | rest | columns)


def test_facts_that_cannot_be_are_refused(tmp_path):
    path = tmp_path / "own.csv"
    facts = facts_of(width=[32, 64]).select(*ladder.FACTS)
    for wrong, message in (
        (facts.drop("rate", "seed"), "has no column seed, rate"),
        (pl.concat([facts, facts[1:]]), "lists m1 twice"),
        (facts.with_columns(width=pl.Series([32, 0])), "m1 has a width, depth"),
    ):
        wrong.write_csv(path)
        with pytest.raises(ValueError, match=message):
            ladder.table(path)
    facts.drop("revision").write_csv(path)
    assert ladder.table(path).equals(facts)


def test_models_are_compared_along_one_axis_alone():
    held = facts_of(
        width=[64, 64, 128, 64, 192, 128, 128],
        depth=[4, 4, 4, 8, 4, 4, 4],
        seed=[0, 1, 0, 0, 0, 0, 0],
        rate=[1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0],
        tokens=[100, 100, 100, 100, 100, 100, 40],
        held_out=[False, False, False, False, True, False, False],
    )
    assert ladder.along(held, "width")["model"].to_list() == ["m0", "m1", "m2"]
    assert ladder.along(held, "depth")["model"].to_list() == ["m0", "m1", "m3"]
    assert ladder.along(held, "tokens")["model"].to_list() == ["m6", "m2"]
    assert ladder.along(held, "rate")["model"].to_list() == ["m2", "m5"]
    assert ladder.along(held, "width", held_out=True)["model"].to_list() == ["m0", "m1", "m2", "m4"]
    assert ladder.along(held[:2], "width").is_empty()
    assert ladder.beyond(held, pl.DataFrame()).rows() == [
        ("width 192, depth 4 (trained 1 times)", 192, 1000, *map(pytest.approx, [2.0, 5.0, 3.0, 7.0]))
    ]


def test_means_are_of_the_logarithm_and_laws_foretell_rungs():
    held = facts_of(
        width=[32, 32, 64, 128], parameters=[1, 1, 4, 16], tokens_held=[1.0, 4.0, 4.0, 8.0], bits=[1.0, 1.0, 2.0, 4.0]
    )
    means = ladder.means(held, "tokens_held")
    assert means["tokens_held"].to_list() == pytest.approx([2, 4, 8])
    assert means["n"].to_list() == [2, 1, 1]
    laws = {"tokens_held": scaling.named(means["width"], means["parameters"], means["tokens_held"])}
    beyond = pl.DataFrame({"rung": ["wide"], "width": [256], "parameters": [64], "tokens_held": [16.0], "bits": [None]})
    found = ladder.foretold(laws, beyond)
    assert found["foretold"].to_list() == pytest.approx([16, 16, 16])
    assert found["of"].unique().to_list() == ["tokens_held"]


def test_what_models_hold_is_put_beside_their_facts():
    facts = facts_of(width=[32, 64, 128]).select(*ladder.FACTS)
    ends = pl.DataFrame({
        "model": ["m0", "m0", "m1", "m2", "m2"], "tokens": [3, 6, 9, 4, 4],
        "kind": ["limit", "search-limited", "limit", "limit", "limit"],
    })  # fmt: skip
    gain = pl.DataFrame({"model": ["m0"], "value": [2.5], "n": [2]})
    nothing = pl.DataFrame(schema={"source": pl.String})
    held = ladder.held(facts, nothing, ends=ends, gain=gain)
    assert held.columns == [*ladder.FACTS, *ladder.HELD]
    assert held.select("model", "longest", "limits", "gain", "tokens_held", "bits").rows() == [
        ("m0", 4.5, 0.5, 2.5, None, None), ("m2", 4.0, 1.0, None, None, None)  # of m1 a text is missing
    ]  # fmt: skip
    assert ladder.held(facts, nothing).height == 0
    found = ladder.trends(held)
    assert {axis: list(by_measure) for axis, by_measure in found.items()} == {"width": ["longest"]}
    assert found["width"]["longest"].means.exponent == pytest.approx(np.log(4 / 4.5) / np.log(4))
    drawn = ladder.drawn(held, "width", found["width"])
    assert drawn["points"].select("x", "y").rows() == [(32, 4.5), (128, 4.0)]
    assert drawn["lines"]["y"].to_list() == pytest.approx([4.5, 4.0])


def test_bits_of_random_tokens_are_lengths_times_the_bits_of_one():
    facts = ladder.table().filter(pl.col("model").is_in(["ladder:w32-d4-s0", "ladder:w64-d4-s0"]))
    searched = pl.col("search") == "grow", pl.col("source") == "random_tokens"
    rows = store.read([sweep.measured()]).filter(*searched, pl.col("model").is_in(facts["model"].implode()))
    held = ladder.held(facts, rows)
    assert held.height == 2
    for name, bits, certified in held.select("model", "bits", "certified").iter_rows():
        longest = rows.filter(model=name).group_by("text_id").agg(pl.col("decoded_tokens").max())["decoded_tokens"]
        assert longest.len() == 16
        assert bits == pytest.approx(longest.mean() * np.log2(511), rel=0.02)  # a start that is held untold counts less
        assert bits - certified == pytest.approx(np.log2(41))


def test_a_rung_with_a_training_that_holds_nothing_has_no_place_in_a_law():
    held = facts_of(width=[32, 32, 64, 128], tokens_held=[0.0, 3.0, 4.0, 8.0], gain=[None, 2.0, 4.0, 8.0])
    assert ladder.means(held, "tokens_held")["tokens_held"].to_list() == pytest.approx([4, 8])
    assert ladder.means(held, "gain")["gain"].to_list() == pytest.approx([2, 4, 8])
    found = ladder.trends(held)["width"]
    assert found["tokens_held"].means.n == 2
    assert found["gain"].means.n == 3


def test_exponents_at_other_learning_rates_are_those_between_the_ends():
    held = facts_of(
        width=[32, 128] * 3, rate=[0.5, 0.5, 1.0, 1.0, 2.0, 2.0], tokens_held=[1.0, 4.0, 2.0, 4.0, 2.0, 2.0]
    )  # fmt: skip
    found = ladder.by_rate(held)
    assert found["rate"].to_list() == [0.5, 1, 2]
    assert found["tokens_held"].to_list() == pytest.approx([1, 0.5, 0])
    number = ladder.verdict("width", ladder.trends(held)["width"], found).number
    assert (
        "width^0.50 (no interval over 2 rung means; 0.00 to 1.00 between the two widths at other learning rates)"
        in number
    )
    assert ladder.by_rate(held.clear()).height == 0


def test_laws_are_told_apart_by_what_they_foretell():
    width = [32, 64, 128, 256]
    held = facts_of(width=width, parameters=width, bits=[8.0, 12.1, 16.2, 22.0], gain=[4.1, 8.0, 16.1, 31.9])
    means = {y: ladder.means(held, y) for y in ("bits", "gain")}
    laws = {y: scaling.named(own["width"], own["parameters"], own[y]) for y, own in means.items()}
    rung = pl.DataFrame({"rung": ["wide"], "width": [512], "parameters": [9], "bits": [12.0], "gain": [64.0]})
    told = ladder.foretold({y: {"a · d_model": named["a · d_model"]} for y, named in laws.items()}, rung)
    said = ladder.missed(told)
    assert said.startswith("1 of 2 foretold numbers are missed: a · d_model foretold ")
    assert "for wide, which has 12.0" in said
    assert "standard errors less (bits of random tokens" in said
    trends = ladder.trends(held)["width"]
    verdict = ladder.constant(trends, told)
    assert verdict.outcome == "cannot tell"  # bits are not, the gain may be
    assert "d_model^0.48 (" in verdict.number
    assert ladder.constant({"bits": trends["bits"]}, told).outcome == "does not hold"
    assert ladder.constant({"bits": trends["bits"]}, told.clear()).outcome == "does not hold"  # by its exponent alone
    assert ladder.constant({"gain": trends["gain"]}, told).outcome == "cannot tell"
    assert ladder.constant({}, told).outcome == "cannot tell"
    table = ladder.law_table(laws)
    assert table.columns == ["of", "law", "b", "low", "high", "rungs", "spread (ln)", "left out (ln)"]
    assert table.filter(law="a · d_model")["low"].null_count() == 2
    assert ladder.law_table({}).height == 0
    assert ladder.missed(told.clear()) == "0 of 0 foretold numbers are missed"


def test_a_trend_is_judged_by_rungs_and_seeds():
    up = scaling.trend([1, 1, 2, 2, 4, 4], [2.0, 2.1, 3.0, 3.1, 4.4, 4.5])
    unclear = scaling.trend([1, 1, 2, 2, 4, 4], [2.0, 4.0, 4.0, 2.1, 3.0, 3.0])
    down = scaling.trend([1, 1, 2, 2, 4, 4], [4.4, 4.5, 3.0, 3.1, 2.0, 2.1])
    grows = ladder.verdict("width", {"tokens_held": up})
    assert grows.outcome == "holds"
    assert "over 3 rung means" in grows.number
    assert ladder.verdict("width", {"tokens_held": up, "gain": up}).outcome == "holds"
    for other in (unclear, down):
        both = ladder.verdict("width", {"tokens_held": up, "gain": other})
        assert both.outcome == "cannot tell"
        assert both.number.count("rung means") == 2
    assert ladder.verdict("depth", {"bits": unclear}).outcome == "cannot tell"
    assert ladder.verdict("depth", {"bits": down}).outcome == "does not hold"
    assert ladder.verdict("tokens", {}).outcome == "cannot tell"
    alone = ladder.verdict("width", {"bits": scaling.trend([1, 2], [1, 2])}).number
    assert "(no interval over 2 rung means)" in alone
    assert "seeds not trained twice" in alone
    assert "nan" not in alone
