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

from capacity import ladder, models, pretraining, report, resources, scaling

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


@pytest.mark.slow
def test_what_was_trained_is_measured_by_name_and_read_elsewhere(mini, corpus, tmp_path, monkeypatch):
    made = ladder.read(mini)
    made = replace(made, rungs=(*made.rungs[:2], replace(made.rungs[2], rate=1.0, checkpoints=())))
    found = ladder.train(made, corpus=corpus, held_out=corpus)
    ladder.write(made, tmp_path / "ladder.csv")
    assert ladder.table(tmp_path / "ladder.csv").equals(found)
    assert found["width"].to_list() == [16, 24, 32, 16]
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
    done = ladder.measure(found["model"], tmp_path / "store", **settings)
    assert (done.n_new, done.n_there, done.n_missing) == (16, 0, 0)
    assert set(done.rows["model"]) == set(found["model"])
    assert {"ladder:w16-d1-s0", "ladder:w16-d1-s1"} < set(found["model"])
    with_models = page(found, done.rows, tmp_path, missing="measure")
    shutil.rmtree(models.trained() / "w16-d1-s0")
    again = ladder.measure(found["model"], tmp_path / "store", **settings)
    assert again.rows.equals(done.rows)
    assert (again.n_new, again.n_there, again.n_missing) == (0, 16, 0)
    lacking = ladder.measure(["ladder:w99-d1-s0"], tmp_path / "store", **settings)
    assert (lacking.n_missing, lacking.rows.height) == (4, 0)
    for name in ("ladder:w16-d1-s0", "ladder:../w24-d1-s0"):
        with pytest.raises(models.ModelError, match="is not in"):
            models.locate(name)
    assert ladder.table().height == ladder.curve_table().height == 0
    shutil.rmtree(models.trained())
    assert page(found, done.rows, tmp_path, missing="skip") == with_models


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
    by_width, widths, lengths = {}, found["width"].to_list(), [np.log(held[name]) for name in found["model"]]
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
    assert len(verdicts) == 4  # width, depth, training, bits a dimension
    assert f"width^{np.polyfit(np.log(widths), lengths, 1)[0]:.2f} (" in text  # over trainings
    tables = [data["text/html"] for data in shown if "held_out_nats" in str(data.get("text/html"))]
    assert len(tables) == 1
    return tables


def facts_of(**columns):
    """Facts of models that differ in the columns given, each with what it holds."""
    n = len(next(iter(columns.values())))
    rest = {
        "width": [64] * n, "depth": [4] * n, "heads": [1] * n, "parameters": [1000] * n, "seed": [0] * n,
        "rate": [1.0] * n, "tokens": [100] * n, "planned": [100] * n, "held_out": [False] * n,
        "held_out_nats": [2.0] * n, "tokens_held": [2.0] * n, "bits": [3.0] * n,
        "longest": [5.0] * n, "gain": [7.0] * n,
    }  # fmt: skip
    return pl.DataFrame({"model": [f"m{i}" for i in range(n)]} | rest | columns)


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
    assert ladder.along(held[:2], "width").is_empty()
    assert ladder.beyond(held, pl.DataFrame()).rows() == [
        ("width 192, depth 4, 1 trainings", 192, 1000, *map(pytest.approx, [2.0, 5.0, 3.0, 7.0]))
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
        "model": ["m0", "m0", "m2"], "tokens": [3, 6, 4], "kind": ["limit", "search-limited", "limit"]
    })  # fmt: skip
    gain = pl.DataFrame({"model": ["m0"], "value": [2.5]})
    nothing = pl.DataFrame(schema={"source": pl.String})
    held = ladder.held(facts, nothing, ends=ends, gain=gain)
    assert held.columns == [*ladder.FACTS, *ladder.HELD]
    assert held.select("model", "longest", "limits", "gain", "tokens_held", "bits").rows() == [
        ("m0", 4.5, 0.5, 2.5, None, None), ("m2", 4.0, 1.0, None, None, None)
    ]  # fmt: skip
    assert ladder.held(facts, nothing).height == 0
    found = ladder.trends(held)
    assert {axis: list(by_measure) for axis, by_measure in found.items()} == {"width": ["longest"]}
    assert found["width"]["longest"].means.exponent == pytest.approx(np.log(4 / 4.5) / np.log(4))
    drawn = ladder.drawn(held, "width", found["width"])
    assert drawn["points"].select("x", "y").rows() == [(32, 4.5), (128, 4.0)]
    assert drawn["lines"]["y"].to_list() == pytest.approx([4.5, 4.0])


def test_a_trend_is_judged_by_trainings_and_seeds():
    up = scaling.trend([1, 1, 2, 2, 4, 4], [2.0, 2.1, 3.0, 3.1, 4.4, 4.5])
    unclear, down = (scaling.trend([1, 1, 2, 2], y) for y in ([2.0, 4.0, 4.0, 2.1], [4.0, 4.1, 2.0, 2.1]))
    grows = ladder.verdict("width", {"tokens_held": up})
    assert grows.outcome == "holds"
    assert "over 6 trainings" in grows.number
    assert ladder.verdict("width", {"tokens_held": up, "gain": up}).outcome == "holds"
    for other in (unclear, down):
        both = ladder.verdict("width", {"tokens_held": up, "gain": other})
        assert both.outcome == "cannot tell"
        assert both.number.count("trainings") == 2
    assert ladder.verdict("depth", {"bits": unclear}).outcome == "cannot tell"
    assert ladder.verdict("depth", {"bits": down}).outcome == "does not hold"
    assert ladder.verdict("tokens", {}).outcome == "cannot tell"
